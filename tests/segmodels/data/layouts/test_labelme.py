"""The layout labelme: shapes are drawn as labelme itself draws them."""

import base64
import json
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import histogram, objects, opened
from PIL import Image

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError


def test_groups_are_one_object_later_shapes_lie_above_and_ignored_ones_count_nowhere(tmp_path: Path) -> None:
    layout, samples, annotation = opened("labelme", trees.labelme(tmp_path))
    assert layout.labels.classes == ("background", "cat", "tv/monitor")
    assert [sample.id for sample in samples] == ["0", "1", "2"]
    assert objects(layout, annotation) == [("cat", 49 + 9, False), ("tv/monitor", 25, False)]
    counts = histogram(layout, annotation)
    assert counts["cat"] == 49 + 9 - 9
    assert counts["tv/monitor"] == 25
    assert counts["void"] == 21


def test_a_list_of_labels_gives_their_order_and_names_what_it_lacks(tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ntv/monitor\ncat\n")
    assert open_layout("labelme", tmp_path).labels.classes == ("background", "tv/monitor", "cat")
    (tmp_path / "labels.txt").write_text("_background_\ntv/monitor\n")
    layout = open_layout("labelme", tmp_path)
    with pytest.raises(InputError, match=r"0\.json: unknown class 'cat'"):
        layout.annotation(next(iter(layout.samples())))


def test_masks_and_pictures_inside_the_file_are_read(tmp_path: Path) -> None:
    blob = np.array([[1, 0, 1], [1, 1, 1]], np.uint8) * 255
    shape = {"label": "cell", "shape_type": "mask", "points": [[4, 5], [6, 6]], "mask": trees.png_in_base64(blob)}
    picture = trees.RNG.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    content = {"imagePath": "..\\gone.jpg", "imageData": trees.png_in_base64(picture), "shapes": [shape]}
    trees.write_text(tmp_path / "train" / "a.json", json.dumps(content))
    layout, samples, annotation = opened("labelme", tmp_path)
    np.testing.assert_array_equal(layout.read_image(samples[0]), picture)
    np.testing.assert_array_equal(annotation.classes[5:7, 4:7], blob // 255)
    assert annotation.classes.sum() == 5


def test_a_mask_is_cut_off_at_the_image(tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text())
    mask = {"shape_type": "mask", "mask": trees.png_in_base64(np.full((3, 4), 255, np.uint8))}
    cut = {"label": "cat", "points": [[-2, -1], [1, 1]]} | mask
    outside = {"label": "cat", "points": [[-9, -7], [-6, -5]]} | mask
    (tmp_path / "labels.txt").write_text("_background_\ncat\n")
    (tmp_path / "0.json").write_text(json.dumps(content | {"shapes": [cut, outside]}))
    layout = open_layout("labelme", tmp_path)
    annotation = layout.annotation(next(iter(layout.samples())))
    assert (int((annotation.classes == 1).sum()), len(annotation.segments), annotation.empty) == (4, 1, 1)
    assert (annotation.classes[:2, :2] == 1).all()


def test_a_file_without_the_pictures_name_is_read_and_pictures_without_a_file_are_named(tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text())
    picture = trees.png_in_base64(np.zeros((*trees.SIZE, 3), np.uint8))
    for name, changed in (
        ("0", {"imagePath": None}),
        ("1", {"imagePath": "renamed.jpg"}),
        ("2", {"imageData": picture}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content | changed))
    del content["imagePath"]
    (tmp_path / "3.json").write_text(json.dumps(content | {"imageData": picture}))
    trees.photo(tmp_path / "new.jpg")
    layout, samples, _ = opened("labelme", tmp_path)
    assert [sample.image for sample in samples] == ["0.jpg", "1.jpg", "0.jpg", "3.json"]
    assert layout.left_out == ["2.jpg", "new.jpg"]


@pytest.mark.parametrize("stated", ["0.jpg", None])
def test_endings_may_have_capitals_that_the_file_does_not_say(stated: str | None, tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text()) | {"imagePath": stated}
    for path in tmp_path.iterdir():
        path.unlink()
    trees.photo(tmp_path / "0.JPG")
    (tmp_path / "0.JSON").write_text(json.dumps(content))
    assert find_layout(tmp_path) == "labelme"
    assert [sample.image for sample in open_layout("labelme", tmp_path).samples()] == ["0.JPG"]


def test_files_without_a_shape_are_one_sentence(tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"shapes": []}))
    (tmp_path / "labels.txt").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"has no shape in any of its \d+ JSON files of labelme, from 0\.json on"):
        open_layout("labelme", tmp_path).labels  # noqa: B018


def test_folders_of_splits_are_splits_and_files_beside_them_are_refused(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        trees.labelme(tmp_path / folder)
    layout = open_layout("labelme", tmp_path)
    assert [(one.split, one.id) for one in layout.samples()][2:4] == [("test", "test/2"), ("train", "train/0")]
    trees.labelme(tmp_path / "foo")
    with pytest.raises(
        InputError, match=r"^3 of 9 samples in \S+ lie beside the folders of the splits \(test, train\)"
    ):
        list(open_layout("labelme", tmp_path).samples())


def test_a_missing_picture_is_not_the_one_of_another_file(tmp_path: Path) -> None:
    trees.labelme(tmp_path / "a")
    trees.labelme(tmp_path / "b")
    (tmp_path / "a" / "1.jpg").unlink()
    layout, samples, _ = opened("labelme", tmp_path)
    assert [sample.id for sample in samples] == ["a/0", "a/2", "b/0", "b/1", "b/2"]
    assert layout.left_out == ["a/1.json"]


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle"])
def test_turned_rectangles_are_polygons_also_in_files_with_a_byte_order_mark(kind: str, tmp_path: Path) -> None:
    trees.photo(tmp_path / "a.jpg")
    shape = {"label": "cat", "shape_type": kind, "points": [[10, 4], [16, 10], [10, 16], [4, 10]]}
    found = []
    for shape_type, mark in ((kind, b"\xef\xbb\xbf"), ("polygon", b"")):
        content = {"imagePath": "a.jpg", "shapes": [shape | {"shape_type": shape_type}]}
        (tmp_path / "a.json").write_bytes(mark + json.dumps(content).encode())
        found.append(opened("labelme", tmp_path)[2].classes)
    np.testing.assert_array_equal(*found)
    assert found[0].any()


def test_a_rectangle_of_four_corners_is_the_one_of_two(tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text())
    content["shapes"][2]["points"] = [[6, 6], [10, 6], [10, 10], [6, 10]]
    (tmp_path / "0.json").write_text(json.dumps(content))
    layout, samples, annotation = opened("labelme", tmp_path)
    np.testing.assert_array_equal(annotation.classes, layout.annotation(samples[1]).classes)


NO_PNG = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\nshowpage\n").decode()
"""Pillow would hand it to Ghostscript."""


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"points": [[1, 1], [2, 2]], "shape_type": "polygon"}, "shape 1 is a polygon of 2 points, expected one of"),
        ({"points": [[1, 1]], "shape_type": "cube"}, "shape 1 is a cube"),
        ({"points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": "####"}, "shape 1 has a mask that cannot be read"),
        ({"points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": NO_PNG}, "shape 1 has a mask that cannot be read"),
        ({"points": 3}, "shapes.0.points"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_one_sentence(shape: dict, sentence: str, tmp_path: Path) -> None:
    trees.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text())
    (tmp_path / "labels.txt").write_text("_background_\ncat\n")
    (tmp_path / "0.json").write_text(json.dumps(content | {"shapes": [{"label": "cat"} | shape]}))
    layout = open_layout("labelme", tmp_path)
    with pytest.raises(InputError, match=sentence):
        layout.annotation(next(iter(layout.samples())))


def test_real_shapes_give_the_masks_that_labelme_exported(shared_data: Path, tmp_path: Path) -> None:
    """The same photograph, annotated in labelme and exported to VOC by it."""
    source = shared_data / "voc-labelme"
    home = source / "VOCdevkit" / "VOC2012"
    for path in (source / "data_annotated").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / f"{path.stem}.jpg").write_bytes((home / "JPEGImages" / f"{path.stem}.jpg").read_bytes())
    (tmp_path / "labels.txt").write_bytes((source / "labels.txt").read_bytes())
    assert find_layout(tmp_path) == "labelme"
    layout = open_layout("labelme", tmp_path)
    voc = {sample.id: sample for sample in (opened("voc2012", source)[1])}
    for sample in layout.samples():
        annotation = layout.annotation(sample)
        exported = np.asarray(Image.open(home / "SegmentationClass" / f"{sample.id}.png"))
        np.testing.assert_array_equal(annotation.classes, exported)
        theirs = open_layout("voc2012", source).annotation(voc[sample.id])
        assert [segment.label for segment in annotation.segments] == [segment.label for segment in theirs.segments]
        numbers = np.asarray(Image.open(home / "SegmentationObject" / f"{sample.id}.png"))
        assert set(np.unique(numbers)) - {0, 255} == {segment.id for segment in annotation.segments}
