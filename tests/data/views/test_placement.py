"""Crops, flips, resized crops and rotations equal slow loops, torchvision and Pillow."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats

from tests.data.views.pictures import noise as pictures
from tests.data.views.pictures import smooth
from transfuse.data.views import BatchViews, Draws, ResizedCrop, Rotation
from transfuse.data.views.boxes import drawn_boxes
from transfuse.data.views.placement import resampled, rotated, stretched


def draws_of(count, seed=0):
    return Draws(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64))


def test_half_of_the_samples_are_flipped():
    raw = pictures(1).expand(4000, -1, -1, -1)
    out = BatchViews(views=1, seed=0, flip=True).apply(raw, torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    flipped = (out == raw.flip(3)).flatten(1).all(1)
    kept = (out == raw).flatten(1).all(1)
    assert (flipped | kept).all()
    assert stats.binomtest(int(flipped.sum()), 4000).pvalue > 1e-4


def test_crop_and_flip_equal_a_slow_loop_of_numpy_and_pillow():
    raw, ids, which = pictures(30, height=11, width=8), torch.arange(30) + 1000, torch.arange(30)
    crop, draws = 3, Draws(9, ids, which)
    rows, columns, flips = draws.integers("crop.row", 7), draws.integers("crop.column", 7), draws.integers("flip", 2)
    out = BatchViews(views=None, seed=9, crop=crop, flip=True).apply(raw, ids, which)
    for number in range(30):
        padded = np.pad(raw[number].permute(1, 2, 0).numpy(), ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
        row, column = int(rows[number]), int(columns[number])
        expected = padded[row : row + 11, column : column + 8]
        if flips[number]:
            expected = np.asarray(ImageOps.mirror(Image.fromarray(expected)))
        assert np.array_equal(out[number].permute(1, 2, 0).numpy(), expected)


def test_the_largest_possible_crop_still_reflects_inside():
    raw = pictures(200, height=5, width=5)
    out = BatchViews(views=None, seed=0, crop=4).apply(raw, torch.arange(200), torch.zeros(200, dtype=torch.int64))
    for number in range(200):
        assert set(out[number, 0].flatten().tolist()) <= set(raw[number, 0].flatten().tolist())


def test_a_resized_crop_is_torchvisions_crop_and_resize(functional):
    raw, draws = smooth(60, height=40, width=32), draws_of(60)
    operation = ResizedCrop((0.08, 1.0), (0.75, 4 / 3))
    boxes = drawn_boxes(draws, "resized_crop", (40, 32), operation.scale, operation.ratio)
    ours = operation(raw, draws)
    for number in range(60):
        place = [int(part[number]) for part in (boxes.top, boxes.left, boxes.height, boxes.width)]
        exact = functional.resized_crop(raw[number].double(), *place, [40, 32], antialias=True)
        assert (ours[number] - exact).abs().max() <= 1.5  # rounding to 8 bits, and positions in 1/256 pixel
        assert (ours[number] - exact).abs().mean() < 0.4


def test_resampling_at_whole_pixels_copies_them_and_halfway_is_the_mean():
    raw = pictures(3, height=6, width=5)
    rows, columns = (torch.arange(6) * 256).expand(3, 6), (torch.arange(5) * 256).expand(3, 5)
    assert torch.equal(resampled(raw, rows, columns), raw)
    half = resampled(raw.float(), rows[:, :5] + 128, columns[:, :4] + 128)
    corners = [raw[..., top : top + 5, left : left + 4].double() for top in (0, 1) for left in (0, 1)]
    assert torch.equal(half.double(), sum(corners) / 4)


@pytest.mark.parametrize(("goal", "length", "start"), [(32, 32, 0), (32, 9, 4), (7, 1, 3), (224, 200, 24)])
def test_stretched_positions_are_pixel_centres_inside_the_part(goal, length, start):
    found = stretched(torch.tensor([start]), torch.tensor([length]), goal)[0].double() / 256
    centres = (torch.arange(goal, dtype=torch.float64) + 0.5) * length / goal - 0.5
    assert torch.allclose(found, start + centres.clamp(0, length - 1), atol=1 / 256)


def test_boxes_have_uniform_areas_log_uniform_ratios_and_uniform_places():
    height, width, scale, ratio = 300, 300, (0.02, 0.3), (0.3, 3.3)
    boxes = drawn_boxes(draws_of(5000), "erasing", (height, width), scale, ratio)
    assert boxes.found.all()
    area = (boxes.height * boxes.width).double() / (height * width)
    assert stats.kstest(area.numpy(), "uniform", args=(scale[0], scale[1] - scale[0])).pvalue > 1e-4
    shape = (boxes.width.double() / boxes.height).log().numpy()
    assert stats.kstest(shape, "uniform", args=(math.log(ratio[0]), math.log(ratio[1] / ratio[0]))).pvalue > 1e-4
    place = (boxes.top.double() + 0.5) / (height - boxes.height + 1)
    assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("size", [(5, 200), (200, 5), (1, 1), (3, 3)])
def test_boxes_lie_inside_pictures_of_any_shape(size):
    height, width = size
    boxes = drawn_boxes(draws_of(500), "resized_crop", size, (0.08, 1.0), (0.75, 4 / 3))
    for start, length, whole in ((boxes.top, boxes.height, height), (boxes.left, boxes.width, width)):
        assert start.min() >= 0
        assert length.min() >= 1
        assert (start + length).max() <= whole
    if max(size) > 10:  # nothing fits: the largest centred part whose ratio is allowed
        assert not boxes.found.all()
        fallback = ~boxes.found
        assert (boxes.width / boxes.height)[fallback].min() >= 0.7
        assert (boxes.width / boxes.height)[fallback].max() <= 1.5
    assert ResizedCrop((0.08, 1.0), (0.75, 4 / 3))(pictures(4, height=height, width=width), draws_of(4)).shape[2:] == size


def test_a_quarter_turn_is_rot90_and_a_half_turn_mirrors_both_ways():
    raw = pictures(4, height=8, width=8)
    assert torch.equal(rotated(raw, torch.full((4,), 90.0, dtype=torch.float64)), torch.rot90(raw, 1, (2, 3)))
    assert torch.equal(rotated(raw, torch.full((4,), 180.0, dtype=torch.float64)), raw.flip(2, 3))
    assert torch.equal(rotated(raw, torch.zeros(4, dtype=torch.float64)), raw)


@pytest.mark.parametrize("size", [(40, 32), (31, 45)])
def test_a_rotation_is_torchvisions_inside_and_mirrored_beyond_the_edges(functional, size):
    raw = smooth(20, height=size[0], width=size[1])
    draws = draws_of(20)
    degrees = draws.between("rotation", -30, 30)
    ours = Rotation(30.0)(raw, draws)
    assert degrees.min() < -20
    assert degrees.max() > 20
    pad = 30
    wide = torch.nn.functional.pad(raw.double(), (pad, pad, pad, pad), mode="reflect")  # so that torchvision has something beyond the edges
    for number in range(20):
        exact = functional.rotate(wide[number], float(degrees[number]), functional.InterpolationMode.BILINEAR)[:, pad:-pad, pad:-pad]
        assert (ours[number] - exact).abs().max() <= 2.5  # positions in 1/256 pixel where neighbours differ by up to 100
        assert (ours[number] - exact).abs().mean() < 0.4


def test_rotation_of_a_line_of_pixels_stays_inside():
    raw = pictures(50, height=1, width=30)
    out = rotated(raw, torch.linspace(-180, 180, 50, dtype=torch.float64))
    assert out.shape == raw.shape
    assert out[0].min() >= raw[0].min()
