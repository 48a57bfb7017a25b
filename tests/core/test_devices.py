"""What is sent to a GPU, seen on a machine without one."""

import torch

from transfuse.core import devices
from transfuse.core.devices import constant, sent

CPU = torch.device("cpu")


def test_on_a_cpu_a_tensor_is_where_it_has_to_be_and_a_constant_is_the_callers_own():
    tensor = torch.arange(3)
    assert sent(tensor, "cpu") is tensor
    first, second = (constant((1.0, 2.0), CPU, torch.float32) for _ in range(2))
    first += 1
    assert second.tolist() == [1.0, 2.0]
    assert constant(((1,), (2**62,)), CPU, torch.int64).tolist() == [[1], [2**62]]


def test_a_gpu_is_sent_the_same_numbers_once_and_training_can_use_what_evaluation_asked_for():
    with torch.inference_mode():
        kept = devices._kept((3.0, 4.0), CPU, torch.float32)
    assert devices._kept((3.0, 4.0), CPU, torch.float32) is kept
    weight = torch.ones(2, requires_grad=True)
    (weight * kept).sum().backward()  # a tensor of inference mode would refuse
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 4.0]


def test_equal_numbers_of_another_type_are_another_constant():
    assert devices._kept((0.0, 1.0), CPU, torch.float32).dtype == torch.float32
    assert devices._kept((0, 1), CPU, torch.int64).dtype == torch.int64
