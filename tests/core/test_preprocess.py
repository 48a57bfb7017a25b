"""What a Preprocess refuses when it is read from a recipe or from beside a weights file."""

import pytest
import torch

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


@pytest.mark.parametrize(
    ("shape", "statistics", "message"),
    [
        ((4, 5), 8, "takes 8 columns, the data have 5"),
        ((4, 1), 8, "takes 8 columns, the data have 1"),
        ((4, 1), 3, "takes 3 columns, the data have 1"),
        ((4, 3, 2, 2), 4, "takes 4 channels, the data have 3"),
        ((4, 1, 2, 2), 2, "takes 2 channels, the data have 1"),
    ],
)
@pytest.mark.parametrize("key", ["mean", "std"])
def test_inputs_of_another_width_than_the_statistics_are_refused_with_both_counts(shape, statistics, message, key):
    with pytest.raises(ModelError, match=message) as refused:
        Preprocess.from_dict({key: [0.5] * statistics}).normalise(torch.zeros(shape))
    assert refused.value.fix


@pytest.mark.parametrize(("shape", "statistics"), [((4, 5), 1), ((4, 5), 5), ((4, 3, 2, 2), 1), ((4, 3, 2, 2), 3)])
def test_one_statistic_serves_all_columns_and_channels(shape, statistics):
    normalised = Preprocess(mean=(1.0,) * statistics, std=(2.0,)).normalise(torch.full(shape, 5.0))
    assert torch.equal(normalised, torch.full(shape, 2.0))


def test_three_statistics_make_a_grey_picture_one_of_three_channels():
    grey = torch.full((2, 1, 4, 4), 6, dtype=torch.uint8)
    normalised = Preprocess(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 3.0)).normalise(grey)
    assert torch.equal(normalised, torch.tensor([5.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4))
