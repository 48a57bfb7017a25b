"""Arithmetic on state dicts."""

import pytest
import torch

from transfuse.errors import ModelError
from transfuse.fusion.states import average, combined, differences, mismatch_table, mismatches


def state(**tensors):
    return {name.replace("__", "."): tensor for name, tensor in tensors.items()}


def test_counts_become_the_largest_and_statistics_are_averaged_whatever_the_rule():
    first = state(norm__num_batches_tracked=torch.tensor(7), norm__running_var=torch.tensor([1.0, 3.0]), w=torch.ones(2))
    second = state(norm__num_batches_tracked=torch.tensor(9), norm__running_var=torch.tensor([3.0, 5.0]), w=torch.zeros(2))
    made = combined([first, second], lambda _, tensors: tensors[0] - 5 * tensors[1], [1, 3])
    assert made["norm.num_batches_tracked"] == 9
    assert made["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(made["norm.running_var"], torch.tensor([2.5, 4.5]))
    assert torch.equal(made["w"], torch.ones(2))


def test_whole_numbers_that_differ_are_refused():
    with pytest.raises(ModelError, match="'positions' holds whole numbers"):
        combined([state(positions=torch.arange(3)), state(positions=torch.arange(3) + 1)], lambda _, tensors: tensors[0])


def test_half_precision_is_computed_in_float64_and_given_back_as_it_was():
    tensors = [torch.full((3,), value, dtype=torch.float16) for value in (60000.0, 60000.0)]
    made = combined([state(w=tensor) for tensor in tensors], lambda _, found: average(found))
    assert made["w"].dtype == torch.float16
    assert torch.equal(made["w"], tensors[0])


def test_a_mean_of_three_equal_weights_is_exact():
    tensor = torch.randn(100)
    assert torch.equal(combined([state(w=tensor)] * 3, lambda _, found: average(found))["w"], tensor)


def test_tied_tensors_are_computed_once():
    shared = torch.randn(4)
    calls = []
    made = combined([state(a=shared, b=shared), state(a=shared + 1, b=shared + 1)], lambda name, found: calls.append(name) or found[1])
    assert calls == ["a"]
    assert made["a"] is made["b"]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="need as many weights"):
        average([torch.ones(2), torch.ones(2)], weights)


def test_the_table_names_missing_tensors_and_shapes():
    rows = mismatches([state(a=torch.ones(2, 3), b=torch.ones(1), c=torch.ones(1)), state(a=torch.ones(2, 4), c=torch.ones(1))])
    assert rows == [("a", [(2, 3), (2, 4)]), ("b", [(1,), None])]
    table = mismatch_table(rows, ["one", "two"])
    assert "2x3" in table
    assert "missing" in table
    assert "and 8 more" in mismatch_table(rows * 10, ["one", "two"])


def test_changes_leave_statistics_out():
    base, tuned = state(w=torch.ones(2), n__running_mean=torch.ones(2)), state(w=torch.full((2,), 3.0), n__running_mean=torch.zeros(2))
    assert list(differences([tuned], base)[0]) == ["w"]
    assert torch.equal(differences([tuned], base)[0]["w"], torch.full((2,), 2.0, dtype=torch.float64))
