"""Copied weights: what fits by name and shape, what is resized and how, what is left."""

import pytest
import torch
from torch import nn

from transfuse.core.vision import import_torchvision
from transfuse.policies.init.copy import Copy, resized_channels, resized_positions

from .scenes import inputs, network, scene


def test_a_network_of_the_same_make_is_copied_to_the_bit():
    source, target = network("builtin:resnet8", width=0.25), network("builtin:resnet8", seed=1, width=0.25)
    moved = Copy()(source, target, scene(inputs()))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    assert moved.share == 1.0
    assert moved.unused == []


def test_another_number_of_classes_leaves_the_head_alone():
    source, target = network("builtin:resnet8", width=0.25, outputs=7), network("builtin:resnet8", seed=1, width=0.25)
    head = target.linear.weight.detach().clone()
    moved = Copy()(source, target, scene(inputs()))
    assert torch.equal(target.linear.weight, head)
    assert [row.tensor for row in moved.rows if row.kind == "left"] == ["linear.weight", "linear.bias"]
    assert moved.share == pytest.approx(1 - (target.linear.weight.numel() + 5) / sum(value.numel() for value in target.parameters()))


def test_a_grey_picture_gives_a_first_convolution_what_three_equal_channels_gave_it():
    torch.manual_seed(0)
    colour, grey = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)
    Copy()(nn.Sequential(colour), nn.Sequential(grey), scene(inputs()))
    picture = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(grey(picture) - grey.bias[:, None, None], colour(picture.expand(-1, 3, -1, -1)) - colour.bias[:, None, None])


def test_more_channels_share_what_fewer_had():
    weight = torch.rand(4, 3, 3, 3)
    wider = resized_channels(weight, 6)
    torch.testing.assert_close(wider.sum(1), weight.sum(1))


@pytest.mark.parametrize(("tokens", "new", "prefix"), [(50, 17, 1), (16, 36, 0), (21, 54, 5)])
def test_position_embeddings_are_resized_as_timm_does_it(tokens, new, prefix):
    import_torchvision()
    layers = pytest.importorskip("timm.layers")
    value = torch.randn(1, tokens, 6)
    side = int((new - prefix) ** 0.5)
    wanted = layers.resample_abs_pos_embed(value, (side, side), num_prefix_tokens=prefix)
    torch.testing.assert_close(resized_positions(value, new), wanted)


def test_positions_that_are_no_square_are_left():
    assert resized_positions(torch.randn(1, 12, 4), 8) is None


class Embedded(nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.positions, self.linear = nn.Parameter(torch.randn(1, tokens, 4)), nn.Linear(4, 5)

    def forward(self, given):
        return self.linear(self.positions.mean(1).expand(len(given), -1))


def test_the_table_says_what_was_copied_resized_and_left():
    source, target = Embedded(17), Embedded(37)
    source.linear = nn.Linear(4, 9)
    moved = Copy()(source, target, scene(inputs()))
    table = moved.table()
    assert "positions" in table
    assert "resized" in table
    assert "1x37x4 of 1x17x4" in table
    assert "another shape" in table
    assert "linear.weight … linear.bias (2)  left" in table
