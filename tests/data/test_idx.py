"""MNIST's format is read as it is written, and every kind of damage is named."""

import gzip
import struct

import numpy as np
import pytest

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.idx import open_data, read_idx
from transfuse.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 5, 4), dtype=np.uint8)
LABELS = (np.arange(40) % 4).astype(np.uint8)


def encoded(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    def write(parts=("train", "t10k"), zipped=False, dot="-", place="set", prefix=""):
        root = tmp_path / place
        root.mkdir(parents=True, exist_ok=True)
        for part in parts:
            rows = slice(0, 30) if part == "train" else slice(30, 40)
            for kind, rank, array in (("images", 3, PIXELS), ("labels", 1, LABELS)):
                content = encoded(array[rows])
                name = f"{prefix}{part}-{kind}{dot}idx{rank}-ubyte"
                (root / (name + (".gz" if zipped else ""))).write_bytes(gzip.compress(content) if zipped else content)
        return root

    return write


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_files_are_read_zipped_or_not_under_both_spellings(folder, zipped, dot):
    parts = open_data(str(folder(zipped=zipped, dot=dot)), DataRequest())
    assert np.array_equal(parts.train.raw(range(30)).numpy()[:, 0], PIXELS[:30])
    assert parts.test is not None
    assert np.array_equal(parts.test.raw(range(10)).numpy()[:, 0], PIXELS[30:])
    assert parts.train.labels.tolist() == LABELS[:30].tolist()
    assert parts.classes == ["0", "1", "2", "3"]
    assert parts.test.ids[0] == "test/0"


def test_without_test_files_a_test_part_is_held_out(folder):
    dataset = data.open_data(f"idx:{folder(parts=('train',))}", DataRequest())
    assert len(dataset.test) == 6
    assert len(dataset.train) + len(dataset.val) == 24


def test_torchvisions_folders_and_emnists_prefixes_are_found(folder, tmp_path):
    folder(place="root/MNIST/raw")
    assert len(open_data(str(tmp_path / "root"), DataRequest()).train) == 30
    single = folder(place="emnist", parts=("train", "test"), prefix="emnist-letters-")
    assert open_data(str(single), DataRequest()).test is not None
    folder(place="emnist", prefix="emnist-digits-")
    with pytest.raises(DataError, match="several sets"):
        open_data(str(single), DataRequest())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG1234567890123456", "begins with 89504e47, not with the magic number 00000803"),
        (encoded(LABELS), "magic number 00000803"),
        (encoded(PIXELS)[:-5], "says 40 x 5 x 4 = 800 values, but holds 795"),
        (encoded(PIXELS) + b"123", "holds 803"),
        (gzip.compress(encoded(PIXELS))[:-20], "can't be read"),
        (b"\x1f\x8b" + b"garbage" * 5, "can't be read"),
    ],
    ids=["empty", "png", "labels", "short", "long", "cut gzip", "bad gzip"],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / "train-images-idx3-ubyte", 3)
    assert str(caught.value.where).endswith("train-images-idx3-ubyte")


def test_pictures_and_labels_that_differ_in_number_are_refused(folder):
    root = folder()
    (root / "train-labels-idx1-ubyte").write_bytes(encoded(LABELS[:29]))
    with pytest.raises(DataError, match="30 pictures, but 29 labels"):
        open_data(str(root), DataRequest())


def test_missing_files_are_explained(folder, tmp_path):
    root = folder()
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no t10k-labels"):
        open_data(str(root), DataRequest())
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="no train-images"):
        open_data(str(tmp_path / "other"), DataRequest())


def test_mnist_opens_whole(test_data):
    dataset = data.open_data(f"idx:{test_data.mnist_folder()}", DataRequest())
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (54000, 6000, 10000)
    assert dataset.input_shape == (1, 28, 28)
    assert dataset.preprocess.mean == pytest.approx((0.1307,), abs=0.005)  # the known statistics of the training part
    assert dataset.preprocess.std == pytest.approx((0.3081,), abs=0.005)
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]  # the well-known first test digits
