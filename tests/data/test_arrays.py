"""npz files are read in every documented form; nothing in them is unpickled."""

import numpy as np
import pytest
import torch

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.arrays import catalog, open_data
from transfuse.errors import DataError

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return str(tmp_path / "set.npz")

    return write


def test_x_and_y_are_one_pool(npz):
    parts = open_data(npz(x=PICTURES, y=LABELS, classes=np.array(["a", "b", "c"])), DataRequest())
    assert parts.val is None
    assert parts.test is None
    assert parts.task == "classification"
    assert parts.modality == "image"
    assert parts.classes == ["a", "b", "c"]
    assert parts.train.ids.tolist() == list(range(60))
    assert torch.equal(parts.train.raw([3, 4]), torch.from_numpy(PICTURES[3:5].transpose(0, 3, 1, 2).copy()))


def test_parts_are_kept_apart_with_distinct_ids(npz):
    split = {"train": slice(0, 30), "val": slice(30, 40), "test": slice(40, 60)}
    arrays = {f"{kind}_{part}": held[rows] for part, rows in split.items() for kind, held in (("x", PICTURES), ("y", LABELS))}
    parts = open_data(npz(**arrays), DataRequest())
    assert parts.val is not None
    assert parts.test is not None
    assert (len(parts.train), len(parts.val), len(parts.test)) == (30, 10, 20)
    assert parts.test.ids[:2].tolist() == ["test/0", "test/1"]
    assert parts.test.labels.tolist() == LABELS[40:].tolist()


def test_unlabelled_pictures_come_by_label_or_by_name(npz):
    hidden = np.where(np.arange(60) < 20, -1, LABELS)
    by_label = data.open_data("arrays:" + npz(x=PICTURES, y=hidden), DataRequest())
    assert by_label.unlabelled is not None
    assert len(by_label.unlabelled) == 20
    by_name = data.open_data("arrays:" + npz(x=PICTURES[:40], y=LABELS[:40], x_unlabelled=PICTURES[40:]), DataRequest())
    assert by_name.unlabelled is not None
    assert len(by_name.unlabelled) == 20
    assert (by_name.unlabelled.labels == -1).all()


def test_given_ids_are_kept(npz):
    parts = open_data(npz(x=PICTURES, y=LABELS, ids=np.array([f"img{row}" for row in range(60)])), DataRequest())
    assert parts.train.ids[5] == "img5"
    with pytest.raises(DataError, match="id 'a'"):
        data.open_data("arrays:" + npz(x=PICTURES, y=LABELS, ids=np.array(["a"] * 60)), DataRequest())
    with pytest.raises(DataError, match="5 ids"):
        open_data(npz(x=PICTURES, y=LABELS, ids=np.arange(5)), DataRequest())


@pytest.mark.parametrize(
    ("labels", "task", "outputs"),
    [
        (LABELS, "classification", 3),
        (RANDOM.normal(size=60), "regression", 1),
        (RANDOM.normal(size=(60, 2)), "regression", 2),
        (RANDOM.integers(0, 2, (60, 4)), "multilabel", 4),
        (np.array(["x", "y", "z"])[LABELS], "classification", 3),
    ],
)
def test_labels_decide_the_task(npz, labels, task, outputs):
    dataset = data.open_data("arrays:" + npz(x=RANDOM.normal(size=(60, 5)), y=labels), DataRequest())
    assert dataset.task == task
    assert dataset.outputs == outputs
    assert dataset.modality == "columns"


def test_the_size_is_that_of_raw(npz):
    dataset = data.open_data("arrays:" + npz(x=PICTURES, y=LABELS), DataRequest(size=4))
    assert dataset.input_shape == (3, 4, 4)
    assert dataset.preprocess.size == (4, 4)
    assert data.open_data("arrays:" + npz(x=PICTURES, y=LABELS), DataRequest()).input_shape == (3, 8, 8)


def test_pickled_arrays_are_not_opened(npz):
    with pytest.raises(DataError, match=r"y: a pickled array"):
        open_data(npz(x=PICTURES, y=np.array([None] * 60, dtype=object)), DataRequest())


def test_errors_name_file_array_and_row(npz):
    table = RANDOM.normal(size=(60, 3))
    table[17, 1] = np.nan
    with pytest.raises(DataError, match="row 17") as caught:
        open_data(npz(x_train=table, y_train=LABELS), DataRequest())
    assert caught.value.where is not None
    assert caught.value.where.endswith("set.npz: x_train")
    with pytest.raises(DataError, match="label 2, but there are 2 classes") as caught:
        open_data(npz(x=PICTURES, y=LABELS, classes=np.array(["a", "b"])), DataRequest())
    assert str(caught.value.where).endswith("set.npz: y, row 2")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": PICTURES, "y": LABELS}, "did you mean 'x'"),
        ({}, "holds nothing"),
        ({"x": PICTURES, "x_train": PICTURES}, "both x and x_train"),
        ({"x": PICTURES, "y": LABELS, "x_test": PICTURES}, "name it x_train"),
        ({"x_train": PICTURES, "y_train": LABELS, "y_test": LABELS}, "y_test has no x_test"),
        ({"x": PICTURES, "y": LABELS[:50]}, "60 rows in x, but 50 labels in y"),
        ({"x": PICTURES, "y": np.array(3)}, "but 1 labels"),
        ({"x": PICTURES[:0], "y": LABELS[:0]}, "no rows"),
    ],
)
def test_a_file_that_makes_no_sense_is_explained(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        open_data(npz(**arrays), DataRequest())


def test_inputs_without_any_labels_are_refused_alone_and_taken_as_unlabelled(npz):
    path = "arrays:" + npz(x=PICTURES)
    with pytest.raises(DataError, match="no sample has a label"):
        data.open_data(path, DataRequest())
    dataset = data.open_data((PICTURES, LABELS), DataRequest(unlabelled=path))
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 60


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz.*not a whole npz"):
        open_data(str(tmp_path / "bad.npz"), DataRequest())


def test_an_npy_file_under_another_name_is_named(tmp_path):
    np.save(tmp_path / "x.npy", PICTURES)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match="not a whole npz"):
        open_data(str(tmp_path / "x.npz"), DataRequest())


def test_a_truncated_file_is_named(npz):
    path = npz(x=PICTURES, y=LABELS)
    with open(path, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="not a whole npz"):
        open_data(path, DataRequest())


def test_a_damaged_member_is_named(npz):
    path = npz(x=PICTURES, y=LABELS)
    with open(path, "r+b") as file:
        file.seek(3000)
        file.write(bytes(100))
    with pytest.raises(DataError, match="not a whole npz"):
        open_data(path, DataRequest())


def test_a_single_npy_and_a_folder_are_explained(tmp_path):
    np.save(tmp_path / "x.npy", PICTURES)
    with pytest.raises(DataError, match=r"np\.savez"):
        open_data(str(tmp_path / "x.npy"), DataRequest())
    with pytest.raises(DataError, match="folder, not a file"):
        open_data(str(tmp_path), DataRequest())


def test_the_catalog_shows_the_names_of_arrays():
    assert "x_train" in catalog()["FILE.npz"]


def test_cifar10_sheets_become_arrays_and_come_back(test_data, tmp_path):
    original = test_data.cifar10()
    path = test_data.write_arrays("cifar10", tmp_path / "cifar10.npz")
    dataset = data.open_data(f"arrays:{path}", DataRequest(labels_per_class=20))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (200, 1000, 2000)
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 8800
    assert dataset.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert np.array_equal(dataset.test.raw(range(2000)).numpy(), original["x_test"].transpose(0, 3, 1, 2))
    assert dataset.test.labels.tolist() == original["y_test"].tolist()
    assert dataset.test.ids[0] == f"test/{original['index_test'][0]}"
    # the known statistics of CIFAR-10's 50,000 training pictures; these are 9,000 of them
    assert dataset.preprocess.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.01)
    assert dataset.preprocess.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.01)


def test_a_single_value_in_place_of_inputs_is_named(npz):
    with pytest.raises(DataError, match="a single value") as refused:
        open_data(str(npz(x=np.float32(3), y=np.arange(4))), DataRequest())
    assert "x" in str(refused.value.where)
