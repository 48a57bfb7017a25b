"""The naive baseline: the first entries of every tensor, times a number."""

import torch

from transfuse.policies.init.scaled_copy import ScaledCopy, leading_part

from .scenes import inputs, network, scene


def test_every_parameter_is_alpha_times_the_first_entries_of_the_larger_one():
    large, small = network("builtin:resnet8", width=0.5, shortcut="B"), network("builtin:resnet8", seed=1, width=0.25, shortcut="B")
    moved = ScaledCopy(alpha=1.5)(large, small, scene(inputs()))
    other = large.state_dict()
    for name, value in small.named_parameters():
        torch.testing.assert_close(value.detach(), 1.5 * other[name][tuple(slice(size) for size in value.shape)])
    for name, value in small.named_buffers():
        torch.testing.assert_close(value, other[name][tuple(slice(size) for size in value.shape)])
    assert moved.share == 1.0


def test_what_is_smaller_or_not_there_is_left():
    assert leading_part(torch.zeros(3, 4), (4, 4)) is None
    assert leading_part(torch.zeros(3), (3, 1)) is None
    small, large = network("builtin:mlp", widths=[4]), network("builtin:mlp", seed=1, widths=[9])
    moved = ScaledCopy()(small, large, scene(inputs()))
    assert "the source's is smaller" in moved.table()
