"""Masks and maps of objects: label ids in every form of file that has them, in the others one sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_folder import IMAGE, MASK, RNG, save

from segmodels.data.label_files import read_mask, read_pages
from segmodels.errors import InputError

DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)


def test_pages_are_grey_maps_of_one_size(tmp_path):
    np.testing.assert_array_equal(read_pages(save(tmp_path / "a.png", DEEP)), DEEP[None])
    (tmp_path / "b.png").write_bytes(grey_png(MASK, 4))
    np.testing.assert_array_equal(read_pages(tmp_path / "b.png"), MASK[None])
    Image.fromarray(MASK).save(tmp_path / "c.tif", save_all=True, append_images=[Image.fromarray(MASK[:5])])
    with pytest.raises(InputError, match=r"c\.tif has pages of the shapes \[\(5, 17\), \(12, 17\)\]"):
        read_pages(tmp_path / "c.tif")


def test_bools_are_one_where_they_are_true_whoever_wrote_the_file(tmp_path):
    true = MASK > 0
    tifffile.imwrite(tmp_path / "tifffile.tif", true)  # declares True to be black
    Image.fromarray(true).save(
        tmp_path / "fax.tif", compression="group4"
    )  # declares 0 to be white, and stores False as 1
    Image.fromarray(true).save(tmp_path / "pillow.tif")
    for name in ("tifffile.tif", "fax.tif", "pillow.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), true.astype(np.uint8), err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_of_two_channels_is_refused(dtype, tmp_path):
    channels = np.dstack([MASK == 0, MASK > 0]).astype(dtype) * 255
    tifffile.imwrite(tmp_path / "a.tif", channels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"a\.tif has 2 channels, expected one of label ids.*argmax"):
        read_mask(tmp_path / "a.tif")
    alpha = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([MASK, MASK]).astype(dtype), **alpha)
    np.testing.assert_array_equal(read_mask(tmp_path / "b.tif"), MASK)


def test_masks_are_label_ids_in_every_grey_depth(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "8.png", MASK)), MASK)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", MASK > 0)), (MASK > 0).astype(np.uint8))
    deep = MASK.astype(np.uint16) * 1000
    np.testing.assert_array_equal(read_mask(save(tmp_path / "16.png", deep)), deep)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bit_grey_masks_are_not_spread_over_0_to_255(tmp_path, bits):
    ids = RNG.integers(0, 2**bits, (12, 17), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(grey_png(ids, bits))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)


def grey_png(ids: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits per pixel, written from the PNG specification."""
    height, width = ids.shape
    spread = ((ids[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, width * bits)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in spread.astype(np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_palette_mask_is_its_index_and_not_its_colour(tmp_path):
    picture = Image.fromarray(MASK, mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 128, 0, 0])  # two indices of one colour
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), MASK)


def palette_mask(path: Path, ids: np.ndarray, *colors: tuple[int, int, int]) -> Path:
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette(np.array(colors, dtype=np.uint8).ravel().tolist())
    picture.save(path)
    return path


BLACK, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
CLASSES = {BLACK: 0, RED: 1, GREEN: 700}


@pytest.mark.parametrize(
    ("colors", "ids"),
    [
        ((GREEN, BLACK, RED), [700, 0, 1]),  # in the order of a program that makes files smaller
        ((BLACK, RED, BLUE), [0, 1, 2]),  # the colours that are known agree with the indices
        ((BLUE, (9, 9, 9), (8, 8, 8)), [0, 1, 2]),  # colours for the eye alone
        ((BLACK, RED, BLACK), [0, 1, 2]),  # filled up with black
    ],
)
def test_a_palette_mask_is_read_by_colours_that_are_all_known(tmp_path, colors, ids):
    path = palette_mask(tmp_path / "a.png", MASK, *colors)
    np.testing.assert_array_equal(read_mask(path, CLASSES), np.array(ids)[MASK])
    np.testing.assert_array_equal(read_mask(path), MASK)


def test_void_in_a_palette_that_is_filled_up_with_black_stays_void(tmp_path):
    ids = np.where(MASK == 0, 255, MASK).astype(np.uint8)
    path = palette_mask(tmp_path / "a.png", ids, BLACK, RED, GREEN, *[BLACK] * 253)
    np.testing.assert_array_equal(read_mask(path, {BLACK: 0, RED: 1, GREEN: 2}), ids)


def test_a_palette_mask_whose_colours_contradict_its_indices_is_refused(tmp_path):
    path = palette_mask(tmp_path / "a.png", MASK, RED, BLACK, BLUE)
    sentence = (
        r"a\.png .* index 0 in \(255, 0, 0\), .* label id 1, and the index 2 in \(0, 0, 255\), which no class has"
    )
    with pytest.raises(InputError, match=sentence):
        read_mask(path, CLASSES)


def test_an_rgb_mask_of_equal_channels_is_grey(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", np.dstack([MASK] * 3))), MASK)
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "b.png", np.dstack([*[MASK] * 3, np.full_like(MASK, 255)]))), MASK
    )


def test_an_rgb_mask_is_read_by_its_colours(tmp_path):
    palette = {(0, 0, 0): 5, (255, 255, 255): 700, (128, 64, 1): 2}
    colors = np.array(list(palette), dtype=np.uint8)[MASK]
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", colors), palette), np.array([5, 700, 2])[MASK])


def test_a_colour_ppm_of_fewer_values_is_read_by_its_colours_or_as_grey(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 3 1 100\n" + bytes([0] * 3 + [20] * 3 + [100] * 3))
    palette = {(0, 0, 0): 7, (255, 255, 255): 40, (51, 51, 51): 90}
    assert read_mask(tmp_path / "a.ppm", palette).tolist() == [[7, 90, 40]]
    assert read_mask(tmp_path / "a.ppm").tolist() == [[0, 20, 100]]


def test_an_rgb_mask_with_an_unknown_colour_is_refused(tmp_path):
    path = save(tmp_path / "a.png", IMAGE)
    with pytest.raises(InputError, match=r"a\.png holds the colour \(\d+, \d+, \d+\), which no class has"):
        read_mask(path, {(0, 0, 0): 0})
    with pytest.raises(InputError, match=r"a\.png holds the colour"):
        read_mask(path)
