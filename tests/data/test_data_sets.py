"""Torch data sets of every make are read once, by their items or their arrays."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from transfuse.data import data_sets
from transfuse.data.data_sets import contents
from transfuse.errors import DataError


class Items(Dataset):
    classes = ("cat", "dog")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


def read(held, size=None):
    notes: list[str] = []
    return contents(held, "train", size, notes), notes


def picture(width, height, seed, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_items_of_arrays_and_plain_numbers_are_stacked():
    found, notes = read(Items([(torch.full((3,), row), row % 2) for row in range(5)]))
    assert found.inputs.tolist() == [[row] * 3 for row in range(5)]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    assert found.classes == ["cat", "dog"]
    assert not notes


@pytest.mark.parametrize("label", [lambda row: torch.tensor(row), np.int64, lambda row: np.array(row)], ids=["tensor", "scalar", "array"])
def test_labels_of_any_kind_of_number_are_read(label):
    found, _ = read(Items([(torch.zeros(2), label(row)) for row in range(3)]))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2]


def test_pictures_of_one_size_keep_it_and_others_are_cut_to_one():
    same, _ = read(Items([(picture(6, 4, seed), 0) for seed in range(3)]))
    assert same.inputs.shape == (3, 4, 6, 3)
    assert np.array_equal(same.inputs[1], np.asarray(picture(6, 4, 1)))
    mixed, notes = read(Items([(picture(6, 4, 0), 0), (picture(5, 9, 1), 1)]), size=4)
    assert mixed.inputs.shape == (2, 3, 4, 4)
    expected = np.asarray(picture(6, 4, 0))[:, 1:5]  # shorter side 4 already: the middle
    assert np.array_equal(mixed.inputs[0], expected.transpose(2, 0, 1))
    assert "differ in size" in notes[0]


def test_grey_pictures_among_coloured_ones_get_three_channels():
    mixed, _ = read(Items([(picture(6, 4, 0), 0), (picture(6, 4, 1, "L"), 1)]))
    assert mixed.inputs.shape == (2, 3, 4, 6)
    assert (mixed.inputs[1, 0] == mixed.inputs[1, 2]).all()


def test_items_without_labels_are_unlabelled_inputs():
    found, _ = read(Items([torch.zeros(2), torch.ones(2)]))
    assert found.labels is None
    with pytest.raises(DataError, match="some have none"):
        read(Items([(torch.zeros(2), 1), torch.zeros(2)]))


def test_a_random_transform_is_noticed():
    class Noisy(Items):
        def __getitem__(self, row):
            return self.items[row][0] + torch.randn(2), self.items[row][1]

    _, notes = read(Noisy([(torch.zeros(2), 0)] * 3))
    assert "random transform" in notes[0]


def test_iterable_data_sets_are_read_to_their_end():
    class Stream(IterableDataset):
        def __iter__(self):
            return ((torch.full((2,), row), row) for row in range(4))

    found, notes = read(Stream())
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert "IterableDataset" in notes[0]


def test_what_does_not_fit_in_memory_is_refused_before_it_fills_it(monkeypatch):
    monkeypatch.setattr(data_sets, "LARGEST", 100)

    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(10), 0

    with pytest.raises(DataError, match="images:FOLDER"):
        read(Endless())


def test_loaders_give_their_data_set_and_keep_a_subset_sampler():
    held = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    everything, notes = read(DataLoader(held, batch_size=3, shuffle=True))
    assert everything.inputs[:, 0].tolist() == list(range(10))
    assert "DataLoader" in notes[0]
    some, _ = read(DataLoader(held, sampler=SubsetRandomSampler([7, 2])))
    assert some.inputs[:, 0].tolist() == [2, 7]


def test_subsets_of_stored_arrays_and_of_items_are_the_same():
    held = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    stored, _ = read(Subset(Subset(held, [9, 5, 1]), [2, 0]))
    by_items, _ = read(Subset(Items([held[row] for row in range(10)]), [1, 9]))
    assert stored.inputs.tolist() == by_items.inputs.tolist() == [[1], [9]]
    assert by_items.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (Items([{"image": 1, "label": 2}]), "dict of image, label"),
        (Items([(torch.zeros(2), 1, 2)]), "the item is a tuple"),
        (Items([("text", 1)]), "input is a str"),
        (Items([]), "empty"),
        (Items([(torch.zeros(2), 0), (torch.zeros(3), 0)]), "item 1: shape"),
        (TensorDataset(torch.zeros(2), torch.zeros(2), torch.zeros(2)), "3 tensors"),
    ],
    ids=range(6),
)
def test_items_of_other_forms_are_explained(held, message):
    with pytest.raises(DataError, match=message):
        read(held)
