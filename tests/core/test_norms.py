"""The BatchNorm in front of a tap is the one that ran last before it, and says how what it gives is distributed."""

import pytest
import torch
from torch import nn

from transfuse.core.norms import norms_before
from transfuse.errors import ModelError


class Block(nn.Module):
    """Registered in another order than it runs in, with a BatchNorm of other channels behind the one that counts."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.last = nn.BatchNorm2d(5)
        self.bn2, self.bn1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.narrow = nn.BatchNorm2d(2)
        self.wide, self.plain = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(4, affine=False)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, inputs):
        hidden = self.bn2(torch.tanh(self.bn1(inputs)))
        self.narrow(hidden[:, :2])
        hidden = self.relu(hidden + inputs)
        return self.last(self.wide(self.plain(hidden)))


def test_the_norm_is_the_last_one_with_as_many_channels_before_the_tap():
    block, paths = Block(), ["relu@input", "bn1", "plain@input", "wide", "wide@input", "last"]
    found = norms_before(block, paths, torch.randn(2, 4, 3, 3))
    assert {path: norm and norm.path for path, norm in found.items()} == {
        "relu@input": "bn2",
        "bn1": "bn1",
        "plain@input": "bn2",
        "wide": None,
        "wide@input": "plain",
        "last": "last",
    }
    torch.testing.assert_close(found["bn1"].mean, block.bn1.bias)
    torch.testing.assert_close(found["bn1"].deviation, block.bn1.weight.abs())
    assert (found["wide@input"].mean.unique().item(), found["wide@input"].deviation.unique().item()) == (0, 1)


def test_looking_leaves_the_network_as_it_was():
    block = Block().train()
    norms_before(block, ["relu"], torch.randn(2, 4, 3, 3))
    assert block.training
    assert block.bn1.num_batches_tracked == 0
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in block.modules())


def test_an_unknown_tap_is_refused():
    with pytest.raises(ModelError, match="has no module 'relu9'"):
        norms_before(Block(), ["relu9"], torch.randn(2, 4, 3, 3))
