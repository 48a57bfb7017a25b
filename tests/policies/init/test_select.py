"""Selected neurons: the same ones wherever layers share them, with the variance of what layers compute."""

import pytest
import torch
from torch import nn

from transfuse.fusion.alignment.tracing import trace
from transfuse.policies.init.select import Select, chosen_units, norms_of_units, uniform_units

from .scenes import inputs, network, scene, trained_norms, widened

PAIRS = {
    # small, large: one network that hides in the other
    "mlp": (("builtin:mlp", {"widths": [6, 5]}), ("builtin:mlp", {"widths": [9, 8]})),
    "mlp with norms": (("builtin:mlp", {"widths": [6], "batchnorm": True}), ("builtin:mlp", {"widths": [9], "batchnorm": True})),
    "residual streams": (("builtin:resnet8", {"width": 0.25, "shortcut": "B"}), ("builtin:resnet8", {"width": 0.5, "shortcut": "B"})),
    "depthwise": (("builtin:mobilenetv2", {"width": 0.25}), ("builtin:mobilenetv2", {"width": 0.5})),
    "norm before": (("builtin:wrn_16_1", {"widths": [4, 8, 12, 16]}), ("builtin:wrn_16_1", {"widths": [6, 12, 20, 24]})),
    "plain convolutions": (("builtin:convnet", {"widths": [4, 6]}), ("builtin:convnet", {"widths": [8, 9]})),
}


# by activations only where units without weights say nothing, as those of a norm with a bias would
@pytest.mark.parametrize(
    ("pair", "by"), [*((pair, "norm") for pair in PAIRS), ("mlp", "activations"), ("plain convolutions", "activations")]
)
def test_a_network_that_hides_in_a_wider_one_is_found_again(pair, by):
    """The units that the wider one has beside it say nothing, and have no weights; one wrong unit in one layer would change the outputs."""
    (name, options), (wide, wider) = PAIRS[pair]
    small = trained_norms(network(name, **options))
    large = widened(small, trained_norms(network(wide, **wider)))
    target = network(name, seed=9, **options)
    moved = Select(by, scale="none")(large, target, scene(inputs()))
    assert moved.share == 1.0
    norms = {key: value for key, value in small.state_dict().items() if "running" in key}
    target.load_state_dict(norms, strict=False)  # which were estimated anew on the inputs
    with torch.no_grad():
        torch.testing.assert_close(target(inputs()), small(inputs()), rtol=1e-4, atol=1e-5)


def deviations(module, given, layers):
    found = {}
    with torch.no_grad():
        hooks = [
            module.get_submodule(path).register_forward_hook(
                lambda layer, _, made, path=path: found.__setitem__(path, made.movedim(1, -1).flatten(0, -2).std(0, correction=0))
            )
            for path in layers
        ]
        module(given)
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize(
    ("source", "target", "layers"),
    [
        (("builtin:mlp", {"widths": [40, 30]}), ("builtin:mlp", {"widths": [10, 8]}), ["layers.0.linear", "layers.1.linear", "linear"]),
        (("builtin:convnet", {"widths": [16, 24], "norm": "none"}), ("builtin:convnet", {"widths": [5, 7], "norm": "none"}), None),
    ],
)
def test_each_chosen_unit_varies_as_it_did_in_the_source(source, target, layers):
    large, small = network(source[0], **source[1]), network(target[0], seed=4, **target[1])
    layers = layers or [path for path, layer in large.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    given = inputs()
    groups = trace(large, given[:2]).groups
    Select("norm")(large, small, scene(given))
    before, after = deviations(large, given, layers), deviations(small, given, layers)
    for path in layers:
        name = f"{path}.weight"
        group = next((group for group in groups.values() if any(part.tensor == name and not part.consumes for part in group.parts)), None)
        chosen = slice(None) if group is None else chosen_units(norms_of_units(large, group), len(after[path]))
        torch.testing.assert_close(after[path], before[path][chosen], rtol=1e-3, atol=1e-5)


def test_the_scale_of_the_fan_in_keeps_the_variance_of_independent_inputs():
    torch.manual_seed(0)
    large = nn.Sequential(nn.Linear(4, 400, bias=False), nn.Linear(400, 300, bias=False))
    small = nn.Sequential(nn.Linear(4, 100, bias=False), nn.Linear(100, 300, bias=False))
    Select("uniform", scale="fan_in")(large, small, scene(inputs((4,))))
    chosen = uniform_units(100, 400)
    torch.testing.assert_close(small[0].weight, large[0].weight[chosen])
    torch.testing.assert_close(small[1].weight, 2.0 * large[1].weight[:, chosen])  # sqrt(400 / 100)
    white = torch.randn(4000, 400)
    kept = (white[:, chosen] @ small[1].weight.T).var() / (white @ large[1].weight.T).var()
    assert kept.item() == pytest.approx(1.0, abs=0.05)


def test_units_with_the_largest_activations_are_those_that_a_hook_sees():
    large, small, given = network("builtin:mlp", widths=[20]), network("builtin:mlp", seed=1, widths=[6]), inputs()
    Select("activations", scale="none")(large, small, scene(given))
    with torch.no_grad():
        said = large.layers[0](given.flatten(1)).square().mean(0)
    wanted = said.argsort(descending=True)[:6].sort().values
    assert torch.equal(small.layers[0].linear.weight, large.layers[0].linear.weight[wanted])
    assert torch.equal(small.linear.weight, large.linear.weight[:, wanted])


def test_uniform_units_are_evenly_spaced_and_scores_take_the_first_of_equals():
    assert uniform_units(4, 10).tolist() == [0, 3, 6, 9]
    assert chosen_units(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 2).tolist() == [1, 2]


def test_the_norm_of_a_unit_is_that_of_the_weights_that_make_it():
    large = network("builtin:mlp", widths=[7])
    group = next(iter(trace(large, inputs()[:2]).groups.values()))
    wanted = large.layers[0].linear.weight.detach().double().square().sum(1).sqrt()
    torch.testing.assert_close(norms_of_units(large, group), wanted)


def test_a_wider_network_keeps_its_fresh_weights_and_says_why():
    large, small = network("builtin:mlp", widths=[6]), network("builtin:mlp", seed=1, widths=[9])
    before = small.layers[0].linear.weight.detach().clone()
    moved = Select()(large, small, scene(inputs()))
    assert torch.equal(small.layers[0].linear.weight, before)
    assert {row.kind for row in moved.rows} == {"left", "copied"}  # the bias of the classes is the same in both
    assert "9 units, the source has 6" in moved.table()
