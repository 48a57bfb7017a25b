"""torchvision's sets open from local files in their real formats; nothing is downloaded, missing files are explained."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.core.vision import import_torchvision
from transfuse.data.torchvision import catalog, open_data
from transfuse.errors import DataError

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def datasets():
    pytest.importorskip("PIL")
    return import_torchvision().datasets


@pytest.fixture
def cifar10(tmp_path, datasets, monkeypatch):
    """CIFAR-10's batches as its authors pickle them, 8 pictures each; torchvision compares checksums, so it is told theirs."""
    root = tmp_path / "root"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = {}

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    lists = {"train_list": [f"data_batch_{number}" for number in range(1, 6)], "test_list": ["test_batch"]}
    for attribute, names in lists.items():
        written = []
        for name in names:
            pixels[name] = RANDOM.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
            written.append(list(write(name, {"data": pixels[name].reshape(10, -1), "labels": list(range(10))})))
        monkeypatch.setattr(datasets.CIFAR10, attribute, written)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    name, checksum = write("batches.meta", {"label_names": classes})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    return root, pixels, classes


def test_cifar10_opens_from_its_batches(cifar10):
    root, pixels, classes = cifar10
    parts = open_data(f"CIFAR10@{root}", DataRequest())
    assert parts.test is not None
    assert parts.classes == classes
    expected = np.concatenate([pixels[f"data_batch_{number}"] for number in range(1, 6)])
    assert np.array_equal(parts.train.raw(range(50)).numpy(), expected)
    assert np.array_equal(parts.test.raw(range(10)).numpy(), pixels["test_batch"])
    assert parts.train.labels.tolist() == list(range(10)) * 5
    dataset = data.open_data(f"torchvision:cifar10@{root}", DataRequest())  # names in any case
    assert len(dataset.train) + len(dataset.val) == 50


def test_a_file_with_another_checksum_is_not_unpickled(cifar10):
    root, _, _ = cifar10

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="CIFAR10's files are not all in"):
        open_data(f"CIFAR10@{root}", DataRequest())


def test_mnist_opens_from_its_raw_folder(tmp_path, datasets):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 20, 28, 28) + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 20) + bytes(range(10)) * 2)
    parts = open_data(f"MNIST@{tmp_path}", DataRequest())
    assert np.array_equal(parts.train.raw(range(20)).numpy()[:, 0], pixels)
    assert parts.classes[0] == "0 - zero"
    assert parts.test is not None


def test_sets_of_picture_files_are_read_lazily(tmp_path, picture, datasets):
    for number, name in enumerate(["Forest", "River"]):
        for row in range(10):
            picture(tmp_path / "eurosat" / "2750" / name / f"{name}_{row}.jpg", (64, 64), seed=10 * number + row)
    dataset = data.open_data(f"torchvision:EuroSAT@{tmp_path}", DataRequest())
    assert dataset.classes == ["Forest", "River"]
    assert dataset.input_shape == (3, 64, 64)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 20
    assert dataset.train.ids[0].startswith("eurosat/2750/")


def test_stl10_brings_its_unlabelled_pictures(tmp_path, datasets, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"class{number}" for number in range(10)))
    for part in ("train", "test", "unlabeled"):
        (folder / f"{part}_X.bin").write_bytes(RANDOM.integers(0, 256, (10, 3, 96, 96), dtype=np.uint8).tobytes())
    for part in ("train", "test"):
        (folder / f"{part}_y.bin").write_bytes(bytes(range(1, 11)))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    parts = open_data(f"STL10@{tmp_path}", DataRequest())
    assert parts.unlabelled is not None
    assert parts.val is None
    assert torch.unique(parts.unlabelled.labels).tolist() == [-1]
    assert sorted(parts.train.labels.tolist()) == list(range(10))
    assert parts.classes[3] == "class3"


def test_missing_files_are_explained_without_a_download(tmp_path, datasets):
    for name in ("CIFAR10", "MNIST", "SVHN", "STL10", "EuroSAT", "Flowers102"):
        with pytest.raises(DataError, match=f"{name}'s files are not all in") as caught:
            open_data(f"{name}@{tmp_path}", DataRequest())
        assert "download=True" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR10", "torchvision:CIFAR10@ROOT"),
        ("CIFAR11@.", "did you mean 'CIFAR10"),
        ("EMNIST@.", "needs split"),
        ("CIFAR10@./no", "no 'no'"),
    ],
)
def test_names_that_do_not_open_are_explained(datasets, name, message):
    with pytest.raises(DataError, match=message):
        open_data(name, DataRequest())


def test_every_set_of_the_catalog_is_one_of_torchvisions(datasets):
    for name in catalog():
        assert hasattr(datasets, name.removesuffix("@ROOT"))
