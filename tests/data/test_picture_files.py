"""Files are looked at once, together: one size, one number of channels, all broken ones in one message."""

import pytest
import torch

from transfuse.core.types import DataRequest
from transfuse.data.picture_files import Entry, look_at
from transfuse.errors import DataError


def entries(root, count):
    return [Entry(root / f"{number}.png", f"{number}.png", "x", "test" if number % 3 == 0 else "train") for number in range(count)]


def test_parts_keep_their_rows_and_share_one_shape(tmp_path, picture):
    for number in range(6):
        picture(tmp_path / f"{number}.png", seed=number)
    pictures = look_at(entries(tmp_path, 6), DataRequest(), "x")
    assert pictures.rows("test") == [0, 3]
    assert pictures.rows("train") == [1, 2, 4, 5]
    assert pictures.shape == (3, 10, 12)
    samples = pictures.samples("test", torch.tensor([7, 8]))
    assert samples is not None
    assert samples.ids.tolist() == ["0.png", "3.png"]
    assert pictures.samples("val", torch.tensor([])) is None


def test_more_broken_files_than_fit_in_a_message_are_counted(tmp_path):
    for number in range(15):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(DataError, match=r"15 files can't be read.*and 5 more"):
        look_at(entries(tmp_path, 15), DataRequest(), "x")


def test_no_files_at_all_is_an_error():
    with pytest.raises(DataError, match="no pictures"):
        look_at([], DataRequest(), "x")
