"""Live objects are taken in every documented form; ambiguous ones are refused with the form that is clear."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.live import read_live
from transfuse.errors import DataError

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(60, 4)).astype(np.float32)
LABELS = np.arange(60) % 3
PICTURES = RANDOM.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)


def dataset_of(rows):
    return TensorDataset(torch.from_numpy(INPUTS[rows]), torch.from_numpy(LABELS[rows]))


def sizes(source):
    parts = read_live(source, DataRequest())
    return [None if part is None else len(part) for part in (parts.train, parts.val, parts.test)]


@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy, lambda a: a.tolist()], ids=["numpy", "torch", "list"])
def test_inputs_and_labels_are_one_pool(make):
    dataset = data.open_data((make(INPUTS), make(LABELS)), DataRequest())
    assert dataset.source == "live"
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (43, 5, 12)
    row = int(dataset.train.ids[0])
    assert np.allclose(dataset.train.raw([0])[0].numpy(), INPUTS[row])
    assert int(dataset.train.labels[0]) == LABELS[row]


def test_pairs_and_triples_of_pairs_are_parts():
    train, val, test = ((INPUTS[rows], LABELS[rows]) for rows in (slice(0, 40), slice(40, 50), slice(50, 60)))
    assert sizes((train, test)) == [40, None, 10]
    assert sizes((train, val, test)) == [40, 10, 10]
    assert sizes((train, None, test)) == [40, None, 10]
    assert sizes({"test": test, "train": train}) == [40, None, 10]
    assert "train and test" in read_live((train, test), DataRequest()).notes[0]


def test_two_data_sets_of_equal_length_are_train_and_test():
    assert sizes((dataset_of(slice(0, 30)), dataset_of(slice(30, 60)))) == [30, None, 30]


def test_data_sets_and_loaders_can_be_mixed_with_arrays():
    loader = DataLoader(dataset_of(slice(0, 40)), batch_size=7, shuffle=True)
    parts = read_live((loader, (INPUTS[40:], LABELS[40:])), DataRequest())
    assert np.allclose(parts.train.raw(range(40)).numpy(), INPUTS[:40])  # in the data set's order, not the loader's
    assert any("DataLoader" in note for note in parts.notes)
    assert parts.test is not None
    assert parts.test.ids[0] == "test/0"


def test_a_random_split_is_two_parts():
    halves = random_split(dataset_of(slice(0, 60)), [40, 20])
    assert sizes(tuple(halves)) == [40, None, 20]


def test_a_dict_can_bring_unlabelled_inputs():
    dataset = data.open_data(
        {"train": (INPUTS[:40], LABELS[:40]), "test": (INPUTS[40:50], LABELS[40:50]), "unlabelled": INPUTS[50:]}, DataRequest()
    )
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 10
    assert dataset.unlabelled.labels.tolist() == [-1] * 10


@pytest.mark.parametrize(
    "unlabelled", [INPUTS[:5] + 9, torch.zeros(5, 4), TensorDataset(torch.zeros(5, 4)), (INPUTS[:5] + 9, LABELS[:5])], ids=range(4)
)
def test_unlabelled_inputs_need_no_labels(unlabelled):
    dataset = data.open_data((INPUTS, LABELS), DataRequest(unlabelled=unlabelled))
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 5
    assert (dataset.unlabelled.labels == -1).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (INPUTS, "without labels"),
        ((INPUTS, LABELS, INPUTS), "several things"),
        ((INPUTS[:30], INPUTS[30:50]), r"\(\(x, y\), \(x, y\)\)"),
        ((PICTURES[:30], PICTURES[30:]), r"\(\(x, y\), \(x, y\)\)"),
        ((INPUTS, LABELS[:50]), "60 rows in train inputs, but 50 labels"),
        ((dataset_of(slice(0, 5)), LABELS), "test is a ndarray"),
        ([(INPUTS, LABELS), (INPUTS, LABELS)], "write a tuple"),
        ((INPUTS,), "tuple of 1"),
        ("x", "no kind of source"),
        (None, "NoneType"),
        (7, "int"),
        ({"train": (INPUTS, LABELS), "tset": (INPUTS, LABELS)}, "did you mean 'test'"),
        ({"test": (INPUTS, LABELS)}, "no train part"),
        ({"train": INPUTS}, "part is a ndarray"),
        (TensorDataset(torch.zeros(5, 2)), "no labels"),
    ],
    ids=range(15),
)
def test_other_forms_are_explained(source, message):
    with pytest.raises(DataError, match=message):
        data.open_data(source, DataRequest())


def test_the_tasks_follow_the_labels():
    assert data.open_data((INPUTS, RANDOM.normal(size=60)), DataRequest()).task == "regression"
    assert data.open_data((INPUTS, RANDOM.integers(0, 2, (60, 5))), DataRequest()).task == "multilabel"
    assert data.open_data((INPUTS, LABELS.astype(float)), DataRequest(task="classification")).task == "classification"


def test_pictures_as_floats_become_8_bit_ones_where_nothing_is_lost():
    dataset = data.open_data((torch.from_numpy(PICTURES) / 255, torch.from_numpy(LABELS)), DataRequest())
    assert dataset.train.raw([0]).dtype == torch.uint8
    row = int(dataset.train.ids[0])
    assert np.array_equal(dataset.train.raw([0])[0].numpy(), PICTURES[row])


def test_the_users_arrays_are_not_changed_and_not_aliased():
    inputs, labels = INPUTS.copy(), LABELS.copy()
    dataset = data.open_data((inputs, labels), DataRequest())
    dataset.train.raw([0]).zero_()
    assert np.array_equal(inputs, INPUTS)
    assert np.array_equal(labels, LABELS)


def test_tensors_that_require_gradients_are_taken():
    inputs = torch.from_numpy(INPUTS).requires_grad_()
    assert not data.open_data((inputs, LABELS), DataRequest()).train.raw([0]).requires_grad
