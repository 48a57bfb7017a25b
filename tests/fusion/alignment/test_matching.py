"""Matching by linear assignment."""

import itertools

import pytest
import torch

from tests.fusion.networks import built, mlp, pictures, stirred
from transfuse.errors import ModelError
from transfuse.fusion.alignment.matching import assignment, correlations, match_activations, match_weights
from transfuse.fusion.alignment.permuting import permuted, shuffled
from transfuse.fusion.alignment.tracing import trace


def mixed(network, specification, seed=1):
    order = shuffled(specification, seed)
    other = stirred(network, 0, 0.0)
    other.load_state_dict(permuted(network.state_dict(), specification, order))
    return other, order


def same_as(network, other, specification, found):
    again = permuted(other.state_dict(), specification, found)
    return all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())


def test_assignment_finds_the_best_of_all_permutations():
    similarity = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = max(itertools.permutations(range(5)), key=lambda order: sum(float(similarity[i, j]) for i, j in enumerate(order)))
    assert assignment(similarity).tolist() == list(best)


@pytest.mark.parametrize("start", ["layers", "identity"])
def test_a_shuffled_mlp_is_put_back(start):
    network = mlp(batchnorm=True)
    specification = trace(network, pictures())
    other, order = mixed(network, specification)
    found = match_weights(network.state_dict(), other.state_dict(), specification, start=start)
    assert same_as(network, other, specification, found)
    assert {name: permutation.argsort().tolist() for name, permutation in order.items()} == {
        name: permutation.tolist() for name, permutation in found.items()
    }


@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}])
def test_a_shuffled_resnet_is_put_back_by_weights_and_by_activations(options):
    inputs = pictures(16, (3, 16, 16))
    network = stirred(built("resnet8", (3, 16, 16), options=options), 0)
    specification = trace(network, inputs)
    other, _ = mixed(network, specification)
    assert same_as(network, other, specification, match_weights(network.state_dict(), other.state_dict(), specification))
    if options["shortcut"] == "B":  # with padded shortcuts two halves of a group see the same inputs, so that activations alone may tie
        seen = correlations(network, other, specification, inputs.split(8))
        assert same_as(network, other, specification, match_activations(seen))


def test_the_scalar_product_never_falls_from_sweep_to_sweep():
    one, other = mlp(0), mlp(1)
    specification = trace(one, pictures())

    def product(sweeps):
        order = match_weights(one.state_dict(), other.state_dict(), specification, sweeps, start="identity")
        moved = permuted(other.state_dict(), specification, order)
        return sum(float((tensor.double() * moved[name].double()).sum()) for name, tensor in one.state_dict().items())

    values = [product(sweeps) for sweeps in (0, 1, 2, 5, 100)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_one_hidden_layer_is_matched_as_well_as_trying_all_orders_matches_it():
    one, other = mlp(0, widths=[5]), mlp(1, widths=[5])
    specification = trace(one, pictures())
    group = next(iter(specification.groups))

    def product(order):
        moved = permuted(other.state_dict(), specification, {group: torch.tensor(order)})
        return sum(float((tensor.double() * moved[name].double()).sum()) for name, tensor in one.state_dict().items())

    best = max(itertools.permutations(range(5)), key=product)
    assert match_weights(one.state_dict(), other.state_dict(), specification)[group].tolist() == list(best)


def test_correlations_are_pearson_s_over_all_batches():
    one, other, inputs = mlp(0), mlp(1), pictures(40)
    specification = trace(one, inputs)
    found = correlations(one, other, specification, inputs.split(16))
    with torch.no_grad():
        hidden = [network.layers[0](inputs.flatten(1)).double() for network in (one, other)]
    table = torch.corrcoef(torch.cat(hidden, 1).T).nan_to_num(0.0)
    assert torch.allclose(found.correlation("layers.0.linear.weight"), table[:24, 24:], atol=1e-5)
    assert torch.allclose(found.correlation("layers.0.linear.weight", (1, 1)), table[24:, 24:], atol=1e-5)


def test_a_unit_that_never_varies_correlates_with_none():
    network, inputs = mlp(), pictures(40)
    with torch.no_grad():
        network.layers[0].linear.weight[3] = 0
    found = correlations(network, network, trace(network, inputs), [inputs]).correlation("layers.0.linear.weight")
    assert bool(torch.isfinite(found).all())
    assert float(found[3].abs().max()) == 0.0


def test_no_inputs_are_refused():
    network = mlp()
    with pytest.raises(ModelError, match="no calibration inputs"):
        correlations(network, network, trace(network, pictures()), [])
