"""Dropped layers: which ones are kept, and that they are copied to the bit."""

import pytest
import torch
from torch import nn

from transfuse.policies.init.drop_layers import DropLayers
from transfuse.policies.init.select import Select

from .scenes import inputs, network, scene


@pytest.mark.parametrize(("keep", "layers"), [("spread", [0, 2, 4]), ("first", [0, 1, 2]), ("last", [0, 3, 4])])
def test_the_layers_of_each_stage_are_the_asked_ones_of_the_deeper_network(keep, layers):
    deep, shallow = network("builtin:resnet32", width=0.25), network("builtin:resnet20", seed=1, width=0.25)
    moved = DropLayers(keep)(deep, shallow, scene(inputs()))
    assert moved.share == 1.0
    own, other = dict(shallow.named_parameters()), dict(deep.named_parameters())
    for stage in (1, 2, 3):
        for number, taken in enumerate(layers):
            for leaf in ("conv1.weight", "bn1.weight", "conv2.weight", "bn2.bias"):
                assert torch.equal(own[f"layer{stage}.{number}.{leaf}"], other[f"layer{stage}.{taken}.{leaf}"])
    assert torch.equal(own["conv1.weight"], other["conv1.weight"])
    assert torch.equal(own["linear.weight"], other["linear.weight"])
    assert f"copied from layer1.{layers[1]}" in moved.table() or layers[1] == 1


def test_six_of_twelve_are_those_that_distilbert_takes():
    def encoder(layers):
        body = nn.ModuleDict({"layers": nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(layers))})
        return Stacked(body)

    torch.manual_seed(0)
    teacher, student = encoder(12), encoder(6)
    DropLayers()(teacher, student, scene(inputs((4,))))
    taken = [0, 2, 4, 7, 9, 11]
    assert all(torch.equal(student.body["layers"][i][0].weight, teacher.body["layers"][j][0].weight) for i, j in enumerate(taken))


class Stacked(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, hidden):
        for layer in self.body["layers"]:
            hidden = layer(hidden)
        return hidden


def test_batchnorm_is_estimated_anew_as_the_means_of_what_layers_are_given():
    deep, shallow, given = network("builtin:resnet20", width=0.25), network("builtin:resnet8", seed=1, width=0.25), inputs()
    DropLayers()(deep, shallow, scene(given))
    with torch.no_grad():
        shown = shallow.conv1(given)
    torch.testing.assert_close(shallow.bn1.running_mean, shown.mean((0, 2, 3)))
    torch.testing.assert_close(shallow.bn1.running_var, shown.movedim(1, -1).flatten(0, -2).var(0))
    assert shallow.bn1.momentum == 0.1
    assert not any(module.training for module in shallow.modules())


def test_selecting_drops_layers_as_well():
    deep, small = network("builtin:resnet20", width=0.5, shortcut="B"), network("builtin:resnet8", seed=1, width=0.25, shortcut="B")
    moved = Select("uniform")(deep, small, scene(inputs()))
    assert moved.share == 1.0
    assert any(name.startswith("layer1.2") for name in moved.unused)


def test_layers_of_another_width_are_left():
    moved = DropLayers()(network("builtin:mlp", widths=[8]), network("builtin:mlp", seed=1, widths=[5]), scene(inputs()))
    assert {row.tensor: row.kind for row in moved.rows} == {
        "layers.0.linear.weight": "left",
        "layers.0.linear.bias": "left",
        "linear.weight": "left",
        "linear.bias": "copied",
    }
