"""The check refuses what can't be learnt from and names what spoils a result."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.check import check
from transfuse.data.samples import ArraySamples, relabel, subset
from transfuse.errors import DataError

RANDOM = np.random.default_rng(0)


def opened(inputs=None, labels=None, **request):
    inputs = RANDOM.normal(size=(60, 4)) if inputs is None else inputs
    labels = np.arange(len(inputs)) % 3 if labels is None else labels
    return data.open_data((inputs, labels), DataRequest(**request))


def test_good_data_has_no_warnings():
    assert check(opened()) == []
    assert check(opened(RANDOM.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8))) == []
    assert check(opened(labels=RANDOM.normal(size=60))) == []
    assert check(opened(labels=RANDOM.integers(0, 2, (60, 3)))) == []


@pytest.mark.parametrize("value", [3, 99, -1, -5])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_out_of_range_are_refused_with_their_sample(value, part):
    dataset = opened()
    samples = getattr(dataset, part)
    labels = samples.labels.clone()
    labels[2] = value
    broken = replace(dataset, **{part: relabel(samples, labels)})
    with pytest.raises(DataError, match=f"label {value} is not one of the class numbers 0 to 2") as caught:
        check(broken)
    assert caught.value.where == f"live, {part} sample '{samples.ids[2]}'"


def test_multilabel_and_regression_labels_are_checked_too():
    dataset = opened(labels=RANDOM.integers(0, 2, (60, 3)))
    labels = dataset.train.labels.clone()
    labels[1, 1] = 2.0
    with pytest.raises(DataError, match="not a row of 0 and 1"):
        check(replace(dataset, train=relabel(dataset.train, labels)))
    dataset = opened(labels=RANDOM.normal(size=60))
    labels = dataset.train.labels.clone()
    labels[1] = float("inf")
    with pytest.raises(DataError, match="not a finite number"):
        check(replace(dataset, train=relabel(dataset.train, labels)))


def test_one_class_only_is_refused():
    with pytest.raises(DataError, match="the only one is '0'"):
        check(opened(labels=np.zeros(60, dtype=int)))


def test_a_constant_target_is_refused():
    with pytest.raises(DataError, match=r"'target' is 2\.5 everywhere"):
        check(opened(labels=np.full(60, 2.5)))


def test_a_class_of_one_sample_is_named():
    dataset = opened(labels=np.array([0] * 30 + [1] * 29 + [2]))
    assert any(
        "1 of 3 classes have a single sample, which can't be split" in warning and warning.endswith("2") for warning in check(dataset)
    )


def test_classes_without_samples_are_named():
    labels = np.arange(60) % 3 + 1  # as people count from 1
    warnings = check(opened(labels=labels))
    assert warnings == ["1 of 4 classes have no labelled sample at all; if labels start at 1, subtract 1: 0"]
    test = (RANDOM.normal(size=(9, 4)), np.array([0, 1, 2] * 3))
    train = (RANDOM.normal(size=(40, 4)), np.arange(40) % 2)
    assert any("no labelled training sample: 2" in warning for warning in check(data.open_data((train, test), DataRequest())))
    test = (test[0], np.array([0, 0, 0] * 3))
    assert any("have no test sample" in warning for warning in check(data.open_data((train, test), DataRequest())))


def test_identical_pictures_across_parts_are_counted_and_named():
    pictures = RANDOM.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    train, test = (pictures[:40], np.arange(40) % 2), (pictures[38:], np.arange(22) % 2)
    warnings = check(data.open_data((train, (pictures[40:50], np.arange(10) % 2), test), DataRequest()))
    assert "2 identical pictures in train and test: train/38 = test/0, train/39 = test/1" in warnings
    assert any(
        warning.startswith("10 identical pictures in val and test: val/0 = test/2") and "and 5 more" in warning for warning in warnings
    )


def test_unlabelled_copies_of_test_pictures_are_named():
    pictures = RANDOM.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    dataset = opened(pictures, unlabelled=pictures)
    assert any("12 identical pictures in unlabelled and test" in warning for warning in check(dataset))


def test_identical_files_across_folders_are_named(class_folders, tmp_path):
    for part in ("train", "test"):
        class_folders({"a": 10, "b": 10}, tmp_path / "set" / part)
    (tmp_path / "set" / "test" / "a" / "copy.png").write_bytes((tmp_path / "set" / "train" / "b" / "003.png").read_bytes())
    warnings = check(data.open_data(f"images:{tmp_path / 'set'}", DataRequest(val=0.1)))
    assert any(
        warning.endswith("and test: train/b/003.png = test/a/copy.png") for warning in warnings
    )  # of train, or of val carved from it


def test_repeated_rows_of_a_table_are_no_warning():
    assert check(opened(np.tile(RANDOM.normal(size=(6, 4)), (10, 1)))) == []


def test_nan_in_a_source_that_does_not_look_itself_is_named():
    dataset = opened()
    inputs = dataset.val.raw(range(len(dataset.val)))
    inputs[3, 1] = float("nan")
    broken = ArraySamples(inputs, dataset.val.labels, np.array([f"row{number}" for number in range(len(inputs))]))
    with pytest.raises(DataError, match=r"val sample 'row3'.*NaN or infinity"):
        check(replace(dataset, val=broken))


def test_constant_columns_are_named():
    table = RANDOM.normal(size=(60, 4))
    table[:, 2] = 0.1
    assert check(opened(table)) == ["1 columns are constant in the training part and tell nothing: 2"]


def test_wrong_channel_counts_are_refused():
    dataset = opened(RANDOM.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8))
    grey = ArraySamples(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), dataset.test.labels, dataset.test.ids)
    with pytest.raises(DataError, match="test part's inputs are"):
        check(replace(dataset, test=grey))
    five = ArraySamples(torch.zeros(60, 5, 8, 8, dtype=torch.uint8), torch.arange(60) % 3, np.arange(60))
    parts = {"train": subset(five, range(40)), "val": subset(five, range(40, 50)), "test": subset(five, range(50, 60))}
    with pytest.raises(DataError, match="5 channels"):
        check(replace(dataset, input_shape=(5, 8, 8), **parts))


def test_an_empty_part_is_refused():
    dataset = opened()
    with pytest.raises(DataError, match="val part is empty"):
        check(replace(dataset, val=subset(dataset.val, [])))


def test_labels_that_are_always_set_are_named():
    labels = RANDOM.integers(0, 2, (60, 3))
    labels[:, 1] = 1
    assert any("set in every training sample" in warning for warning in check(opened(labels=labels)))
