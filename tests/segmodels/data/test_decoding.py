"""Image and mask files: every accepted form is read as meant, every broken one is refused in one sentence that
names the file.
"""

import io
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from small_folder import IMAGE, MASK, RNG, save

from segmodels.data.decoding import (
    ORIENTATION,
    converted,
    lossy_format,
    orientation,
    picture_orientation,
    picture_size,
    read_image,
    read_pixels,
)
from segmodels.data.georeference import georeference
from segmodels.data.label_files import read_mask, read_pages
from segmodels.data.large_images import is_large, open_rows
from segmodels.errors import InputError

# Image files


@pytest.mark.parametrize(("place", "decoded"), [("none", False), ("before", False), ("behind", True)])
def test_the_orientation_of_a_png_file_costs_no_decoding_unless_it_lies_behind_the_pixels(tmp_path, place, decoded):
    path = tmp_path / "a.png"
    Image.fromarray(IMAGE).save(path, **({} if place == "none" else {"exif": tagged(6)}))
    if place == "behind":
        data = path.read_bytes()
        start, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
        stop = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        path.write_bytes(data[:start] + data[stop:end] + data[start:stop] + data[end:])
    with Image.open(path) as picture:
        assert orientation(picture) == (1 if place == "none" else 6)
        assert (picture.fp is None) == decoded  # Pillow lets go of the file once it has the pixels
        np.testing.assert_array_equal(np.array(picture), IMAGE)


def test_an_image_is_rgb_as_stored(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", IMAGE)), IMAGE)
    cv2.imwrite(str(tmp_path / "b.png"), IMAGE[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), IMAGE)


def test_alpha_is_dropped(tmp_path):
    rgba = np.dstack([IMAGE, RNG.integers(0, 256, IMAGE.shape[:2], dtype=np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), IMAGE)


def test_grey_and_16_bit_and_1_bit_images_are_expanded(tmp_path):
    grey = IMAGE[:, :, 0]
    for path, expected in (
        (save(tmp_path / "grey.png", grey), grey),
        (save(tmp_path / "deep.png", grey.astype(np.uint16) * 256 + 77), grey),
        (save(tmp_path / "bit.png", grey > 127), (grey > 127) * np.uint8(255)),
    ):
        np.testing.assert_array_equal(read_image(path), np.dstack([expected] * 3))


def test_a_palette_image_has_its_colours(tmp_path):
    picture = Image.fromarray(MASK, mode="P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.eye(3, dtype=np.uint8)[MASK] * 255)


def test_a_16_bit_colour_image_keeps_the_high_byte(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE[:, :, ::-1].astype(np.uint16) * 256 + 50)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_a_cmyk_image_is_converted(tmp_path):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    image = read_image(save(tmp_path / "a.jpg", flat, "CMYK", quality=95))
    assert np.abs(image.astype(int) - flat).max() < 12


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_of_every_kind_are_turned_as_viewers_do(tmp_path, orientation):
    def shown(array):
        picture = Image.fromarray(array)
        picture.getexif()[ORIENTATION] = orientation
        return np.asarray(ImageOps.exif_transpose(picture))

    tag = tagged(orientation)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(save(tmp_path / name, IMAGE, exif=tag)), shown(IMAGE))
        np.testing.assert_array_equal(read_mask(save(tmp_path / name, MASK, exif=tag)), shown(MASK))
        np.testing.assert_array_equal(read_pages(save(tmp_path / name, MASK, exif=tag)), shown(MASK)[None])
        with open_rows(save(tmp_path / name, IMAGE, exif=tag)) as rows:
            np.testing.assert_array_equal(rows.read(0, rows.height), shown(IMAGE))
    jpeg = read_image(save(tmp_path / "a.jpg", IMAGE, exif=tag, quality=95))
    np.testing.assert_array_equal(jpeg, shown(read_image(save(tmp_path / "b.jpg", IMAGE, quality=95))))
    where = ("Orientation", "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="minisblack", planarconfig="contig", extratags=[where])
    bands = [shown(DEEP[:, :, band].astype(np.int32)) for band in range(4)]
    stored(tmp_path / "deep.tif", np.stack(bands, axis=-1).astype(np.uint16))


def test_a_broken_exif_block_turns_nothing(tmp_path):
    path = save(tmp_path / "a.jpg", IMAGE, exif=tagged(6))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0MM\0*\xff\xff\xff\xf8"))
    assert path.read_bytes() != data
    assert read_image(path).shape == IMAGE.shape


def test_a_floating_point_image_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.tif has 32-bit pixels"):
        read_image(save(tmp_path / "a.tif", IMAGE[:, :, 0].astype(np.float32)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path, suffix, keep):
    path = save(tmp_path / f"a{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=rf"a\{suffix} is truncated"):
            read(path)


@pytest.mark.parametrize(("suffix", "cut"), [(".png", 1), (".png", 14), (".jpg", 2)])
def test_a_file_cut_by_a_few_bytes_is_refused(tmp_path, suffix, cut, capfd):
    path = save(tmp_path / f"a{suffix}", IMAGE)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="is truncated"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_a_flipped_byte_in_a_png_is_refused(tmp_path, capfd):
    path = save(tmp_path / "a.png", IMAGE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png is truncated or broken"):
        read_image(path)
    assert capfd.readouterr().err == ""


def deep_png_file(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16))


FILES = {
    "a.png": lambda path: noise(path, "PNG"),
    "a.gif": lambda path: noise(path, "GIF"),
    "a.bmp": lambda path: noise(path, "BMP"),
    "a.webp": lambda path: noise(path, "WEBP", lossless=True),
    "a.jpg": lambda path: noise(path, "JPEG"),
    "packed.tif": lambda path: noise(path, "TIFF", compression="packbits"),
    "bands.tif": lambda path: tifffile.imwrite(path, np.zeros((20, 30, 5), np.uint16), compression="zlib"),
    "deep.png": deep_png_file,
}


def noise(path: Path, form: str, **options: Any) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path, form, **options)


@pytest.mark.parametrize("name", FILES)
def test_whatever_a_decoder_raises_on_a_damaged_file_is_one_sentence(tmp_path, name):
    """Pillow alone raises TypeError, KeyError, struct.error and others, by the place of the damage."""
    path = tmp_path / name
    FILES[name](path)
    whole, random = path.read_bytes(), np.random.default_rng(1)
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, min(len(data), 400), 2):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        for read in (read_pixels, read_mask, picture_size, picture_orientation, is_large, georeference):
            with suppress(InputError):
                read(path)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        with pytest.raises(InputError, match=rf"{name} .*no known image format"):
            read_image(tmp_path / name)
    (tmp_path / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=r"pointer\.png is a pointer of Git LFS without its content: run git lfs pull"):
        read_image(tmp_path / "pointer.png")
    with pytest.raises(InputError, match=r"missing\.png is not there"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png cannot be read, as it is not a regular file"):
        read_image(tmp_path / "pipe.png")


# Pixels as stored

DEEP = RNG.integers(0, 65536, (12, 17, 4), dtype=np.uint16)


def stored(path: Path, expected: np.ndarray) -> None:
    pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype


def test_png_keeps_its_channels_and_bits(tmp_path):
    stored(save(tmp_path / "grey.png", IMAGE[:, :, 0]), IMAGE[:, :, :1])
    stored(save(tmp_path / "deep.png", DEEP[:, :, 0]), DEEP[:, :, :1])
    stored(save(tmp_path / "rgb.png", IMAGE), IMAGE)
    for name, deep in (("rgb", DEEP[:, :, :3]), ("rgba", DEEP)):
        cv2.imwrite(str(tmp_path / f"{name}16.png"), deep[:, :, [2, 1, 0, 3][: deep.shape[2]]])
        stored(tmp_path / f"{name}16.png", DEEP[:, :, :3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_tiff_keeps_any_number_of_channels_and_type(tmp_path, channels, dtype, byteorder, compression, planar):
    if channels == 1 and planar == "separate":
        pytest.skip("one channel has no order")
    rng = np.random.default_rng(channels)
    pixels = (rng.integers(0, 256, (12, 17, channels)) * (257 if dtype == np.uint16 else 1)).astype(dtype)
    pixels -= np.array(100 if dtype in (np.int16, np.float32) else 0, dtype)
    values = pixels[:, :, 0] if channels == 1 else np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    options = {} if channels == 1 else {"planarconfig": planar}
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", compression=compression, byteorder=byteorder, **options
    )
    stored(tmp_path / "a.tif", pixels)


def test_a_fourth_channel_of_16_bits_stays_and_alpha_of_8_bits_goes(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="rgb")
    stored(tmp_path / "deep.tif", DEEP)
    rgba = np.dstack([IMAGE, IMAGE[:, :, 0]])
    tifffile.imwrite(tmp_path / "alpha.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    stored(tmp_path / "alpha.tif", IMAGE)
    five, kinds = np.dstack([rgba, IMAGE[:, :, 1]]), ["unassalpha", "unspecified"]
    tifffile.imwrite(tmp_path / "five.tif", five, photometric="rgb", extrasamples=kinds)
    stored(tmp_path / "five.tif", five[:, :, [0, 1, 2, 4]])
    tifffile.imwrite(tmp_path / "bands.tif", rgba, photometric="minisblack", planarconfig="contig")
    stored(tmp_path / "bands.tif", rgba)


def test_a_compression_without_a_decoder_is_read_by_opencv_or_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), DEEP[:, :, [2, 1, 0]], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    stored(tmp_path / "a.tif", DEEP[:, :, :3])


def test_truncated_and_ill_typed_tiff_files_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="minisblack", planarconfig="contig")
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"b\.tif is truncated"):
        read_pixels(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", DEEP.astype(np.int32), photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"c\.tif has int32 pixels, expected 8 or 16 bits or float32"):
        read_pixels(tmp_path / "c.tif")


def test_conversions_lose_low_bits_at_most():
    np.testing.assert_array_equal(converted(IMAGE, 3, np.dtype(np.uint8), "a"), IMAGE)
    np.testing.assert_array_equal(converted(IMAGE[:, :, :1], 3, np.dtype(np.uint8), "a"), IMAGE[:, :, [0, 0, 0]])
    np.testing.assert_array_equal(converted(DEEP[:, :, :3], 3, np.dtype(np.uint8), "a"), DEEP[:, :, :3] >> 8)
    with pytest.raises(InputError, match="image a has 4 channels, expected 3"):
        converted(DEEP, 3, np.dtype(np.uint8), "a")
    with pytest.raises(InputError, match=r"image a has uint8 pixels \(uint8\), expected uint16"):
        converted(IMAGE, 3, np.dtype(np.uint16), "a")


@pytest.mark.parametrize(
    ("form", "options", "found"),
    [
        ("JPEG", {}, "JPEG"),
        ("WEBP", {}, "lossy WebP"),
        ("WEBP", {"icc_profile": b"odd"}, "lossy WebP"),
        ("WEBP", {"lossless": True}, None),
        ("WEBP", {"lossless": True, "icc_profile": b"odd"}, None),
        ("PNG", {}, None),
    ],
)
def test_files_whose_compression_changes_values_are_known(form: str, options: dict, found: str | None) -> None:
    data = io.BytesIO()
    Image.new("RGB", (9, 7)).save(data, form, **options)
    assert lossy_format(data.getvalue()) == found
    assert lossy_format(data.getvalue()[:14]) == (found if form == "JPEG" else None)
