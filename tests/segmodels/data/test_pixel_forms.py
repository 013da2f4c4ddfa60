"""Every kind of pixels in every kind of file, as image and as mask: read as meant, or refused with a sentence."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segmodels.data.decoding import read_pixels
from segmodels.data.label_files import read_mask
from segmodels.errors import InputError

IDS = np.zeros((16, 24), np.uint8)
IDS[4:8], IDS[8:] = 1, 2
BITS = IDS > 0
GREY = np.where(BITS, np.uint8(200), np.uint8(40))
DEEP = IDS.astype(np.uint16) * 1000 + 5
COLORS = np.array([(0, 0, 0), (200, 30, 60), (10, 160, 220)], np.uint8)
RGB = COLORS[IDS]
ALPHA = np.where(BITS, np.uint8(255), np.uint8(9))
INVERSE = {tuple(color): id for id, color in enumerate(COLORS.tolist())}

Write = Callable[[Path], None]


def pillow(pixels: np.ndarray, mode: str | None = None, **options) -> Write:
    def write(path: Path) -> None:
        picture = Image.fromarray(pixels)
        if mode == "P":
            picture = Image.fromarray(pixels, mode="P")
            picture.putpalette(COLORS.ravel().tolist())
        elif mode:
            picture = picture.convert(mode)
        picture.save(path, **options)

    return write


def tiff(pixels: np.ndarray, **options) -> Write:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def animation(path: Path) -> None:
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())])


def pages(*sizes: int) -> Write:
    def write(path: Path) -> None:
        first, *others = (Image.fromarray(GREY[::step, ::step].copy()) for step in sizes)
        first.save(path, save_all=True, append_images=others)

    return write


def png(pixels: np.ndarray, color_type: int, bits: int = 16) -> Write:
    """From the PNG specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2").reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def four_inks(transform: int | None) -> Write:
    """A flat JPEG in four inks with Adobe's marker, transform 0 (CMYK) or 2 (YCCK), or without it; Adobe inverts inks.

    Pillow stores the inverse of the given values.
    """

    def write(path: Path) -> None:
        red, green, blue = (200, 30, 60)
        stored = {0: (red, green, blue, 255), None: (255 - red, 255 - green, 255 - blue, 0)}
        if transform == 2:
            ycc = Image.new("RGB", (1, 1), (255 - red, 255 - green, 255 - blue)).convert("YCbCr").getpixel((0, 0))
            stored[2] = (*ycc, 255)
        picture = Image.new("CMYK", (16, 16), tuple(255 - value for value in stored[transform]))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=100)
        data = bytearray(buffer.getvalue())
        place = data.index(b"\xff\xee\x00\x0eAdobe")
        if transform is None:
            del data[place : place + 16]
        else:
            data[place + 15] = transform
        path.write_bytes(data)

    return write


def plain_pgm(most: int, values: np.ndarray) -> Write:
    rows = "\n".join(" ".join(map(str, row)) for row in values.tolist())
    return lambda path: path.write_text(f"P2\n# labels\n{values.shape[1]} {values.shape[0]}\n{most}\n{rows}\n")


LOSSLESS = {"lossless": True}
MASK_REFUSED = "expected grey, palette or RGB"

FORMS: list[tuple[str, Write, np.ndarray | str, np.ndarray | str]] = [
    # file, how it is written, image (or what refuses it), label ids (or what refuses them)
    *((f"bits.{end}", pillow(BITS), BITS * np.uint8(255), BITS) for end in ("png", "bmp", "tif", "pgm")),
    ("bits.gif", pillow(BITS), BITS * np.uint8(255), BITS * 255),
    *((f"grey.{end}", pillow(GREY), GREY, GREY) for end in ("png", "bmp", "tif", "pgm")),
    ("grey.webp", pillow(GREY, **LOSSLESS), np.dstack([GREY] * 3), GREY),
    *((f"grey_alpha.{end}", pillow(np.dstack([GREY, ALPHA])), GREY, GREY) for end in ("png", "tif")),
    *((f"rgb.{end}", pillow(RGB), RGB, IDS) for end in ("png", "bmp", "tif", "ppm")),
    ("rgb.webp", pillow(RGB, **LOSSLESS), RGB, IDS),
    *((f"rgba.{end}", pillow(np.dstack([RGB, ALPHA])), RGB, IDS) for end in ("png", "bmp", "tif")),
    ("rgba.webp", pillow(np.dstack([RGB, ALPHA]), **LOSSLESS), RGB, IDS),
    *((f"palette.{end}", pillow(IDS, "P"), RGB, IDS) for end in ("png", "bmp", "tif", "gif")),
    *((f"palette{bits}.png", pillow(IDS, "P", bits=bits), RGB, IDS) for bits in (2, 4, 8)),
    ("palette1.png", pillow(BITS.astype(np.uint8), "P", bits=1), COLORS[BITS.astype(int)], BITS),
    ("transparent.png", pillow(IDS, "P", transparency=1), RGB, IDS),
    ("translucent.png", pillow(IDS, "P", transparency=bytes([0, 128, 255])), RGB, IDS),
    ("transparent.gif", pillow(IDS, "P", transparency=1), RGB, IDS),
    ("transparent_grey.png", pillow(GREY, transparency=40), GREY, GREY),
    ("transparent_rgb.png", pillow(RGB, transparency=(200, 30, 60)), RGB, IDS),
    ("cmyk.tif", pillow(RGB, "CMYK"), RGB, MASK_REFUSED),
    ("lab.tif", pillow(RGB, "LAB"), "any", MASK_REFUSED),
    ("deep.png", pillow(DEEP), DEEP, DEEP),
    ("deep.pgm", pillow(DEEP), DEEP, DEEP),
    *((f"deep{order}.tif", tiff(DEEP, byteorder=order), DEEP, DEEP) for order in "<>"),
    ("deep_alpha.png", png(np.dstack([DEEP, DEEP]), 4), DEEP, DEEP),
    ("deep_grey_in_rgb.png", png(np.dstack([DEEP] * 3), 2), np.dstack([DEEP] * 3), DEEP),
    ("deep_grey_in_rgb.tif", tiff(np.dstack([DEEP] * 3), photometric="rgb"), np.dstack([DEEP] * 3), DEEP),
    ("deep_rgb.png", png(RGB * np.uint16(257), 2), RGB * np.uint16(257), IDS),
    ("deep_rgb.tif", tiff(RGB * np.uint16(257), photometric="rgb"), RGB * np.uint16(257), IDS),
    ("deep_rgba.png", png(np.dstack([RGB, ALPHA]) * np.uint16(257), 6), RGB * np.uint16(257), IDS),
    ("most3.pgm", plain_pgm(3, IDS), IDS * np.uint8(85), IDS),
    ("most2000.pgm", plain_pgm(2005, DEEP), "any", DEEP),
    *((f"{name}.tif", tiff(IDS.astype(name)), "pixels, expected 8 or 16", IDS) for name in ("int32", "uint32")),
    *((f"{name}.tif", tiff(IDS.astype(name)), "pixels, expected 8 or 16", IDS) for name in ("int64", "uint64")),
    ("float32.tif", tiff(IDS.astype(np.float32)), IDS.astype(np.float32), MASK_REFUSED),
    ("float64.tif", tiff(IDS.astype(float)), "float64 pixels, expected 8 or 16", "float64 pixels, expected whole"),
    ("animation.gif", animation, "any", "is an animation of 2 pictures"),
    ("animation.webp", animation, "any", "is an animation of 2 pictures"),
    ("pages.tif", pages(1, 1, 1), "has 3 pages of one size", "has 3 pages of one size"),
    ("overviews.tif", pages(1, 2, 4), GREY, GREY),
]


@pytest.mark.parametrize(("name", "write", "image", "ids"), FORMS, ids=[form[0] for form in FORMS])
def test_pixels_are_read_as_meant_or_refused(name: str, write: Write, image, ids, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    if isinstance(image, str) and image != "any":
        with pytest.raises(InputError, match=image):
            read_pixels(path)
    else:
        pixels = read_pixels(path)
        assert pixels.shape[:2] == IDS.shape
        if not isinstance(image, str):
            np.testing.assert_array_equal(pixels, image.reshape(pixels.shape))
            assert pixels.dtype == image.dtype
    if isinstance(ids, str):
        with pytest.raises(InputError, match=ids):
            read_mask(path, INVERSE)
    else:
        np.testing.assert_array_equal(read_mask(path, INVERSE), ids)


@pytest.mark.parametrize("transform", [0, 2, None])
def test_four_inks_become_the_colour_whether_inverted_or_not(transform: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    four_inks(transform)(path)
    assert np.abs(read_pixels(path).astype(int) - (200, 30, 60)).max() <= 3
    with pytest.raises(InputError, match=rf"a\.jpg has mode CMYK, {MASK_REFUSED}"):
        read_mask(path)


def test_a_jpeg_mask_in_colour_names_its_cause(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=80)
    with pytest.raises(InputError, match="JPEG changes label values when it compresses: export masks as PNG"):
        read_mask(tmp_path / "a.jpg", INVERSE)
