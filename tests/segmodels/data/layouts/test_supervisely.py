"""Supervisely's own format: shapes are drawn as its library draws them."""

import base64
import json
import shutil
import zlib
from pathlib import Path

import layout_trees as trees
import pytest
from layout_trees import SIZE, histogram, objects, opened

from segmodels.data.layouts import open_layout
from segmodels.errors import InputError


def test_polygons_with_holes_bitmaps_and_rectangles_are_objects(tmp_path: Path) -> None:
    layout, samples, annotation = opened("supervisely", trees.supervisely_project(tmp_path))
    assert [sample.id for sample in samples] == ["ds1/a", "ds1/b", "ds2/a", "ds2/b"]
    assert layout.labels.classes == ("background", "große Katze", "dog", "nose")
    assert layout.labels.palette[1] == (0x33, 0xDD, 0xFF)
    assert objects(layout, annotation) == [("große Katze", 80 - 4, False), ("dog", 23, False), ("dog", 20, False)]
    under = 4 * 4 - 1  # pixels of the cat below the bitmap
    assert histogram(layout, annotation) == {
        "background": SIZE[0] * SIZE[1] - (76 - under) - 23 - 20,
        "große Katze": 76 - under,
        "dog": 43,
    }


def test_objects_outside_the_image_have_no_pixel(tmp_path: Path) -> None:
    trees.supervisely_project(tmp_path)
    path = tmp_path / "ds1" / "ann" / "a.jpg.json"
    content = json.loads(path.read_text())
    bitmap = next(one for one in content["objects"] if one["geometryType"] == "bitmap")
    bitmap["bitmap"]["origin"] = [-40, -40]
    outside = {"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[-9, -9], [-5, -5]]}}
    path.write_text(json.dumps(content | {"objects": [bitmap, outside]}))
    layout = open_layout("supervisely", tmp_path)
    annotation = layout.annotation(next(iter(layout.samples())))
    assert (annotation.classes.max(), annotation.segments, annotation.empty) == (0, (), 2)


def test_datasets_with_names_of_splits_are_splits_and_lone_files_are_left_out(tmp_path: Path) -> None:
    trees.supervisely_project(tmp_path)
    (tmp_path / "ds1").rename(tmp_path / "train")
    (tmp_path / "ds2").rename(tmp_path / "valid")
    (tmp_path / "valid" / "ann" / "b.png.json").unlink()
    (tmp_path / "train" / "ann" / "a.jpg.json").rename(tmp_path / "train" / "ann" / "a.json")
    layout = open_layout("supervisely", tmp_path)
    assert [(sample.split, sample.id) for sample in layout.samples()] == [
        ("train", "train/a"),
        ("train", "train/b"),
        ("val", "valid/a"),
    ]
    assert layout.left_out == ["valid/img/b.png"]
    shutil.copytree(tmp_path / "train", tmp_path / "foo")
    with pytest.raises(InputError, match=r"lie beside the folders of the splits \(train, valid\): foo/a, foo/b: move"):
        list(open_layout("supervisely", tmp_path).samples())


NO_PICTURE = base64.b64encode(zlib.compress(b"x")).decode()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (
            {"geometryType": "polygon"},
            r"object 1 cannot be drawn \('points'\), expected a polygon, rectangle or",
        ),
        ({"geometryType": "star", "points": {"exterior": []}}, "it is a star"),
        ({"geometryType": "polygon", "points": {"exterior": [[1, "x"]]}}, "cannot be drawn"),
        ({"geometryType": "bitmap", "bitmap": {"data": "####", "origin": [0, 0]}}, "cannot be drawn"),
        (
            {"geometryType": "bitmap", "bitmap": {"data": NO_PICTURE, "origin": [0, 0]}},
            "object 1 is truncated or broken",
        ),
        ({"geometryType": "bitmap", "bitmap": {"data": NO_PICTURE, "origin": []}}, "object 1 cannot be drawn"),
        ({"geometryType": "polygon", "classTitle": "dogg", "points": {"exterior": []}}, "unknown class 'dogg'"),
    ],
)
def test_a_broken_object_is_one_sentence(shape: dict, sentence: str, tmp_path: Path) -> None:
    trees.supervisely_project(tmp_path)
    path = tmp_path / "ds1" / "ann" / "a.jpg.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"objects": [{"classTitle": "dog"} | shape]}))
    layout = open_layout("supervisely", tmp_path)
    with pytest.raises(InputError, match=sentence):
        layout.annotation(next(iter(layout.samples())))
