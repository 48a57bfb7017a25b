"""Arrays in every layout become the same raw inputs, and what can't be told apart is refused."""

import numpy as np
import pytest
import torch

from transfuse.data.layout import as_array, read_inputs
from transfuse.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


def read(array, **others):
    found, modality, notes = read_inputs({"x": array, **others})
    return found["x"], modality, notes


def test_channels_last_first_and_grey_are_recognised():
    last, modality, notes = read(PIXELS)
    assert modality == "image"
    assert not notes
    assert np.array_equal(last.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert torch.equal(read(PIXELS.transpose(0, 3, 1, 2))[0], last)
    grey = read(PIXELS[..., 0])[0]
    assert grey.shape == (5, 1, 8, 6)
    assert torch.equal(read(PIXELS[..., :1])[0], grey)


@pytest.mark.parametrize("shape", [(4, 3, 9, 1), (4, 1, 9, 3), (4, 3, 3, 3), (4, 3, 9, 3), (4, 4, 6, 3)])
def test_a_shape_that_can_be_both_is_refused(shape):
    with pytest.raises(DataError, match="channels-first or channels-last"):
        read(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_a_wrong_number_of_channels_is_refused(channels):
    with pytest.raises(DataError, match="neither 1, 3 or 4 channels"):
        read(np.zeros((4, 8, 8, channels), dtype=np.uint8))


def test_tables_become_float32_columns():
    table, modality, _ = read(np.arange(6).reshape(3, 2))
    assert modality == "columns"
    assert table.dtype == torch.float32
    assert table.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_that_came_from_8_bits_go_back_to_them(dtype):
    read_back, _, notes = read((PIXELS / 255).astype(dtype))
    assert read_back.dtype == torch.uint8
    assert np.array_equal(read_back.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert "8-bit" in notes[0]


def test_finer_floats_stay_floats_in_the_units_of_8_bits():
    fine = np.random.default_rng(0).random((5, 8, 6, 3)).astype(np.float32)
    read_back, _, notes = read(fine)
    assert read_back.dtype == torch.float32
    assert np.allclose(read_back.numpy(), fine.transpose(0, 3, 1, 2) * 255)
    assert "finer than 8 bits" in notes[0]


def test_one_fine_value_is_enough_to_keep_floats():
    values = PIXELS / 255
    values[3, 2, 1, 0] = 0.4 / 255
    assert read(values)[0].dtype == torch.float32


def test_normalised_pictures_are_kept_with_a_warning():
    values = (PIXELS / 255 - 0.5) / 0.25
    read_back, _, notes = read(values)
    assert np.allclose(read_back.numpy(), values.transpose(0, 3, 1, 2), atol=1e-6)
    assert "from -2 to 2" in notes[0]


def test_other_whole_numbers_and_switches_become_8_bits():
    assert np.array_equal(read(PIXELS.astype(np.int64))[0].numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert np.array_equal(read(PIXELS.astype(np.float64))[0].numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert set(read(PIXELS[..., 0] > 128)[0].unique().tolist()) == {0, 255}


def test_16_bits_are_scaled_without_loss():
    deep = np.random.default_rng(0).integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    read_back = read(deep)[0]
    assert read_back.dtype == torch.float32
    assert np.allclose(read_back.numpy()[:, 0], deep / 65535 * 255, atol=1e-3)
    assert read((PIXELS[..., 0].astype(np.uint16)) * 257)[0].dtype == torch.uint8


def test_alpha_is_put_on_white():
    pixels = np.zeros((1, 8, 8, 4), dtype=np.uint8)
    pixels[0, 0, 0] = (200, 100, 0, 128)
    read_back, _, notes = read(pixels)
    assert read_back.shape == (1, 3, 8, 8)
    assert read_back[0, :, 0, 0].tolist() == [round(value * 128 / 255 + 255 * 127 / 255) for value in (200, 100, 0)]
    assert read_back[0, :, 5, 5].tolist() == [255, 255, 255]
    assert "white" in notes[0]


def test_all_parts_are_read_the_same_way():
    dark = np.zeros((2, 8, 6, 3), dtype=np.float32)  # alone it would be whole steps
    fine = np.random.default_rng(0).random((5, 8, 6, 3)).astype(np.float32)
    found, _, _ = read_inputs({"x_train": fine, "x_test": dark})
    assert found["x_test"].dtype == found["x_train"].dtype == torch.float32


@pytest.mark.parametrize(
    ("test", "message"),
    [(PIXELS[:, :5], "differ in shape"), (PIXELS[..., 0], "differ in shape"), (np.zeros((3, 4)), "tables and some are pictures")],
)
def test_parts_that_do_not_fit_are_refused(test, message):
    with pytest.raises(DataError, match=message):
        read_inputs({"x_train": PIXELS, "x_test": test})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_their_rows(value):
    table = np.zeros((30, 3))
    table[[7, 19], 1] = value
    with pytest.raises(DataError, match=r"rows 7, 19") as caught:
        read(table)
    assert caught.value.where == "x"
    pictures = np.zeros((4, 8, 8), dtype=np.float32)
    pictures[2, 1, 1] = value
    with pytest.raises(DataError, match=r"row 2"):
        read(pictures)


def test_what_float32_cannot_hold_is_refused():
    with pytest.raises(DataError, match="32-bit"):
        read(np.array([[1e300]]))


NEITHER = [np.array(["a", "b"]), np.zeros((3, 2), dtype=complex), np.zeros(4), np.zeros((2,) * 5), np.zeros((3, 0))]


@pytest.mark.parametrize("array", NEITHER, ids=["text", "complex", "1-D", "5-D", "no columns"])
def test_what_is_no_table_and_no_pictures_is_refused(array):
    with pytest.raises(DataError):
        read(array)


def test_read_only_and_reversed_arrays_are_taken():
    frozen = PIXELS.transpose(0, 3, 1, 2).copy()
    frozen.flags.writeable = False
    assert np.array_equal(read(frozen)[0].numpy(), frozen)
    assert np.array_equal(read(PIXELS[::-1])[0].numpy(), PIXELS[::-1].transpose(0, 3, 1, 2))
    table = np.broadcast_to(np.float32(1), (3, 2))
    assert read(table)[0].tolist() == [[1, 1]] * 3


def test_tensors_lists_and_anything_array_like_are_taken():
    assert np.array_equal(as_array([[1, 2], [3, 4]], "x"), np.array([[1, 2], [3, 4]]))
    assert as_array(torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True), "x").tolist() == [1.5]
    with pytest.raises(DataError, match="differ in length"):
        as_array([[1, 2], [3]], "x")
    with pytest.raises(DataError, match="objects"):
        as_array(np.array([{}, None]), "x")
