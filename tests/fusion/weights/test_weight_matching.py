"""Weight matching as a rule."""

import pytest
import torch

from tests.fusion.networks import built, calibration, mlp, outputs, parents, pictures, stirred
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import permuted, shuffled
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.types import Parent
from transfuse.fusion.weights.weight_matching import WeightMatching, weight_matching


def mixed_up(network, inputs, seed=3):
    specification = trace(network, inputs)
    other = stirred(network, 0, 0.0)
    other.load_state_dict(permuted(network.state_dict(), specification, shuffled(specification, seed)))
    return other


@pytest.mark.parametrize(("name", "options"), [("vgg8", {}), ("resnet8", {"shortcut": "A"}), ("mobilenetv1", {"width": 0.25})])
def test_a_network_and_its_permuted_copy_merge_to_that_network(name, options):
    inputs = pictures(2, (3, 32, 32))
    network = stirred(built(name, (3, 32, 32), options=options), 0)
    merged = WeightMatching(repair="none").merge(parents(network, mixed_up(network, inputs)), calibration(inputs))
    wanted = outputs(network, inputs)
    assert torch.allclose(outputs(merged.module, inputs), wanted, atol=1e-4 * float(wanted.abs().max()))
    assert merged.figures["share of units moved"]["b"] > 0.5


def test_three_networks_are_matched_with_the_first_by_their_weights():
    network, inputs = mlp(), pictures()
    near = [mixed_up(stirred(network, seed, 0.05), inputs, seed) for seed in (1, 2)]
    given = [Parent("a", network, 2.0), Parent("b", near[0], 1.0), Parent("c", near[1], 1.0)]
    merged = WeightMatching(repair="none").merge(given, calibration(inputs)).module.state_dict()
    wanted = {
        name: (2 * tensor + stirred(network, 1, 0.05).state_dict()[name] + stirred(network, 2, 0.05).state_dict()[name]) / 4
        for name, tensor in network.state_dict().items()
    }
    assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in wanted.items())


def test_the_function_on_states_says_the_same_as_the_class():
    one, other, inputs = mlp(0), mlp(1), pictures()
    made = weight_matching([one.state_dict(), other.state_dict()], trace(one, inputs))
    merged = WeightMatching(repair="none").merge(parents(one, other), calibration(inputs)).module.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in merged.items())


def test_a_network_without_units_to_reorder_is_refused():
    network = torch.nn.Linear(4, 3)
    with pytest.raises(ModelError, match="no units"):
        WeightMatching().merge(parents(network, torch.nn.Linear(4, 3)), calibration(torch.randn(4, 4)))
