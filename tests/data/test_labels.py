"""Labels are read as people mean them, and what they can't mean is refused with the row."""

import numpy as np
import pytest

from transfuse.data.labels import natural, read_labels, read_names
from transfuse.errors import DataError


def test_whole_numbers_are_classes_and_minus_one_is_no_label():
    labels = read_labels({"y": np.array([0, 2, -1, 1])})
    assert labels.task == "classification"
    assert labels.classes == ["0", "1", "2"]
    assert labels.parts["y"].tolist() == [0, 2, -1, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, bool])
def test_every_integer_type_is_read(dtype):
    labels = read_labels({"y": np.array([0, 1, 1], dtype=dtype)})
    assert labels.task == "classification"
    assert labels.parts["y"].tolist() == [0, 1, 1]
    assert str(labels.parts["y"].dtype) == "torch.int64"


def test_a_column_of_class_numbers_is_one_label_each():
    assert read_labels({"y": np.array([[3], [1], [2]])}).parts["y"].tolist() == [3, 1, 2]


def test_floats_are_regression_targets_and_nan_is_no_label():
    labels = read_labels({"y": np.array([0.0, 1.0, np.nan])})
    assert labels.task == "regression"
    assert labels.parts["y"].shape == (3, 1)
    assert labels.parts["y"].isnan().tolist() == [[False], [False], [True]]
    assert labels.targets == ["target"]
    assert read_labels({"y": np.full((3, 2), 0.5)}).targets == ["target_0", "target_1"]


def test_the_user_can_say_what_numbers_mean():
    assert read_labels({"y": np.array([0.0, 1.0, np.nan])}, "classification").parts["y"].tolist() == [0, 1, -1]
    assert read_labels({"y": np.array([3, 4])}, "regression").parts["y"].tolist() == [[3.0], [4.0]]
    assert read_labels({"y": np.array([[0, 1], [1, 0]])}, "classification").parts["y"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"0\.5 is not a class number"):
        read_labels({"y": np.array([0.0, 0.5])}, "classification")


def test_columns_of_0_and_1_are_multilabel():
    labels = read_labels({"y": np.array([[1, 1, 0], [0, 0, 1]])})
    assert labels.task == "multilabel"
    assert labels.classes == ["0", "1", "2"]
    assert labels.parts["y"].tolist() == [[1, 1, 0], [0, 0, 1]]
    assert not labels.notes
    with_gaps = read_labels({"y": np.array([[1.0, 0], [np.nan, np.nan]])})
    assert with_gaps.task == "multilabel"
    assert with_gaps.parts["y"].isnan().all(1).tolist() == [False, True]
    assert read_labels({"y": np.array([[1, 1], [-1, -1]])}).parts["y"].isnan().all(1).tolist() == [False, True]


def test_one_hot_rows_are_pointed_out():
    assert "one-hot" in read_labels({"y": np.eye(3, dtype=int)}).notes[0]


def test_all_parts_decide_together():
    labels = read_labels({"y_train": np.array([0, 1]), "y_test": np.array([0, 2])})
    assert labels.classes == ["0", "1", "2"]
    assert read_labels({"y_train": np.array([0, 1]), "y_test": np.array([0.5])}).task == "regression"


@pytest.mark.parametrize(
    ("values", "classes", "message", "where"),
    [
        ([0, 1, 5], ["a", "b"], "label 5, but there are 2 classes", "y, row 2"),
        ([0, -2, 1], None, "-2 is not a class number", "y, row 1"),
        ([2020, 2021], None, "labels reach 2021", "y"),
        ([[0, 1], [2, 0]], None, None, None),
    ],
)
def test_labels_out_of_range_are_named(values, classes, message, where):
    if message is None:  # 2-D whole numbers other than 0 and 1 are targets, unless the user says multilabel
        assert read_labels({"y": np.array(values)}).task == "regression"
        with pytest.raises(DataError, match="other than 0 and 1") as caught:
            read_labels({"y": np.array(values)}, "multilabel")
        assert caught.value.where == "y, row 1"
        return
    with pytest.raises(DataError, match=message) as caught:
        read_labels({"y": np.array(values)}, classes=classes)
    assert caught.value.where == where


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_half_labelled_rows_are_refused(task):
    with pytest.raises(DataError, match="missing and some are not") as caught:
        read_labels({"y": np.array([[1.0, 0.0], [np.nan, 1.0]])}, task)
    assert caught.value.where == "y, row 1"


def test_infinite_targets_and_odd_shapes_are_refused():
    with pytest.raises(DataError, match="infinite"):
        read_labels({"y": np.array([1.0, np.inf])})
    with pytest.raises(DataError, match="shape"):
        read_labels({"y": np.zeros((2, 2, 2))})
    with pytest.raises(DataError, match="label columns"):
        read_labels({"y_train": np.zeros((2, 2)) + 0.5, "y_test": np.zeros((2, 3))})
    with pytest.raises(DataError, match="3 class names for 2"):
        read_labels({"y": np.array([[1, 1], [0, 1]])}, classes=["a", "b", "c"])
    with pytest.raises(DataError, match="one-hot"):
        read_labels({"y": np.array([[1, 1], [0, 1]])}, "classification")


def test_names_are_sorted_and_numbers_by_value():
    assert natural(["b", "a", "b"]) == ["a", "b"]
    assert natural(["10", "9", "1"]) == ["1", "9", "10"]
    assert natural(["10", "9", "x1"]) == ["10", "9", "x1"]
    labels = read_names({"train": ["dog", "cat", ""], "test": ["emu"]})
    assert labels.classes == ["cat", "dog", "emu"]
    assert labels.parts["train"].tolist() == [1, 0, -1]
    assert labels.parts["test"].tolist() == [2]


def test_text_arrays_are_class_names():
    labels = read_labels({"y": np.array(["dog", "cat", "dog"])})
    assert labels.task == "classification"
    assert labels.parts["y"].tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="'emu' is not one of the 2 classes") as caught:
        read_labels({"y": np.array(["cat", "emu"])}, classes=["cat", "dog"])
    assert caught.value.where == "y, row 1"


def test_names_with_semicolons_are_multilabel():
    labels = read_names({"train": ["sky;sea", "sky", " sea ; land;", ""]})
    assert labels.task == "multilabel"
    assert labels.classes == ["land", "sea", "sky"]
    assert labels.parts["train"][:3].tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 0]]
    assert labels.parts["train"][3].isnan().all()
    assert read_names({"train": ["a", "b"]}, "multilabel").parts["train"].tolist() == [[1, 0], [0, 1]]


def test_numbers_with_fractions_are_targets_and_whole_ones_are_names():
    assert read_names({"train": ["1", "2", "10"]}).classes == ["1", "2", "10"]
    labels = read_names({"train": ["1", "2.5", ""]})
    assert labels.task == "regression"
    assert labels.parts["train"][:2].tolist() == [[1.0], [2.5]]
    assert labels.parts["train"][2].isnan().all()
    assert read_names({"train": ["1", "2"]}, "regression").parts["train"].tolist() == [[1.0], [2.0]]
    with pytest.raises(DataError, match="'x' is not a number"):
        read_names({"train": ["1", "x"]}, "regression")
