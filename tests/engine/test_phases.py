"""What a phase doesn't train it doesn't touch, and what the log says of a step with several phases."""

import pytest
import torch
from torch import nn

from transfuse.engine.phases import forget_gradients, over_phases, parts_of


def test_gradients_of_what_a_phase_does_not_train_are_forgotten():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        module[1].weight.copy_(module[0].weight)  # equal, and not the same
    module(torch.ones(1, 2)).sum().backward()
    forget_gradients(module, list(module[1].parameters()))
    assert module[0].weight.grad is None
    assert module[0].bias.grad is None
    assert module[1].weight.grad is not None
    forget_gradients(module, None)
    assert module[1].weight.grad is not None


def test_the_loss_is_summed_over_phases_and_each_term_averaged_over_those_that_have_it():
    rows = [
        (["loss", "a", "b"], torch.tensor([3.0, 1.0, 2.0])),
        (["loss", "c"], torch.tensor([5.0, 5.0])),
        (["loss", "b", "c"], torch.tensor([10.0, 3.0, 7.0])),
    ]
    names, values = over_phases(rows)
    assert dict(zip(names, values.tolist(), strict=True)) == {"loss": 18.0, "a": 1.0, "b": 2.5, "c": 6.0}
    assert over_phases(rows[:1])[1] is rows[0][1]


@pytest.mark.parametrize(("samples", "parts"), [(16, 1), (16, 3), (7, 4), (3, 8), (1, 1)])
def test_parts_of_a_batch_are_its_rows_in_order_as_torch_would_cut_them(samples, parts):
    rows = torch.arange(samples)
    expected = [part for part in rows.tensor_split(parts) if len(part)]
    found = [rows[part] for part in parts_of(samples, parts)]
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]
