"""The diagnosis of a weight merge."""

import json
from dataclasses import replace

import pytest
import torch

from tests.fusion.networks import CLASSES, calibration, mlp, outputs, parents, stirred
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import permuted, shuffled
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.diagnose import diagnose, path_between, sign_conflicts
from transfuse.fusion.types import Calibration, Parent


def clusters(rows=200):
    """Inputs around one centre per class, which a few steps of training tell apart."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(CLASSES, 1, 4, 4, generator=generator)
    labels = torch.arange(rows) % CLASSES
    return centres[labels] + 0.3 * torch.randn(rows, 1, 4, 4, generator=generator), labels


def trained(network, inputs, labels, steps=60, seed=0):
    """Plain gradient descent with momentum."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(network.parameters())
    speeds = [torch.zeros_like(parameter) for parameter in parameters]
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(inputs), (64,), generator=generator)
        loss = torch.nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
        with torch.no_grad():
            for parameter, speed, gradient in zip(parameters, speeds, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= 0.02 * speed.mul_(0.9).add_(gradient)
    return network.eval()


@pytest.fixture(scope="module")
def data():
    inputs, labels = clusters()
    return calibration(inputs, labels=labels, batch=50), inputs, labels


@pytest.fixture(scope="module")
def first(data):
    return trained(mlp(0), *data[1:])


def test_fine_tuned_from_one_network_they_can_be_merged(first, data):
    sources = parents(*(trained(stirred(first, 0, 0.0), *data[1:], steps=5, seed=seed) for seed in (1, 2)))
    found = diagnose(sources, data[0], first)
    assert found.verdict == "merge"
    assert found.mergeable
    assert "come from the same initial weights" in found.reason
    assert found.pairs[0].path.lost < 0.05
    base, tuned = first.state_dict(), sources[0].module.state_dict()
    way = sum(float((tuned[name] - base[name]).square().sum()) for name in base) ** 0.5
    assert found.distances["a"] == pytest.approx(way / sum(float(base[name].square().sum()) for name in base) ** 0.5, rel=1e-5)


def test_without_labels_the_verdict_rests_on_the_weights_and_says_so(data, first):
    silent = Calibration(data[0].batches)
    strangers = diagnose(parents(mlp(0, widths=[48, 48]), mlp(1, widths=[48, 48])), silent)
    assert strangers.verdict == "align"
    assert strangers.pairs[0].path is None
    assert "was not measured" in strangers.notes[0]
    relatives = diagnose(parents(first, stirred(first, 1, 0.01)), silent)
    assert relatives.verdict == "merge"
    assert "without labelled data nothing is known of the loss" in relatives.reason


def test_samples_without_a_label_do_not_water_the_loss_down(data, first):
    other = trained(mlp(9), data[1], data[2].flip(0))

    def half(outputs, labels):
        losses = data[0].loss(outputs, labels)
        return torch.where(torch.arange(len(losses)) % 2 == 0, losses, torch.nan)

    whole = path_between(first, other, data[0])
    some = path_between(first, other, replace(data[0], loss=half))
    assert some.halfway == pytest.approx(whole.halfway, rel=0.2)
    assert some.ignorant == pytest.approx(whole.ignorant)


def test_a_shuffled_copy_has_to_be_aligned(data):
    network = trained(mlp(0, widths=[48, 48]), *data[1:])
    specification = trace(network, data[1])
    other = stirred(network, 0, 0.0)
    other.load_state_dict(permuted(network.state_dict(), specification, shuffled(specification)))
    found = diagnose(parents(network, other), data[0])
    assert found.verdict == "align"
    assert found.reason.startswith(
        "these cannot be merged as they are, because 'a' and 'b' come from different initial weights and the loss rises"
    )
    assert found.pairs[0].aligned_path.lost == pytest.approx(0.0, abs=1e-4)
    assert found.pairs[0].path.variance_ratios["layers.0.linear"] < 0.9


def test_networks_that_no_order_of_units_brings_together_are_told_to_fuse_otherwise(first, data):
    other = trained(mlp(9), data[1], data[2].flip(0))
    found = diagnose(parents(first, other), data[0])
    assert found.verdict == "no"
    assert found.reason.endswith("use output or feature fusion.")
    assert "after weight matching" in found.reason


def test_copies_are_recognised(first, data):
    found = diagnose(parents(first, stirred(first, 0, 0.0)), data[0])
    assert (found.verdict, found.mergeable) == ("same", False)
    assert found.notes == ["'a' and 'b' are copies of the same network"]


def test_a_copy_among_others_is_noted_and_left_out_of_the_verdict(first, data):
    tuned = trained(stirred(first, 0, 0.0), *data[1:], steps=5, seed=1)
    found = diagnose(parents(first, stirred(first, 0, 0.0), tuned), data[0])
    assert found.verdict == "merge"
    assert "copies" in found.notes[0]


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "'linear.weight' of 'b' holds NaN"), (0.0, "'b' gives the same output")])
def test_broken_sources_are_named(first, data, value, reason):
    broken = stirred(first, 0, 0.0)
    broken.linear.weight.data.fill_(value)
    found = diagnose(parents(first, broken), data[0])
    assert found.verdict == "no"
    assert reason in found.reason
    assert "Leave such sources out" in found.reason


def test_outputs_that_are_no_numbers_are_named(first, data):
    broken = stirred(first, 0, 0.0)
    broken.register_forward_hook(lambda _m, _g, made: made / 0)
    assert "'b' gives NaN or infinite outputs" in diagnose(parents(first, broken), data[0]).reason


def test_other_shapes_are_shown_in_a_table(first, data):
    found = diagnose(parents(first, mlp(widths=[24])), data[0])
    assert found.verdict == "no"
    assert "missing" in found.reason
    assert ("layers.1.linear.weight", [(16, 24), None]) in found.mismatches


def test_other_widths_alone_are_for_optimal_transport(first, data):
    found = diagnose(parents(first, mlp(widths=[20, 16])), data[0])
    assert found.verdict == "align"
    assert "only `ot`" in found.reason


@pytest.mark.parametrize(("network", "verdict"), [(lambda first: stirred(first, 1, 0.1), "merge"), (lambda _: mlp(9), "align")])
def test_without_data_the_weights_alone_decide(first, network, verdict):
    assert diagnose(parents(first, network(first))).verdict == verdict


def test_one_source_is_refused(first):
    with pytest.raises(ModelError, match="two networks or more"):
        diagnose([Parent("a", first)])


def test_the_path_is_the_loss_of_every_point_of_the_line(first, data):
    other = trained(mlp(9), *data[1:])
    path = path_between(first, other, data[0], 200, 4)
    assert path.positions == (0.0, 0.25, 0.5, 0.75, 1.0)  # an odd number, so that the middle is among them
    middle = stirred(first, 0, 0.0)
    for t, loss in zip(path.positions, path.losses, strict=True):
        middle.load_state_dict({name: (1 - t) * tensor + t * other.state_dict()[name] for name, tensor in first.state_dict().items()})
        assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(outputs(middle, data[1]), data[2])), rel=1e-4)
    assert path.ignorant == pytest.approx(float(torch.tensor(float(CLASSES)).log()))
    heights = [loss - (1 - t) * path.losses[0] - t * path.losses[-1] for t, loss in zip(path.positions, path.losses, strict=True)]
    assert path.barrier == pytest.approx(max(heights))
    better = min(path.losses[0], path.losses[-1])
    assert path.lost == pytest.approx((path.losses[2] - better) / (path.ignorant - better))


def test_variance_ratios_are_those_of_the_layers_outputs(first, data):
    other = trained(mlp(9), *data[1:])
    path = path_between(first, other, data[0], 200)
    middle = stirred(first, 0, 0.0)
    middle.load_state_dict({name: (tensor + other.state_dict()[name]) / 2 for name, tensor in first.state_dict().items()})
    flat = data[1].flatten(1).double()
    known = [(flat @ network.layers[0].linear.weight.double().T).var(0, correction=0) for network in (first, other, middle)]
    assert path.variance_ratios["layers.0.linear"] == pytest.approx(
        float((known[2] / ((known[0] + known[1]) / 2)).mean().detach()), rel=1e-4
    )


def test_sign_conflicts_are_counted_among_the_largest_changes():
    base = {"w": torch.zeros(10), "n.running_mean": torch.ones(3)}
    one = {"w": torch.tensor([9.0, 8, 1, 1, 1, 1, 1, 1, 1, 1]), "n.running_mean": torch.ones(3)}
    other = {"w": torch.tensor([9.0, -8, -1, -1, -1, -1, -1, -1, -1, -1]), "n.running_mean": -torch.ones(3)}
    assert sign_conflicts(one, other, base) == 0.5
    assert sign_conflicts(one, other) == 0.9
    assert sign_conflicts(base, other) == 0.0


def test_figures_are_ready_for_json(first, data):
    found = diagnose(parents(first, stirred(first, 1, 0.1)), data[0], first)
    shown = json.loads(json.dumps(found.figures()))
    assert shown["pairs"][0]["same initial weights"] is True
    assert shown["pairs"][0]["path"]["lost halfway"] == pytest.approx(found.pairs[0].path.lost)
    assert set(shown["distances to base"]) == {"a", "b"}


def test_batchnorm_statistics_are_estimated_on_the_way(data):
    network = trained(mlp(0, batchnorm=True), *data[1:])
    other = trained(stirred(network, 0, 0.0), *data[1:], steps=5)
    with torch.no_grad():
        for norm in (network.layers[0].norm, other.layers[0].norm):
            norm.running_mean.add_(50 if norm is other.layers[0].norm else 0)
    path = path_between(network, other, data[0], 200)
    assert path.losses[2] < 0.5 < path.losses[-1]
