"""Picture files of every kind are read as people see them, and broken ones are named with the reason."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from transfuse.data.decode import Found, Unreadable, examine, in_threads, read_picture
from transfuse.errors import DataError


def test_plain_rgb_and_grey_files_are_read_as_pillow_reads_them(tmp_path, picture):
    pixels = picture(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), pixels)
    grey = picture(tmp_path / "g.png", mode="L")
    image = read_picture(tmp_path / "g.png")
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), grey)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = picture(tmp_path / "a.png", (6, 4), exif=exif)
    upright = np.asarray(read_picture(tmp_path / "a.png"))
    turned = {  # by the EXIF standard: where row 0 and column 0 of the stored pixels are to be seen
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }
    assert np.array_equal(upright, turned[orientation])
    found = examine(tmp_path / "a.png")
    assert isinstance(found, Found)
    assert (found.height, found.width) == upright.shape[:2]


def test_transparency_is_put_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (255, 0, 0, 0)
    pixels[1, 0] = (0, 0, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = np.asarray(read_picture(tmp_path / "a.png"))
    assert seen[0, 0].tolist() == [255, 0, 0]
    assert seen[0, 1].tolist() == [255, 255, 255]
    assert seen[1, 0].tolist() == [204, 204, 204]  # 255 * (1 - 51/255)


def test_grey_with_alpha_stays_grey(tmp_path):
    Image.merge("LA", [Image.new("L", (2, 1), 10), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))]).save(tmp_path / "a.png")
    image = read_picture(tmp_path / "a.png")
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[10, 255]]
    found = examine(tmp_path / "a.png")
    assert isinstance(found, Found)
    assert found.grey


def test_palettes_are_resolved_with_and_without_transparency(tmp_path, picture):
    picture(tmp_path / "rgb.png")
    palette = Image.open(tmp_path / "rgb.png").quantize(16)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "p.png")), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "t.gif", transparency=0)
    seen, indices = np.asarray(read_picture(tmp_path / "t.gif")), np.asarray(palette)
    assert (seen[indices == 0] == 255).all()
    assert np.array_equal(seen[indices != 0], np.asarray(palette.convert("RGB"))[indices != 0])


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 257, 25700], [32768, 65535, 128]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    expected = np.round(deep / 65535 * 255).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        image = read_picture(tmp_path / name)
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), expected)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    seen = np.asarray(read_picture(tmp_path / "a.jpg")).astype(int)
    assert seen.shape == (8, 8, 3)
    assert np.abs(seen - [255, 0, 0]).max() < 6  # no cyan, full magenta and yellow: red


def test_float_pictures_are_read_from_0_to_1_and_refused_beyond(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(read_picture(tmp_path / "a.tif")).tolist() == [[0, 128, 255]]
    Image.fromarray(np.array([[0.0, 7.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    found = examine(tmp_path / "b.tif")
    assert isinstance(found, Unreadable)
    assert "0 to 7" in found.reason


def jpeg(size=(64, 64)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text file\n", "text"),
        (b"\x00\x01\x02\xff" * 50, "known format"),
        (jpeg()[: len(jpeg()) // 2], "truncated"),
    ],
    ids=["empty", "text", "noise", "truncated"],
)
def test_a_broken_file_is_found_with_its_reason(tmp_path, content, reason):
    (tmp_path / "bad.png").write_bytes(content)
    found = examine(tmp_path / "bad.png")
    assert isinstance(found, Unreadable)
    assert reason in found.reason
    with pytest.raises(DataError, match=r"bad\.png"):
        read_picture(tmp_path / "bad.png")


def test_a_truncated_png_is_found(tmp_path, picture):
    picture(tmp_path / "a.png", (40, 40))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    assert isinstance(examine(tmp_path / "b.png"), Unreadable)


def test_a_file_that_vanished_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png.*no such file"):
        read_picture(tmp_path / "gone.png")


def test_the_hash_is_of_the_files_bytes(tmp_path, picture):
    picture(tmp_path / "a.png", seed=1)
    picture(tmp_path / "b.png", seed=2)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    one, other, copy = (examine(tmp_path / f"{name}.png") for name in "abc")
    assert isinstance(one, Found)
    assert isinstance(other, Found)
    assert one == copy
    assert one.digest != other.digest


def test_threads_keep_the_order():
    assert in_threads(lambda value: value * 2, list(range(500))) == [value * 2 for value in range(500)]


def test_other_colour_spaces_become_rgb(tmp_path, picture):
    picture(tmp_path / "a.png")
    lab = ImageCms.profileToProfile(
        Image.open(tmp_path / "a.png"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").mode == "RGB"
    Image.open(tmp_path / "a.png").convert("YCbCr").save(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").mode == "RGB"
    ImageOps.mirror(Image.open(tmp_path / "a.png").convert("1")).save(tmp_path / "b.png")
    assert read_picture(tmp_path / "b.png").mode == "L"
