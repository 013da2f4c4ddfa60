"""Polygons in YOLO's text files."""

from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import SIZE, histogram, objects, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError

LINES = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n\n0 0.5 0.5 0.625 0.5 0.625 0.75 0.5 0.75\n"


def write(root: Path, form: str = "{part}/{split}", names: str = "[cat, große Kuh]") -> Path:
    for split in ("train", "valid"):
        for name in ("a", "empty"):
            trees.photo(root / form.format(part="images", split=split) / f"{name}.jpg")
        trees.write_text(root / form.format(part="labels", split=split) / "a.txt", LINES)
    trees.photo(root / form.format(part="images", split="test") / "hidden.jpg")
    trees.write_text(root / "data.yaml", f"train: ../train/images\nnc: 2\nnames: {names}\n")
    return root


@pytest.mark.parametrize("form", ["{part}/{split}", "{split}/{part}"])
@pytest.mark.parametrize("names", ["[cat, große Kuh]", "{1: große Kuh, 0: cat}"])
def test_each_line_is_an_object(form: str, names: str, tmp_path: Path) -> None:
    write(tmp_path, form, names)
    assert find_layout(tmp_path) == "yolo"
    layout, samples, annotation = opened("yolo", tmp_path)
    assert [(one.split, one.id, one.files[0].rpartition("/")[2]) for one in samples] == [
        ("train", "train/a", "a.txt"),
        ("train", "train/empty", "data.yaml"),
        ("val", "valid/a", "a.txt"),
        ("val", "valid/empty", "data.yaml"),
    ]
    assert layout.left_out == [f"{form.format(part='images', split='test')}/hidden.jpg"]
    assert layout.labels.classes == ("background", "cat", "große Kuh")
    large, small = 12 * 16, 6 * 4
    assert objects(layout, annotation) == [("große Kuh", large, False), ("cat", small, False)]
    assert histogram(layout, annotation) == {
        "background": SIZE[0] * SIZE[1] - large,
        "große Kuh": large - small,
        "cat": small,
    }
    assert annotation.classes[6:18, 8:24].all()
    empty = layout.annotation(samples[1])
    assert empty is not None
    assert empty.segments == ()
    np.testing.assert_array_equal(empty.classes, np.zeros(SIZE))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2 0.2", r"a\.txt line 1 is a box, .*expected a polygon.*export the project as segmentation"),
        ("2 0 0 1 0 1 1", "line 1 has the class 2, expected 0 to 1, the numbers of the names"),
        ("0 0 0 20 0 20 10", "has the coordinate 20, expected shares of the image's width and height"),
        ("0 0 0 nan 0 1 1", "has the coordinate nan"),
        ("0 0 0 1 1 1", "has the polygon"),
        ("cat 0 0 1 0 1 1", "expected class x1 y1 x2 y2"),
    ],
)
def test_a_wrong_line_is_one_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    trees.write_text(write(tmp_path) / "labels" / "train" / "a.txt", line)
    layout = open_layout("yolo", tmp_path)
    with pytest.raises(InputError, match=sentence):
        layout.annotation(next(iter(layout.samples())))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [("{1: cat}", "not numbered from 0"), ("3", "names: .car, person"), ("[cat, [dog]]", "a name is a list")],
)
def test_wrong_names_are_one_sentence(names: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        _ = open_layout("yolo", write(tmp_path, names=names)).labels
