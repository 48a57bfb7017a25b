"""Kernels that repeat their bits: asked for during a training on a GPU only, and what has none is named once."""

import warnings

import pytest
import torch
from torch.backends import cudnn

from transfuse.engine.repeatable import repeatable

GPU = torch.device("cuda")
NONE = "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True, warn_only=True)'."
FAST = "{} defaults to a non-deterministic algorithm. To explicitly enable determinism call ..."
CUBLAS = (
    "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or ..., but this operation is not "
    "deterministic because it uses CuBLAS and you have CUDA >= 10.2. To enable deterministic behavior in this case, ..."
)


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
    texts = [NONE.format("one_cuda"), NONE.format("median CUDA with indices output"), FAST.format("Flash Attention"), CUBLAS]
    with repeatable(GPU, say):
        assert torch.is_warn_always_enabled()
        for text in [*texts, texts[0]]:
            warnings.warn(text, stacklevel=1)
        warnings.warn("something else", stacklevel=1)


def test_a_kernel_without_an_order_is_named_once_and_other_warnings_go_where_they_went():
    said, show = [], warnings.showwarning
    with pytest.warns(UserWarning, match="something else"):
        warned(said.append)
    names = [text.partition(" adds in no fixed order")[0] for text in said]
    assert names == ["one_cuda", "median CUDA with indices output", "Flash Attention", "CuBLAS"]
    assert all("other bits" in text for text in said)
    assert warnings.showwarning is show
    assert not torch.is_warn_always_enabled()


def test_who_wants_errors_gets_them():
    torch.set_deterministic_debug_mode("error")
    try:
        with repeatable(GPU, print):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode("default")
