"""Heads are found by what a forward pass does, in networks of every make; what is no head is refused with the layers to choose from."""

import pytest
import torch
from torch import nn

from tests.models.heads.architectures import OWN, TORCHVISION, TwoHeads, columns, picture, plain
from transfuse.core.last_layers import candidates, find_heads, last_layers
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError


@pytest.mark.parametrize("name", OWN)
def test_the_head_of_a_network_is_found(name):
    build, example, path = OWN[name]
    network = build()
    heads = find_heads(network, example())
    assert heads[0].main
    assert heads[0].path == path
    assert heads[0].layer is network.get_submodule(path)
    assert tuple(heads[0].layer.weight.shape[:2]) == (heads[0].outputs, heads[0].width)


def test_heads_that_run_in_training_alone_are_found_behind_the_main_one():
    build, example, _ = TORCHVISION["googlenet"]
    first, *others = find_heads(build(), example())
    assert (first.path, first.main) == ("fc", True)
    assert {head.path for head in others} == {"aux1.fc2", "aux2.fc2"}


def test_a_network_without_values_shows_its_heads_too():
    with torch.device("meta"):
        network = import_torchvision().models.inception_v3(weights=None, init_weights=False)  # its side head needs 299 pixels
        heads = find_heads(network, torch.rand(1, 3, 299, 299))
    assert [(head.path, head.outputs, head.main) for head in heads] == [("fc", 1000, True), ("AuxLogits.fc", 1000, False)]


def test_each_output_of_several_has_its_own_head():
    found = {head.output: (head.path, head.outputs, head.main) for head in find_heads(TwoHeads(), columns())}
    assert found == {"0": ("classes", 5, True), "1": ("side", 3, False)}


def test_a_layer_under_two_names_is_one_head():
    build, example, _ = OWN["one layer under two names"]
    assert [head.paths for head in find_heads(build(), example())] == [("first", "last")]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["parametrised", "hooked"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_last_layer_with_weight_norm_is_the_head(norm):
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), norm(nn.Linear(8, 4)))
    assert [(head.path, head.outputs) for head in find_heads(network, columns())] == [("2", 4)]
    assert [path for path, _ in last_layers(network, columns())] == ["2"]


def test_what_follows_the_last_layers_is_passed_and_they_are_named_as_they_were_registered():
    twins = OWN["twins that share a weight"][0]()
    assert [path for path, _ in last_layers(nn.Sequential(twins, nn.Softmax(1)), columns())] == ["0.head", "0.twin"]


def test_looking_changes_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network[5].requires_grad_(False)
    network.train()
    network[1].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    find_heads(network, picture(8))
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert [parameter.requires_grad for parameter in network.parameters()] == [True] * 4 + [False] * 2
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in network.parameters())


class RawHead(nn.Module):
    """Its last weight is a parameter of its own and no layer."""

    def __init__(self):
        super().__init__()
        self.body, self.projection = plain(), nn.Parameter(torch.rand(4, 3))

    def forward(self, inputs):
        return self.body(inputs) @ self.projection


class NoOutputLayer(nn.Module):
    """Distances to prototypes, which no last layer makes alone."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, inputs):
        return torch.cdist(self.left(inputs), self.right(inputs[:1]).expand(3, -1))


@pytest.mark.parametrize(
    "network",
    [
        RawHead(),
        NoOutputLayer(),
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1)),  # other rows than samples
    ],
    ids=["a parameter of its own", "distances", "rows that are no samples"],
)
def test_a_head_that_is_not_there_is_said_with_the_candidates(network):
    with pytest.raises(ModelError, match="can't find the last layer") as caught:
        find_heads(network, columns())
    for line in candidates(network):
        assert line in str(caught.value)


def test_a_network_without_any_such_layer_is_refused():
    with pytest.raises(ModelError, match="this network has none"):
        find_heads(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6)), columns())
