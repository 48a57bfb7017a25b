"""The last layer is found and replaced; fresh weights leave torch's generator alone."""

import pytest
import torch
from torch import nn

from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models.surgery import find_head, fresh_weights, outputs_of, replace_head


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("densenet121", "classifier"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_the_head_of_known_networks_is_found_and_replaced(name, head):
    with torch.device("meta"):
        module = import_torchvision().models.get_model(name, weights=None)
    found = find_head(module)
    assert found is not None
    assert found[0] == head
    assert outputs_of(replace_head(module, 7, seed=0)) == 7


def test_the_new_head_is_a_function_of_the_seed():
    first, second, other = (replace_head(nn.Sequential(nn.Linear(4, 3)), 2, seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_head_without_bias_stays_without():
    assert replace_head(nn.Sequential(nn.Linear(4, 3, bias=False)), 2, 0)[0].bias is None


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Linear(3, 2), nn.Sequential(nn.Conv2d(3, 4, 3))])
def test_networks_without_a_replaceable_head_are_refused(module):
    with pytest.raises(ModelError, match="last layer"):
        replace_head(module, 5, 0)


def test_the_generator_is_as_it_was_also_after_an_error():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), fresh_weights(3):
        torch.rand(3).view(2)
    assert torch.equal(torch.get_rng_state(), state)
