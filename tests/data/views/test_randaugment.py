"""RandAugment's operations equal torchvision's at every magnitude, and are drawn as the paper says."""

import math

import pytest
import torch
from scipy import stats

from tests.data.views.pictures import smooth
from transfuse.data.views import Draws, RandAugment, randaugment

MAGNITUDES = [0, 3, 9, 17, 30]


def theirs(functional, name, picture, magnitude, sign):
    """What torchvision.transforms.v2.RandAugment does to a picture, by its own functions and strengths (31 bins)."""
    from torchvision.transforms.v2 import RandAugment as Reference

    reference = Reference(magnitude=magnitude)
    names = {"saturation": "Color", "autocontrast": "AutoContrast"}
    title = names.get(name, "".join(word.capitalize() for word in name.split("_")))
    strengths, signed = reference._AUGMENTATION_SPACE[title]
    strength = strengths(31, *picture.shape[1:])
    value = float(strength[magnitude]) if strength is not None else 0.0
    return reference._apply_image_or_video_transform(
        picture, title, value * (sign if signed else 1), reference.interpolation, {torch.Tensor: 0.0}
    )


@pytest.mark.parametrize("operation", randaugment.OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_an_operation_is_torchvisions_at_this_magnitude(operation, magnitude, functional):
    raw, name = smooth(4, 3, 41, 32), operation.__name__
    signs = torch.tensor([1, -1, 1, -1])
    ours = operation(raw, magnitude / 30, signs)
    if name in ("solarize",) and magnitude:  # a value at the threshold itself is told apart by float32's last digit there
        raw = raw.where((raw.double() - 255 * (1 - magnitude / 30)).abs() > 1e-3, raw - 1)
        ours = operation(raw, magnitude / 30, signs)
    for number, sign in enumerate(signs.tolist()):
        expected = theirs(functional, name, raw[number], magnitude, sign)
        differs = (ours[number].int() - expected.int()).abs()
        if name in ("shear_x", "shear_y", "rotate"):  # where two pixels are equally near, float32 and ours choose differently
            assert (differs > 0).float().mean() < 0.01
        elif name in ("brightness", "saturation", "contrast", "sharpness", "autocontrast"):
            assert differs.max() <= 2
        else:
            assert differs.max() == 0


@pytest.mark.parametrize("operation", ["shear_x", "shear_y", "rotate"])
@pytest.mark.parametrize("size", [(20, 31), (33, 16)])
def test_geometric_operations_take_the_nearest_pixel_of_a_slow_float64_loop(operation, size):
    height, width = size
    raw, strength = smooth(1, 1, height, width), 17 / 30
    ours = getattr(randaugment, operation)(raw, strength, torch.ones(1, dtype=torch.int64))[0, 0]
    unlike = 0
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            if operation == "rotate":
                angle = math.radians(30 * strength)
                x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
            elif operation == "shear_x":
                x += 0.3 * strength * (row + 0.5)
            else:
                y += 0.3 * strength * (column + 0.5)
            source = (math.floor(y + (height - 1) / 2 + 0.5), math.floor(x + (width - 1) / 2 + 0.5))
            inside = 0 <= source[0] < height and 0 <= source[1] < width
            unlike += int(ours[row, column]) != (int(raw[0, 0][source]) if inside else 0)
    assert unlike <= 1  # a position within 1/65536 of the middle between two pixels


def test_operations_and_signs_are_drawn_uniformly_and_independently_of_each_other():
    draws = Draws(0, torch.arange(14000), torch.zeros(14000, dtype=torch.int64))
    drawn = [draws.integers(f"randaugment.{number}.operation", 14) for number in range(2)]
    for chosen in drawn:
        assert stats.chisquare(chosen.bincount(minlength=14).numpy()).pvalue > 1e-4
    table = torch.zeros(14, 14).index_put_(tuple(drawn), torch.ones(14000), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-4
    signs = draws.integers("randaugment.0.sign", 2)
    table = torch.zeros(14, 2).index_put_((drawn[0], signs), torch.ones(14000), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-4


def test_samples_go_through_their_operations_one_after_the_other():
    raw, draws = smooth(50, 3, 20, 16), Draws(5, torch.arange(50), torch.full((50,), 3))
    out = RandAugment(2, 12)(raw, draws)
    for number in range(50):
        picture = raw[[number]]
        for step in range(2):
            operation = randaugment.OPERATIONS[int(draws.integers(f"randaugment.{step}.operation", 14)[number])]
            sign = 2 * draws.integers(f"randaugment.{step}.sign", 2)[[number]] - 1
            picture = operation(picture, 12 / 30, sign)
        assert torch.equal(picture[0], out[number])


def test_a_translation_moves_whole_pixels_and_leaves_black():
    raw = smooth(2, 3, 33, 20)
    moved = randaugment.translate_x(raw, 0.3, torch.tensor([1, -1]))
    pixels = int(150 / 331 * 20 * 0.3)
    assert torch.equal(moved[0, :, :, pixels:], raw[0, :, :, :-pixels])
    assert torch.equal(moved[1, :, :, :-pixels], raw[1, :, :, pixels:])
    assert moved[0, :, :, :pixels].max() == moved[1, :, :, -pixels:].max() == 0
