"""Large images row by row: the pixels of every kind of file, shrinking, and files that end too early."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmodels.data import large_images
from segmodels.data.decoding import read_image
from segmodels.data.large_images import ArrayRows, TiffRows, is_large, open_rows, shrink
from segmodels.errors import InputError


def pixels(height: int = 150, width: int = 100, channels: tuple[int, ...] = (3,), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, *channels), dtype=dtype)


def bands(path: Path, step: int = 37) -> np.ndarray:
    with open_rows(path) as image:
        return np.concatenate(
            [image.read(start, min(start + step, image.height)) for start in range(0, image.height, step)]
        )


LAYOUTS = {
    "plain": {},
    "strips": {"rowsperstrip": 16},
    "deflated strips": {"rowsperstrip": 16, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (32, 48)},
    "deflated tiles": {"tile": (32, 48), "compression": "zlib"},
    "big endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True, "tile": (64, 64)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "dtype"), [((3,), np.uint8), ((), np.uint8), ((4,), np.uint8), ((3,), np.uint16), ((), np.uint16)]
)
def test_tiff_files_are_read_in_strips_to_the_pixels_that_pillow_reads(
    layout: str, channels: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    options, image = dict(LAYOUTS[layout]), pixels(channels=channels, dtype=dtype)
    opened = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    with tifffile.TiffWriter(tmp_path / "image.tif", **opened) as file:
        extra = {"extrasamples": ["unassalpha"]} if channels == (4,) else {}
        file.write(image, photometric="rgb" if channels else "minisblack", **extra, **options)
    with open_rows(tmp_path / "image.tif") as rows:
        assert isinstance(rows, TiffRows)
        assert (rows.height, rows.width) == (150, 100)
    grey = (image >> 8).astype(np.uint8) if dtype == np.uint16 else image
    expected = grey[:, :, :3] if channels else np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(bands(tmp_path / "image.tif"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [("lzw.tif", {"compression": "tiff_lzw"}), ("jpeg.tiff", {"compression": "jpeg"}), ("a.png", {}), ("a.jpg", {})],
)
def test_other_files_are_read_whole(name: str, options: dict, tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / name, **options)
    with open_rows(tmp_path / name) as rows:
        assert isinstance(rows, ArrayRows)
    np.testing.assert_array_equal(bands(tmp_path / name), read_image(tmp_path / name))


def test_palettes_are_expanded(tmp_path: Path) -> None:
    Image.fromarray(pixels()).convert("P").save(tmp_path / "palette.tif")
    np.testing.assert_array_equal(bands(tmp_path / "palette.tif"), read_image(tmp_path / "palette.tif"))


def test_a_tile_that_the_file_leaves_out_is_black(tmp_path: Path) -> None:
    tiles = [np.full((32, 32), 7, dtype=np.uint8), None, None, np.full((32, 32), 9, dtype=np.uint8)]
    tifffile.imwrite(
        tmp_path / "sparse.tif",
        iter(tiles),
        shape=(64, 64),
        dtype=np.uint8,
        tile=(32, 32),
        photometric="minisblack",
        compression="zlib",
    )
    expected = np.zeros((64, 64), dtype=np.uint8)
    expected[:32, :32], expected[32:, 32:] = 7, 9
    np.testing.assert_array_equal(bands(tmp_path / "sparse.tif"), np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("options", [{"tile": (32, 48), "compression": "zlib"}, {}])
def test_a_file_that_ends_too_early_is_named(options: dict, tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, pixels(), photometric="rgb", **options)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"file .*cut.tif is truncated or broken"):
        bands(path)


def test_a_compressed_strip_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_images, "PIXELS_OF_A_STRIP", 7_400)
    tifffile.imwrite(tmp_path / "one.tif", pixels(), photometric="rgb", compression="zlib", rowsperstrip=150)
    with pytest.raises(InputError, match=r"one\.tif has strips of 0 million pixels, .*: store it in tiles"):
        bands(tmp_path / "one.tif")
    for name, options in {"few": {"compression": "zlib", "rowsperstrip": 74}, "plain": {"rowsperstrip": 150}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels(), photometric="rgb", **options)
        np.testing.assert_array_equal(bands(tmp_path / f"{name}.tif"), pixels())


def test_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no image")
    assert not is_large(tmp_path / "text.tif")
    with pytest.raises(InputError, match=r"file .*text.tif is truncated or broken"):
        bands(tmp_path / "text.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_large_is_said_from_the_header(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(30, 40)).save(tmp_path / name)
    assert not is_large(tmp_path / name)
    monkeypatch.setattr(large_images, "LARGE", 1199)
    assert is_large(tmp_path / name)


@pytest.mark.parametrize("size", [(50, 20), (149, 99), (7, 100), (150, 100), (1, 1)])
@pytest.mark.parametrize("values_at_once", [2**21, 3000])
def test_shrinking_is_the_mean_over_the_area_of_each_pixel(
    size: tuple[int, int], values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_images, "VALUES_AT_ONCE", values_at_once)
    image = pixels()
    expected = cv2.resize(image.astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(ArrayRows(image), *size) - expected).max() < 0.51


def test_an_image_that_is_too_large_to_be_read_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"file .*a.png has more than 0 million pixels, the most that is read whole"):
        bands(tmp_path / "a.png")
