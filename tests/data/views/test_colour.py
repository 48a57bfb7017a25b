"""Changes of colour equal torchvision's, Pillow's and a slow HSV conversion."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from tests.data.views.pictures import noise, smooth
from transfuse.data.views import Colour, Draws, colour

FACTORS = [0.0, 0.1, 0.73, 1.0, 1.4, 1.9]
ENHANCERS = {
    "brightness": (colour.brighter, ImageEnhance.Brightness, "adjust_brightness"),
    "contrast": (colour.contrasted, ImageEnhance.Contrast, "adjust_contrast"),
    "saturation": (colour.saturated, ImageEnhance.Color, "adjust_saturation"),
    "sharpness": (colour.sharpened, ImageEnhance.Sharpness, "adjust_sharpness"),
}


def image(picture):
    return Image.fromarray(picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy())


def array(image):
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def apart(first, second):
    return int((first.int() - second.int()).abs().max())


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_enhancement_is_pillows_and_torchvisions_to_one_step(name, channels, functional):
    ours, pillow, torchvision = ENHANCERS[name]
    raw = torch.cat([smooth(6, channels, 20, 16), noise(2, channels, 20, 16)])
    factors = torch.tensor([*FACTORS, 0.5, 1.5], dtype=torch.float64)
    changed = ours(raw, factors)
    for number, factor in enumerate(factors.tolist()):
        assert apart(changed[number], array(pillow(image(raw[number])).enhance(factor))) <= 1  # Pillow cuts off where we round
        # torchvision cuts its greys off, too, and a grey's error counts |1 - factor| times
        theirs = getattr(functional, torchvision)(raw[number], factor)
        assert apart(changed[number], theirs) <= 2


@pytest.mark.parametrize("name", ENHANCERS)
def test_an_enhancement_by_one_changes_nothing(name):
    raw = noise(4, 3, 12, 10)
    assert torch.equal(ENHANCERS[name][0](raw, torch.ones(4, dtype=torch.float64)), raw)


def test_a_saturation_of_zero_is_pillows_grey():
    raw = noise(5, 3, 12, 10)
    grey = colour.saturated(raw, torch.zeros(5, dtype=torch.float64))
    for number in range(5):
        assert torch.equal(grey[number], array(image(raw[number]).convert("L")).expand(3, -1, -1))


def test_a_turned_hue_equals_a_slow_hsv_conversion():
    raw = torch.cat([smooth(4, 3, 10, 8), noise(4, 3, 10, 8)])
    turns = torch.tensor([-0.5, -0.21, -0.05, 0.0, 0.02, 0.1, 0.33, 0.5], dtype=torch.float64)
    ours = colour.turned_hue(raw, turns)
    assert torch.equal(ours[3], raw[3])
    for number, turn in enumerate(turns.tolist()):
        for row, column in np.ndindex(10, 8):
            hue, saturation, value = colorsys.rgb_to_hsv(*(raw[number, :, row, column].double() / 255).tolist())
            exact = 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
            assert np.abs(ours[number, :, row, column].numpy() - exact).max() <= 0.75  # half a step of rounding, and hues in 1/6144


def test_a_turned_hue_is_torchvisions_to_one_step(functional):
    raw = smooth(6, 3, 20, 16)
    for turn in (-0.4, -0.1, 0.07, 0.5):
        ours = colour.turned_hue(raw, torch.full((6,), turn, dtype=torch.float64))
        assert apart(ours, functional.adjust_hue(raw, turn)) <= 1


def test_grey_pictures_have_no_hue_and_no_saturation():
    raw = noise(3, 1)
    for change in (colour.turned_hue, colour.saturated):
        assert torch.equal(change(raw, torch.full((3,), 0.4, dtype=torch.float64)), raw)


def test_posterize_solarize_autocontrast_and_equalize_are_pillows():
    raw = torch.cat([smooth(6, 3, 30, 20) // 2 + 40, noise(3, 3, 30, 20), torch.full((1, 3, 30, 20), 77, dtype=torch.uint8)])
    count = len(raw)
    for bits in (1, 4, 8):
        ours = colour.posterized(raw, torch.full((count,), bits))
        assert all(torch.equal(ours[number], array(ImageOps.posterize(image(raw[number]), bits))) for number in range(count))
    for threshold in (0, 100, 255):
        ours = colour.solarized(raw, torch.full((count,), threshold))
        assert all(torch.equal(ours[number], array(ImageOps.solarize(image(raw[number]), threshold))) for number in range(count))
    contrast, equal = colour.autocontrasted(raw), colour.equalized(raw)
    for number in range(count):
        assert apart(contrast[number], array(ImageOps.autocontrast(image(raw[number])))) <= 1  # cut off there, rounded here
        assert torch.equal(equal[number], array(ImageOps.equalize(image(raw[number]))))


def test_each_sample_has_its_own_strength():
    raw = smooth(1, 3, 12, 10).expand(3, -1, -1, -1)
    strengths = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    for change in (colour.brighter, colour.contrasted, colour.saturated, colour.sharpened, colour.turned_hue):
        alone = torch.cat([change(raw[:1], strengths[[number]]) for number in range(3)])
        assert torch.equal(change(raw, strengths), alone)


def test_strengths_are_uniform_about_one():
    raw = torch.full((4000, 1, 2, 2), 100, dtype=torch.uint8)
    bright = Colour(0.4, 0, 0, 0)(raw, Draws(0, torch.arange(4000), torch.ones(4000, dtype=torch.int64)))[:, 0, 0, 0].double()
    assert stats.kstest(bright.numpy() + np.random.default_rng(0).uniform(-0.5, 0.5, 4000), "uniform", args=(59.5, 81)).pvalue > 1e-4


def test_brightness_contrast_saturation_and_hue_follow_each_other_with_draws_of_their_own():
    raw, draws = smooth(20, 3, 12, 10), Draws(0, torch.arange(20), torch.ones(20, dtype=torch.int64))
    step = raw
    for amounts in ((0.4, 0, 0, 0), (0, 0.4, 0, 0), (0, 0, 0.4, 0), (0, 0, 0, 0.1)):
        step = Colour(*amounts)(step, draws)
    assert torch.equal(Colour(0.4, 0.4, 0.4, 0.1)(raw, draws), step)


def test_pictures_of_one_and_two_pixels_survive():
    for size in (1, 2):
        raw = noise(4, 3, size, size)
        for change in (colour.brighter, colour.contrasted, colour.saturated, colour.sharpened, colour.turned_hue):
            assert change(raw, torch.full((4,), 0.3, dtype=torch.float64)).shape == raw.shape
        assert colour.equalized(raw).shape == colour.autocontrasted(raw).shape == raw.shape
