"""The optimisers, and the fused update of a CPU, which computes what the plain one does only where its terms are kept."""

import pytest
import torch
from torch import Tensor, nn

from transfuse.engine.optim import OPTIMIZERS, build_optimizer, lay_gradients, lay_state


class Net(nn.Module):
    """Kernels that lie channels last, a 1x1 kernel, a matrix and vectors of awkward lengths."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = [(8, 4, 3, 3), (7, 4, 1, 1), (5, 33), (17,), (1,)]
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def gradients(net: nn.Module, step: int) -> list[Tensor]:
    """Contiguous ones, as code that assigns them makes them."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(parameter.shape, generator=generator) for parameter in net.parameters()]


def after(steps: range, net: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for parameter, gradient in zip(net.parameters(), gradients(net, step), strict=True):
            parameter.grad = gradient
        lay_gradients(optimizer)
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def plain(net: nn.Module, name: str) -> torch.optim.Optimizer:
    optimizer = build_optimizer(net, name, {"weight_decay": 0.1})
    for group in optimizer.param_groups:
        group["fused"] = None
    return optimizer


@pytest.mark.parametrize("name", list(OPTIMIZERS))
class TestFused:
    def test_it_equals_the_plain_update_in_any_memory_order(self, name: str):
        one, other = Net(), Net()
        fused = build_optimizer(one, name, {"weight_decay": 0.1})
        assert all(group["fused"] for group in fused.param_groups)
        for ours, theirs in zip(after(range(5), one, fused), after(range(5), other, plain(other, name)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_a_state_from_a_file_goes_on_in_any_memory_order(self, name: str):
        one, other = Net(), Net()
        first, second = build_optimizer(one, name, {}), build_optimizer(other, name, {})
        whole = after(range(6), one, first)
        after(range(3), other, second)
        saved = second.state_dict()
        for state in saved["state"].values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    state[key] = value.clone(memory_format=torch.contiguous_format)
        resumed = build_optimizer(other, name, {})
        resumed.load_state_dict(saved)
        lay_state(resumed)
        assert any(isinstance(value, Tensor) and value.ndim == 4 for state in resumed.state.values() for value in state.values())
        for ours, theirs in zip(after(range(3, 6), other, resumed), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_a_checkpoint_from_before_goes_on_with_the_plain_update(self, name: str):
        net = Net()
        saved = plain(net, name).state_dict()
        optimizer = build_optimizer(net, name, {})
        optimizer.load_state_dict(saved)
        assert not any(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", ["half precision", "gaps", "overlap", "sparse"])
def test_where_it_would_be_wrong_the_plain_update_stays(kind: str):
    net = Net()
    if kind == "half precision":
        net.bfloat16()
    elif kind == "gaps":
        net.parts[2] = nn.Parameter(torch.randn(6, 8)[:, ::2])
    elif kind == "overlap":
        net.parts[2] = nn.Parameter(torch.randn(1, 8).expand(6, 8))
    else:
        net.table = nn.Embedding(5, 3, sparse=True)
    assert not any(group["fused"] for group in build_optimizer(net, "sgd", {}).param_groups)


def test_what_is_frozen_does_not_decide():
    net = Net()
    net.parts[2] = nn.Parameter(torch.randn(6, 8, dtype=torch.bfloat16), requires_grad=False)
    assert all(group["fused"] for group in build_optimizer(net, "sgd", {}).param_groups)
