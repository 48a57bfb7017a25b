"""Corruptions against their definitions: the same pictures every time, and worse ones as severity grows."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy.signal import correlate2d

from transfuse.errors import RecipeError
from transfuse.evaluate import corruptions
from transfuse.evaluate.corruptions import blur, digital, noise, weather
from transfuse.evaluate.corruptions.scale import Scale

SMALL, LARGE = Scale.of(32, 32), Scale.of(224, 224)


def pictures(n=3, channels=3, side=32):
    """Smooth pictures with an edge, uint8."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    random = np.random.default_rng(0)
    planes = [[np.clip(a * x + b * y + 0.4 * (x > c), 0, 1) for a, b, c in random.random((channels, 3))] for _ in range(n)]
    return (np.array(planes) * 255).astype(np.uint8)


def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", corruptions.names())
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8), (3, 112)])
def test_a_corruption_changes_pictures_repeatably_and_keeps_their_form(name, channels, side):
    if side == 112 and name in ("glass_blur", "motion_blur", "elastic_transform"):
        pytest.skip("the same code as for small pictures, and slow")
    raw = pictures(2, channels, side)
    once = corruptions.corrupt(raw, name, 4, seed=3, chunk=1)
    assert (once.shape, once.dtype) == (raw.shape, np.uint8)
    assert (once != raw).any()
    assert (corruptions.corrupt(raw, name, 4, seed=3, chunk=1) == once).all()


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "snow", "fog", "elastic_transform", "motion_blur"])
def test_each_chunk_and_seed_has_random_numbers_of_its_own(name):
    raw = pictures(2)
    found = [corruptions.corrupt(raw, name, 3, seed, chunk).tobytes() for seed, chunk in ((0, 0), (0, 1), (1, 0))]
    assert len(set(found)) == 3


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "zoom_blur", "brightness", "contrast", "jpeg_compression"]
)
def test_a_higher_severity_is_further_from_the_picture(name, side):
    raw = pictures(4, side=side)
    apart = [np.abs(corruptions.corrupt(raw, name, severity).astype(float) - raw).mean() for severity in corruptions.SEVERITIES]
    assert apart == sorted(apart)


@pytest.mark.parametrize(("scale", "severity", "c"), [(SMALL, 0, 0.04), (SMALL, 4, 0.10), (LARGE, 2, 0.18)])
def test_gaussian_noise_has_the_published_deviation(scale, severity, c):
    grey = np.full((8, 3, 64, 64), 0.5, np.float32)
    assert noise.gaussian_noise(grey, severity, scale, generator()).std() == pytest.approx(c, rel=0.02)


def test_shot_noise_has_the_mean_and_variance_of_photons():
    grey = np.full((8, 3, 64, 64), 0.5, np.float32)
    found = noise.shot_noise(grey, 3, SMALL, generator())
    assert found.mean() == pytest.approx(0.5, rel=0.01)
    assert found.var() == pytest.approx(0.5 / 75, rel=0.03)


def test_impulse_noise_hits_the_published_share_half_of_it_white():
    found = noise.impulse_noise(np.full((8, 3, 64, 64), 0.5, np.float32), 4, LARGE, generator())
    assert (found == 1).mean() == pytest.approx(0.27 / 2, rel=0.03)
    assert (found == 0).mean() == pytest.approx(0.27 / 2, rel=0.03)


def test_brightness_raises_the_value_of_hsv_and_nothing_else():
    raw = pictures(1).astype(np.float32) / 255
    found = weather.brightness(raw, 3, SMALL, generator())
    for place in ((0, 0), (5, 20), (31, 31), (16, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*raw[0, :, place[0], place[1]].tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert found[0, :, place[0], place[1]].tolist() == pytest.approx(expected, abs=1e-5)


def test_contrast_draws_each_channel_towards_its_mean():
    raw = pictures(2).astype(np.float64) / 255
    found = digital.contrast(raw, 4, LARGE, generator())
    assert found.mean((2, 3)) == pytest.approx(raw.mean((2, 3)))
    assert found.std((2, 3)) == pytest.approx(0.05 * raw.std((2, 3)))


def test_jpeg_is_pillows():
    raw = pictures(1)
    file = io.BytesIO()
    Image.fromarray(raw[0].transpose(1, 2, 0)).save(file, "JPEG", quality=40)
    assert (corruptions.corrupt(raw, "jpeg_compression", 5)[0].transpose(1, 2, 0) == np.asarray(Image.open(file))).all()


def test_pixelate_leaves_as_many_colours_as_coarse_pixels():
    raw = np.random.default_rng(0).integers(256, size=(1, 1, 100, 100), dtype=np.uint8)
    found = corruptions.corrupt(raw, "pixelate", 5)[0, 0]
    assert all(len({row.tobytes() for row in side}) == 25 for side in (found, found.T))


def test_defocus_is_the_mean_over_a_disk():
    raw = pictures(1, 1, 224).astype(np.float32) / 255
    found = blur.defocus_blur(raw, 0, LARGE, generator())
    y, x = np.mgrid[-3:4, -3:4]
    disk = (x**2 + y**2 <= 9) / (x**2 + y**2 <= 9).sum()
    assert found[0, 0] == pytest.approx(correlate2d(np.pad(raw[0, 0], 3, "reflect"), disk, "valid"), abs=1e-5)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast"])
def test_what_moves_pixels_leaves_an_even_picture_alone(name):
    even = np.full((2, 3, 32, 32), 100, np.uint8)
    for severity in (1, 5):
        assert np.abs(corruptions.corrupt(even, name, severity).astype(int) - 100).max() <= 1


def test_zoom_blur_keeps_the_centre_and_smears_the_rim():
    raw = np.zeros((1, 1, 65, 65), np.float32)
    raw[0, 0, 29:36, 29:36] = raw[0, 0, 29:36, 1] = 1
    found = blur.zoom_blur(raw, 0, SMALL, generator())[0, 0]
    assert found[32, 32] > 0.8
    assert found[32, 2] < 0.5


def test_motion_blur_is_a_line_of_one_side_whose_weights_sum_to_one():
    raw = np.zeros((1, 1, 65, 65), np.float32)
    raw[0, 0, 32, 32] = 1
    found = blur.motion_blur(raw, 4, SMALL, generator())[0, 0]
    rows, columns = np.nonzero(found)
    assert found.sum() == pytest.approx(1, abs=1e-3)
    assert len(np.unique(columns)) > 4
    assert (columns <= 32).all()
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(slope) <= 1.05


def test_plasma_fills_zero_to_one_and_differs_between_pictures():
    found = weather.plasma(3, 20, 33, decay=2.0, random=generator())
    assert found.shape == (3, 1, 20, 33)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.abs(found[0] - found[1]).mean() > 0.05


def test_fog_keeps_white_white_and_greys_the_rest():
    raw = np.ones((1, 3, 32, 32), np.float32)
    assert weather.fog(raw, 4, LARGE, generator()).max() <= 1 + 1e-6
    dark = np.concatenate([raw, raw * 0.1], axis=3)
    assert weather.fog(dark, 2, SMALL, generator())[..., 32:].mean() > dark[..., 32:].mean()


def test_snow_makes_pictures_brighter():
    raw = pictures(3)
    assert corruptions.corrupt(raw, "snow", 3).mean() > raw.mean() + 5


def test_small_pictures_get_the_constants_of_small_ones_with_lengths_to_scale():
    assert (Scale.of(32, 48).small, Scale.of(32, 48).factor) == (True, 1)
    assert (Scale.of(64, 64).small, Scale.of(64, 64).factor) == (True, 2)
    assert (Scale.of(224, 300).small, Scale.of(224, 300).factor) == (False, 1)
    assert "CIFAR-10-C" in corruptions.constants(32, 32)
    assert "ImageNet-C" in corruptions.constants(112, 112)
    assert "0.5" in corruptions.constants(112, 112)


def test_families_and_names_choose_corruptions_in_the_papers_order():
    assert corruptions.chosen(["fog", "noise"]) == ["gaussian_noise", "shot_noise", "impulse_noise", "fog"]
    assert len(corruptions.names()) == 15
    with pytest.raises(RecipeError, match="did you mean 'gaussian_noise'"):
        corruptions.chosen(["gausian_noise"])
