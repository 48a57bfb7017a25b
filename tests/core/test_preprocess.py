"""What a Preprocess refuses when it is read from a recipe or from beside a weights file."""

import pytest

from transfuse.core.preprocess import Preprocess
from transfuse.errors import ModelError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", "big"),
        ("size", [8]),
        ("size", 10**8),
        ("size", True),
        ("channels", 2),
        ("mean", [float("nan")]),
        ("mean", 0.5),
        ("std", [0.0]),
        ("std", [-1.0]),
        ("std", ["x"]),
        ("scale", 0),
        ("scale", None),
        ("crop", 0),
        ("resize", "stretch"),
        ("interpolation", "best"),
    ],
)
def test_values_that_make_no_sense_name_their_key(key, value):
    with pytest.raises(ModelError, match=f"preprocess.{key} can't be") as refused:
        Preprocess.from_dict({key: value})
    assert refused.value.fix


def test_what_was_written_is_read_again():
    given = Preprocess(size=(32, 24), channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), scale=1 / 255, crop=0.875, resize="short_side")
    assert Preprocess.from_dict(given.to_dict()) == given
    assert Preprocess.from_dict({"size": 32}).size == (32, 32)
