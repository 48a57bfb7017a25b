"""Arrays by part become parts with one reading of layout and labels."""

import numpy as np
import pytest

from transfuse.core.types import DataRequest
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.errors import DataError

TABLE = np.arange(12.0).reshape(6, 2)


def test_a_part_without_labels_gets_empty_ones_of_the_others_form():
    train = ArrayPart(TABLE, np.array([[0.5], [1], [2], [3], [4], [5]]), None, "x_train", "y_train")
    parts = parts_of_arrays({"train": train, "unlabelled": ArrayPart(TABLE, None, None, "x_unlabelled")}, DataRequest())
    assert parts.unlabelled is not None
    assert parts.unlabelled.labels.shape == (6, 1)
    assert parts.unlabelled.labels.isnan().all()


def test_a_test_part_without_labels_is_said_aloud():
    train = ArrayPart(TABLE, np.arange(6) % 2, None, "x_train", "y_train")
    parts = parts_of_arrays({"train": train, "test": ArrayPart(TABLE, None, None, "x_test", "y_test")}, DataRequest())
    assert parts.test is not None
    assert parts.test.labels.tolist() == [-1] * 6
    assert "x_test has no labels" in parts.notes


def test_names_of_targets_are_used_where_they_fit():
    labels = np.linspace(0, 1, 6)
    assert parts_of_arrays({"train": ArrayPart(TABLE, labels)}, DataRequest(), targets=["price"]).targets == ["price"]
    assert parts_of_arrays({"train": ArrayPart(TABLE, labels)}, DataRequest(), targets=["a", "b"]).targets == ["target"]


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError, match="6 rows in x, but 5 labels in y"):
        parts_of_arrays({"train": ArrayPart(TABLE, np.arange(5))}, DataRequest())
