"""`resize: crop_first` cuts the centre out of the picture and resizes that, as TensorFlow's ImageNet models were evaluated."""

import numpy as np
import torch
from PIL import Image

from transfuse.core.preprocess import Preprocess


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_file_is_cropped_and_then_resized_by_pillow():
    image = picture(199, 331)
    side = 0.875 * 199
    frame = ((331 - side) / 2, (199 - side) / 2, (331 + side) / 2, (199 + side) / 2)
    expected = np.array(image.crop(frame).resize((96, 96), Image.Resampling.BILINEAR))
    found = Preprocess(size=(96, 96), crop=0.875, resize="crop_first").exact_image(image)
    assert torch.equal(found[0].permute(1, 2, 0), torch.from_numpy(expected).float())


def test_arrays_take_the_same_frame():
    image = picture(64, 80)
    preprocess = Preprocess(size=(28, 28), crop=0.875, resize="crop_first")
    raw = torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())
    assert (preprocess.exact_batch(raw) - preprocess.exact_image(image)).abs().max() <= 1  # Pillow rounds between its two passes


def test_a_frame_of_its_own_shape_is_not_distorted():
    stripes = np.zeros((100, 200, 3), dtype=np.uint8)
    stripes[:, 50:150] = 255
    found = Preprocess(size=(10, 20), crop=0.5, resize="crop_first").exact_image(Image.fromarray(stripes))
    assert found.shape == (1, 3, 10, 20)
    assert found.min() == 255
