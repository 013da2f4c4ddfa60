"""Layouts and image files: every accepted form is read as meant, every broken one is refused in one sentence that names
the file.
"""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import converted, read_image, read_mask, read_pages, read_pixels
from segmodels.data.layouts import Layout, LayoutCard, Sample, check_sizes, list_layouts, open_layout, register_layout
from segmodels.data.layouts.base import LAYOUTS
from segmodels.data.manifest import Dataset, SplitSettings, manifest_row, split_by_group, write_dataset
from segmodels.errors import InputError
from segmodels.labels import LabelMap, UnknownLabelsError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
MASK = RNG.integers(0, 3, (12, 17), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def read_both(layout: Layout) -> tuple[np.ndarray, Annotation]:
    """Image and annotation of the first sample, of one size."""
    sample = next(iter(layout.samples()))
    image, annotation = layout.read_image(sample), layout.annotation(sample)
    assert annotation is not None
    check_sizes(sample, image, annotation)
    return image, annotation


def folder(root: Path, names=("a", "b", "c"), classes: str = "ground\nroad\ncar\n") -> Path:
    for name in names:
        save(root / "images" / f"{name}.png", IMAGE)
        save(root / "masks" / f"{name}.png", MASK)
    (root / "classes.txt").write_text(classes)
    return root


# Image files


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


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert read_image(save(tmp_path / "a.jpg", IMAGE, exif=exif)).shape == IMAGE.shape


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


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        with pytest.raises(InputError, match=rf"{name} .*no known image format"):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.png is not there"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


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


def test_pages_are_grey_maps_of_one_size(tmp_path):
    np.testing.assert_array_equal(read_pages(save(tmp_path / "a.png", DEEP[:, :, 0])), DEEP[None, :, :, 0])
    (tmp_path / "b.png").write_bytes(grey_png(MASK, 4))
    np.testing.assert_array_equal(read_pages(tmp_path / "b.png"), MASK[None])
    Image.fromarray(MASK).save(tmp_path / "c.tif", save_all=True, append_images=[Image.fromarray(MASK[:5])])
    with pytest.raises(InputError, match=r"c\.tif has pages of the shapes \[\(5, 17\), \(12, 17\)\]"):
        read_pages(tmp_path / "c.tif")


# Mask files


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


def test_an_rgb_mask_of_equal_channels_is_grey(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", np.dstack([MASK] * 3))), MASK)
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "b.png", np.dstack([*[MASK] * 3, np.full_like(MASK, 255)]))), MASK
    )


def test_an_rgb_mask_is_read_by_its_colours(tmp_path):
    palette = {(0, 0, 0): 5, (255, 255, 255): 700, (128, 64, 1): 2}
    colors = np.array(list(palette), dtype=np.uint8)[MASK]
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", colors), palette), np.array([5, 700, 2])[MASK])


def test_an_rgb_mask_with_an_unknown_colour_is_refused(tmp_path):
    path = save(tmp_path / "a.png", IMAGE)
    with pytest.raises(InputError, match=r"a\.png holds the colour \(\d+, \d+, \d+\), which no class has"):
        read_mask(path, {(0, 0, 0): 0})
    with pytest.raises(InputError, match=r"a\.png holds the colour"):
        read_mask(path)


# The layout folder


def test_folder_reads_images_masks_and_classes(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    assert layout.labels.classes == ("ground", "road", "car")
    assert layout.labels.ids == {0: 0, 1: 1, 2: 2, 255: 255}
    samples = list(layout.samples())
    assert samples == [Sample(name, None, f"images/{name}.png", (f"masks/{name}.png",), name) for name in "abc"]
    annotation = layout.annotation(samples[1])
    np.testing.assert_array_equal(layout.read_image(samples[1]), IMAGE)
    np.testing.assert_array_equal(annotation.classes, MASK)
    assert annotation.layers.shape == (0, 12, 17)
    assert layout.labels.things == frozenset()


def test_folder_takes_splits_from_lists(tmp_path):
    folder(tmp_path, names=("a", "b.x", "deep/c", "left"))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("b.x\n\na.png\n")
    (tmp_path / "splits" / "test.txt").write_text("deep/c\n")
    assert [(s.split, s.id) for s in open_layout("folder", tmp_path).samples()] == [
        ("train", "b.x"),
        ("train", "a"),
        ("test", "deep/c"),
    ]


def test_folder_refuses_a_list_with_a_sample_that_is_not_there(tmp_path):
    folder(tmp_path)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "val.txt").write_text("a\nzebra\n")
    with pytest.raises(InputError, match=r"val\.txt names the sample 'zebra'"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_takes_splits_from_sub_folders(tmp_path):
    folder(tmp_path, names=("val/a", "train/a", "train/b", "test/z"))
    assert [(s.split, s.id) for s in open_layout("folder", tmp_path).samples()] == [
        ("train", "train/a"),
        ("train", "train/b"),
        ("val", "val/a"),
        ("test", "test/z"),
    ]


def test_folder_takes_other_sub_folders_for_names(tmp_path):
    folder(tmp_path, names=("train/a", "town/b"))
    assert {s.split for s in open_layout("folder", tmp_path).samples()} == {None}


def test_folder_takes_groups_from_csv(tmp_path):
    folder(tmp_path)
    (tmp_path / "groups.csv").write_text("id,group\na,anna\nb,bert\nc,anna\n")
    assert [s.group for s in open_layout("folder", tmp_path).samples()] == ["anna", "bert", "anna"]
    (tmp_path / "groups.csv").write_text("id,group\na,anna\n")
    with pytest.raises(InputError, match="no group for 2 samples: b, c"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_takes_the_classes_of_whole_images_from_csv(tmp_path):
    folder(tmp_path)
    assert {s.image_label for s in open_layout("folder", tmp_path).samples()} == {None}
    (tmp_path / "image_labels.csv").write_text("id,label\nc,2\na,0\nb,1\n")
    assert [s.image_label for s in open_layout("folder", tmp_path).samples()] == [0, 1, 2]
    (tmp_path / "image_labels.csv").write_text("id,label\na,0\nc,1\n")
    with pytest.raises(InputError, match="no label for 1 samples: b"):
        list(open_layout("folder", tmp_path).samples())
    (tmp_path / "image_labels.csv").write_text("id,label\na,0\nb,benign\nc,1\n")
    with pytest.raises(InputError, match="label 'benign' for b, expected the number"):
        list(open_layout("folder", tmp_path).samples())


@pytest.mark.parametrize(("part", "missing"), [("masks", "mask"), ("images", "image")])
def test_folder_names_up_to_five_files_without_partner(tmp_path, part, missing):
    folder(tmp_path, names=[f"n{i}" for i in range(9)])
    for i in range(1, 8):
        (tmp_path / part / f"n{i}.png").unlink()
    with pytest.raises(InputError, match=rf"7 files in .* have no {missing}: ") as error:
        list(open_layout("folder", tmp_path).samples())
    assert str(error.value).count(".png") == 5


def test_folder_refuses_two_files_of_one_name(tmp_path):
    folder(tmp_path)
    save(tmp_path / "images" / "a.jpg", IMAGE)
    with pytest.raises(InputError, match=r"a\.jpg.*a\.png|a\.png.*a\.jpg"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_without_its_parts_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        open_layout("folder", tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no folder images/"):
        open_layout("folder", tmp_path)
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"neither classes\.txt nor classes\.json"):
        open_layout("folder", tmp_path)


def test_folder_without_images_is_refused(tmp_path):
    folder(tmp_path, names=())
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        list(open_layout("folder", tmp_path).samples())


def test_a_mask_of_another_size_is_refused(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    save(tmp_path / "masks" / "a.png", MASK[:5])
    with pytest.raises(InputError, match=r"masks/a\.png is 17x5 but its image images/a\.png is 17x12"):
        read_both(layout)


def test_a_mask_with_an_unknown_label_is_refused(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    save(tmp_path / "masks" / "a.png", MASK + np.uint8(1))
    with pytest.raises(UnknownLabelsError, match=r"^masks/a\.png: mask holds unknown labels \[3\]") as error:
        read_both(layout)
    assert error.value.unknown == [3]


# The classes file

TEXT = "# my classes\nsky, 4\n\nroad crossing, 7\n!ignore, 0\n!ignore, 9\n"
JSON = {"classes": [{"name": "sky", "id": 4}, {"name": "road crossing", "id": 7}], "ignore": [0, 9]}


@pytest.mark.parametrize(("name", "content"), [("classes.txt", TEXT), ("classes.json", json.dumps(JSON))])
def test_classes_may_have_ids_and_ignored_ids(tmp_path, name, content):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / name).write_text(content)
    labels = open_layout("folder", tmp_path).labels
    assert labels.classes == ("sky", "road crossing")
    assert labels.ids == {4: 0, 7: 1, 0: 255, 9: 255}
    assert len(set(labels.palette)) == 2


COLORS = "no, 0, 0, 0\nyes, 255, 255, 255, 255\n!ignore, 9, 9, 9\n"


def test_classes_may_have_colours_that_read_rgb_masks(tmp_path):
    layout = open_layout("folder", folder(tmp_path, classes=COLORS))
    assert layout.labels.palette == ((0, 0, 0), (255, 255, 255))
    assert layout.labels.ids == {0: 0, 255: 1, 65535: 255}
    save(tmp_path / "masks" / "a.png", np.array([(0, 0, 0), (255, 255, 255), (9, 9, 9)], np.uint8)[MASK])
    _, annotation = read_both(layout)
    np.testing.assert_array_equal(annotation.classes, np.array([0, 1, 255])[MASK])


def test_plain_names_are_enough_in_json(tmp_path):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    assert open_layout("folder", tmp_path).labels.ids == {0: 0, 1: 1, 2: 2, 255: 255}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("a\nb, 1, 2\n", r"classes\.txt line 2 is 'b, 1, 2'"),
        ("a\nb, x\n", r"line 2 is 'b, x'"),
        ("a\nb, 0, 0, 300\n", r"line 2 .* colours 0\.\.255"),
        ("a, 1\nb\n", r"ids \[1\] are given to more than one class"),
        ("a\nb\n!ignore, 1\n", r"ids \[1\] are both classes and ignored"),
        ("a\nb, 70000\n", r"ids \[70000\] are out of range"),
        ("a\nb, 1, 1, 1\n", "1 of 2 classes have a colour"),
        ("a, 1, 1, 1\nb, 1, 1, 1\n", "same colour"),
        ("a\n", "1 classes"),
        ("a\na\n", r"\['a'\] more than once"),
    ],
)
def test_a_wrong_classes_file_is_refused(tmp_path, classes, message):
    with pytest.raises(InputError, match=message):
        open_layout("folder", folder(tmp_path, classes=classes))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"classes": [{"id": 3}, "b"]}', '{"classes": [{"name": "a", "color": [1, 2]}, "b"]}']
)
def test_a_wrong_json_classes_file_is_refused(tmp_path, content):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json cannot be understood"):
        open_layout("folder", tmp_path)


# The layout camvid, on its real files


def test_camvid_reads_the_real_frames(shared_data):
    layout = open_layout("camvid", shared_data / "camvid")
    samples = list(layout.samples())
    assert {split: sum(s.split == split for s in samples) for split in ("train", "val")} == {"train": 367, "val": 101}
    assert samples[0] == Sample(
        "0001TP_006690", "train", "train/0001TP_006690.jpg", ("trainannot/0001TP_006690.png",), "0001TP_006690"
    )
    image, mask = layout.read_image(samples[0]), layout.annotation(samples[0]).classes
    assert image.shape == (360, 480, 3)
    assert set(np.unique(mask)) <= {*range(11), 255}
    raw = cv2.imread(str(shared_data / "camvid" / "trainannot" / "0001TP_006690.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, np.where(raw == 11, 255, raw))
    assert image[mask == 0].mean() > image[mask == 3].mean()  # the sky is brighter than the road


def test_camvid_without_lists_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none of train\.txt, val\.txt, test\.txt"):
        open_layout("camvid", tmp_path)


def test_camvid_names_a_broken_line(tmp_path):
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/a.png\n")
    with pytest.raises(InputError, match=r"train\.txt line 1"):
        list(open_layout("camvid", tmp_path).samples())


def test_layouts_are_found_by_name():
    assert {"folder", "camvid"} <= set(list_layouts())
    with pytest.raises(InputError, match=r"unknown layout 'fodler'.*folder"):
        open_layout("fodler", ".")
    for entry in LAYOUTS:
        assert entry.card.reads
        assert entry.card.source
        assert len(entry.build.tree.splitlines()) > 2


def test_a_layout_is_one_registered_class(tmp_path):
    @register_layout("test stripes", LayoutCard("stripes", "this test"))
    class Stripes(Layout):
        tree = "*.npy   stripes"
        labels = LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1})

        def samples(self):
            yield Sample("only", None, "only.npy", (), "only")

        def read_image(self, sample):
            return np.load(self.root / sample.image)

        def annotation(self, sample):
            assert sample.files == ()

    np.save(tmp_path / "only.npy", IMAGE)
    try:
        layout = open_layout("test stripes", tmp_path)
        assert layout.name == "test stripes"
        assert layout.annotation(next(iter(layout.samples()))) is None
    finally:
        LAYOUTS._entries.pop("test stripes")


def test_without_masks_nothing_is_annotated_under_either_name(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    (tmp_path / "masks").rmdir()
    for name in ("folder", "images"):
        layout = open_layout(name, tmp_path)
        assert layout.name == "folder"
        assert [sample.files for sample in layout.samples()] == [()] * 3
        assert layout.annotation(next(iter(layout.samples()))) is None


# Objects of the layout folder

IDS = np.zeros((12, 17), np.uint16)
IDS[1:5, 1:6], IDS[6:11, 3:9], IDS[2:9, 11:16] = 3, 500, 7
CLASSES = np.zeros((12, 17), np.uint8)
CLASSES[IDS == 3], CLASSES[IDS == 500], CLASSES[IDS == 7] = 1, 2, 1
CLASSES[6, 3:9] = 1  # the edge of object 500 has another class
SHAPES = [
    Segment(3, 1, False, (1.0, 1.0, 6.0, 5.0), 20.0),
    Segment(7, 1, False, (11.0, 2.0, 16.0, 9.0), 35.0),
    Segment(500, 2, False, (3.0, 6.0, 9.0, 11.0), 30.0),
]


def with_objects(root: Path, ids: np.ndarray = IDS, classes: str = "ground\nroad\ncar\n") -> Layout:
    folder(root, names=("a",), classes=classes)
    save(root / "masks" / "a.png", CLASSES)
    save(root / "objects" / "a.png", ids)
    return open_layout("folder", root)


def test_objects_have_the_class_that_most_of_their_pixels_have(tmp_path):
    layout = with_objects(tmp_path)
    assert layout.labels.things == {1, 2}
    assert next(iter(layout.samples())).files == ("masks/a.png", "objects/a.png")
    _, annotation = read_both(layout)
    np.testing.assert_array_equal(annotation.layers, IDS[None])
    assert list(annotation.segments) == SHAPES


def test_a_table_gives_objects_their_classes_and_says_which_are_crowds(tmp_path):
    with_objects(tmp_path)
    table = [{"id": 500, "class": "ground", "crowd": True}, {"id": 3, "class": "car"}, {"id": 7, "class": "road"}]
    (tmp_path / "objects" / "a.json").write_text(json.dumps([*table, {"id": 9, "class": "car"}]))
    layout = open_layout("folder", tmp_path)
    assert next(iter(layout.samples())).files == ("masks/a.png", "objects/a.png", "objects/a.json")
    _, annotation = read_both(layout)
    assert [(segment.id, segment.label, segment.crowd) for segment in annotation.segments] == [
        (3, 2, False),
        (7, 1, False),
        (500, 0, True),
    ]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_objects_that_overlap_lie_on_pages_of_their_own(tmp_path, compression):
    layout = with_objects(tmp_path)
    (tmp_path / "objects" / "a.png").unlink()
    over = np.zeros_like(IDS)
    over[3:8, 4:10] = 65535
    first, empty, last = (Image.fromarray(page) for page in (IDS, np.zeros_like(IDS), over))
    first.save(tmp_path / "objects" / "a.tif", save_all=True, append_images=[empty, last], compression=compression)
    _, annotation = read_both(layout)
    np.testing.assert_array_equal(annotation.layers, np.stack([IDS, over]))
    assert [segment.id for segment in annotation.segments] == [3, 7, 500, 65535]
    np.testing.assert_array_equal(annotation.masks()[-1], over > 0)


@pytest.mark.parametrize(
    ("classes", "things"),
    [
        ("a\nb\nc\n!things, c\n", {2}),
        ("a\nb\nc\n!things, c\n!things, a\n", {0, 2}),
        ("a\nb\nc\n!things\n", set()),
        ("a\nb\nc\n", {1, 2}),
    ],
)
def test_the_classes_file_says_which_classes_are_things(tmp_path, classes, things):
    assert with_objects(tmp_path, classes=classes).labels.things == things
    (tmp_path / "classes.txt").unlink()
    named = {"things": [("a", "b", "c")[thing] for thing in things]} if "!things" in classes else {}
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"]} | named))
    assert open_layout("folder", tmp_path).labels.things == things


def test_things_without_objects_are_kept_and_unknown_ones_refused(tmp_path):
    folder(tmp_path, classes="a\nb\nc\n!things, b\n")
    assert open_layout("folder", tmp_path).labels.things == {1}
    (tmp_path / "classes.txt").write_text("sky\ncar\n!things, cat\n")
    with pytest.raises(InputError, match=r"classes\.txt: unknown class among the things 'cat': did you mean 'car'"):
        open_layout("folder", tmp_path)


def void(root: Path) -> None:
    save(root / "masks" / "a.png", np.where(IDS == 7, 255, CLASSES).astype(np.uint8))


def two_pages(root: Path) -> None:
    (root / "objects" / "a.png").unlink()
    page = Image.fromarray(IDS)
    page.save(root / "objects" / "a.tif", save_all=True, append_images=[page])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "objects" / "a.png").unlink(), r"1 files in .* have no map of objects: images/a\.png"),
        (lambda root: save(root / "objects" / "b.png", IDS), r"1 files in .* have no image: objects/b\.png"),
        (lambda root: save(root / "objects" / "a.png", IDS[:5]), r"objects/a\.png is 17x5 but its mask is 17x12"),
        (lambda root: save(root / "objects" / "a.png", IMAGE), r"objects/a\.png has pages of the shapes .*grey"),
        (void, r"objects/a\.png has the object 7 where its mask is ignored everywhere.*a\.json"),
        (two_pages, r"objects/a\.tif has the object 3 on more than one page"),
        (
            lambda root: (root / "objects" / "a.json").write_text('[{"id": 3, "class": "car"}]'),
            r"objects/a\.json has no row for the objects \[7, 500\]",
        ),
        (
            lambda root: (root / "objects" / "a.json").write_text(
                json.dumps([{"id": id, "class": "cat"} for id in (3, 7, 500)])
            ),
            r"objects/a\.json: unknown class 'cat': did you mean 'car'",
        ),
        (lambda root: (root / "objects" / "a.json").write_text("[{}]"), r"objects/a\.json cannot be understood"),
    ],
)
def test_wrong_objects_are_named(tmp_path, damage, message):
    layout = with_objects(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        read_both(layout)


def test_objects_need_masks(tmp_path):
    with_objects(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "masks").rmdir()
    with pytest.raises(InputError, match="has objects/ but no masks/, expected both"):
        open_layout("folder", tmp_path)


# The manifest


def rows(samples):
    return [manifest_row(s, dict.fromkeys((s.image, *s.files), "0" * 32)) for s in samples]


def record(tmp_path: Path, samples, root="../source") -> Path:
    layout = open_layout("folder", tmp_path / "source")
    out = tmp_path / "dataset"
    out.mkdir(exist_ok=True)
    write_dataset(
        out,
        layout="folder",
        root=root,
        labels=layout.labels,
        source={"source": "folder"},
        revision=None,
        digest="1.dir",
        rows=rows(samples),
    )
    return out


def test_a_dataset_is_opened_as_it_was_written(tmp_path):
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    samples = list(open_layout("folder", tmp_path / "source").samples())
    dataset = Dataset.open(record(tmp_path, samples))
    assert dataset.samples() == samples
    assert dataset.samples("val") == [samples[1]]
    assert (dataset.digest, dataset.revision, dataset.source) == ("1.dir", None, {"source": "folder"})
    assert dataset.table.num_rows == 3
    assert json.loads((tmp_path / "dataset" / "dataset.json").read_text())["samples"] == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    np.testing.assert_array_equal(dataset.layout.read_image(samples[0]), IMAGE)
    absolute = Dataset.open(record(tmp_path, samples, root=tmp_path / "source"))
    assert absolute.layout.root == tmp_path / "source"


def test_a_dataset_with_an_empty_split_is_refused(tmp_path):
    folder(tmp_path / "source", names=("train/a", "test/c"))
    samples = list(open_layout("folder", tmp_path / "source").samples())
    with pytest.raises(InputError, match=r"split 'val' .* has no samples"):
        record(tmp_path, samples)


def test_a_dataset_with_an_id_twice_in_a_split_is_refused(tmp_path):
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    samples = list(open_layout("folder", tmp_path / "source").samples())
    with pytest.raises(InputError, match="same id: val/val/b"):
        record(tmp_path, [*samples, samples[1]])


def test_a_missing_or_broken_dataset_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"has no dataset\.json: run the step ingest first"):
        Dataset.open(tmp_path)
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    out = record(tmp_path, list(open_layout("folder", tmp_path / "source").samples()))
    data = (out / "manifest.parquet").read_bytes()
    (out / "manifest.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot be read .* run the step ingest again"):
        Dataset.open(out)
    (out / "manifest.parquet").unlink()
    with pytest.raises(InputError, match=r"has no manifest\.parquet"):
        Dataset.open(out)


def unsplit(count: int, per_group: int = 3) -> list[Sample]:
    return [Sample(f"s{i}", None, f"{i}.png", (), f"patient {i // per_group}") for i in range(count)]


def test_a_split_by_group_keeps_groups_whole_and_meets_the_shares():
    split = split_by_group(unsplit(300), SplitSettings(val=0.2, test=0.1, seed=4))
    assert [s.id for s in split] == [f"s{i}" for i in range(300)]
    assert {name: len({s.group for s in split if s.split == name}) for name in ("train", "val", "test")} == {
        "train": 70,
        "val": 20,
        "test": 10,
    }
    assert len({(s.group, s.split) for s in split}) == 100


def test_a_split_by_group_depends_on_the_seed_alone():
    samples = unsplit(60)
    first = split_by_group(samples, SplitSettings(0.25, 0.25, seed=1))
    assert split_by_group(samples[::-1], SplitSettings(0.25, 0.25, seed=1))[::-1] == first
    assert split_by_group(samples, SplitSettings(0.25, 0.25, seed=2)) != first


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(InputError, match=r"split 'val' would be empty: a share of 0\.1 of 2 groups"):
        split_by_group(unsplit(6), SplitSettings(val=0.1, test=0.4))
    with pytest.raises(InputError, match="split 'train' would be empty"):
        split_by_group(unsplit(6), SplitSettings(val=0.3, test=0.6))
