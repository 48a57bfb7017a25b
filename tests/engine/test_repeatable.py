"""Kernels that repeat their bits: asked for during a training on a GPU only, and what has none is named once."""

import warnings

import pytest
import torch
from torch.backends import cudnn

from transfuse.engine.repeatable import repeatable

GPU = torch.device("cuda")
TEXT = "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True, warn_only=True)'."


def state():
    return torch.get_deterministic_debug_mode(), cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore


def stopped(device):
    with repeatable(torch.device(device), print):
        assert cudnn.deterministic == (device == "cuda")
        assert (torch.get_deterministic_debug_mode() > 0) == (device == "cuda")
        raise KeyboardInterrupt


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_torch_is_as_it_was_afterwards_however_the_training_ends(device):
    before = state()
    with pytest.raises(KeyboardInterrupt):
        stopped(device)
    assert state() == before


def warned(say):
    with repeatable(GPU, say):
        for name in ("one_cuda", "two_cuda", "one_cuda"):
            warnings.warn(TEXT.format(name), stacklevel=1)
        warnings.warn("something else", stacklevel=1)


def test_a_kernel_without_an_order_is_named_once_and_other_warnings_go_where_they_went():
    said, show = [], warnings.showwarning
    with pytest.warns(UserWarning, match="something else"):
        warned(said.append)
    assert [text.split()[0] for text in said] == ["one_cuda", "two_cuda"]
    assert "other bits" in said[0]
    assert warnings.showwarning is show
