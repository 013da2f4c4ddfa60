"""Objects of the layout ``folder``: their classes, overlaps and tables."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_folder import IMAGE, folder, read_both, save

from segmodels.annotations import Segment
from segmodels.data.layouts import Layout, open_layout
from segmodels.errors import InputError

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
        (lambda root: (root / "objects" / "a.png").unlink(), r"1 file in .* has no map of objects: images/a\.png"),
        (lambda root: save(root / "objects" / "b.png", IDS), r"1 file in .* has no image: objects/b\.png"),
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
        (
            lambda root: (root / "objects" / "a.json").write_text(json.dumps([{"id": 1, "class": "car"}] * 2)),
            r"objects/a\.json cannot be understood \(2 rows for 1 ids\)",
        ),
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
