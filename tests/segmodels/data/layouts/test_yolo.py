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
@pytest.mark.parametrize("names", ["[cat, große Kuh]", "{1: große Kuh, 0: cat}", "{'0': cat, '1': große Kuh}"])
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


@pytest.mark.parametrize("form", ["{part}/{split}", "{split}/{part}"])
def test_folders_and_endings_may_have_capitals(form: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        trees.photo(tmp_path / form.format(part="Images", split=split) / "a.JPG")
        trees.photo(tmp_path / form.format(part="Images", split=split) / "B.JPG")
        for name in ("a.TXT", "b.TXT"):
            trees.write_text(tmp_path / form.format(part="LABELS", split=split) / name, LINES)
    trees.write_text(tmp_path / "data.yaml", "names: [cat, cow]\n")
    assert find_layout(tmp_path) == "yolo"
    _, samples, _ = opened("yolo", tmp_path)
    assert [(one.id, one.files[0].rpartition("/")[2]) for one in samples] == [
        ("train/B", "data.yaml"),
        ("train/a", "a.TXT"),
        ("valid/B", "data.yaml"),
        ("valid/a", "a.TXT"),
    ]


def test_a_class_called_background_is_the_background(tmp_path: Path) -> None:
    write(tmp_path, names="[Background, große Kuh]")
    layout, _, annotation = opened("yolo", tmp_path)
    assert layout.labels.classes == ("background", "große Kuh")
    assert objects(layout, annotation) == [("große Kuh", 12 * 16, False)]
    assert histogram(layout, annotation)["große Kuh"] == 12 * 16 - 6 * 4  # less the small polygon above it


def test_what_macos_leaves_beside_the_yaml_file_is_not_read(tmp_path: Path) -> None:
    (write(tmp_path) / "data.yaml").rename(tmp_path / "pets.yaml")
    (tmp_path / "._pets.yaml").write_bytes(b"\x00\x05\x16\x07\xb0\xff")
    assert open_layout("yolo", tmp_path).labels.classes == ("background", "cat", "große Kuh")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"0 0.5 0.5 0.2 0.2\n{LINES}", r"a\.txt line 1 is a box, .*expected polygons.*export the project as segm"),
        ("0", r"a\.txt line 1 is '0', expected polygons"),
        ("0 0.5 0.5", "line 1 is '0 0.5 0.5', expected polygons"),
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
    [
        ("{1: cat}", "not numbered from 0"),
        ("3", "names: .car, person"),
        ("[cat, cat]", r"data\.yaml .*'cat' stands twice"),
        ("[cat, [dog]]", "a name is a list"),
    ],
)
def test_wrong_names_are_one_sentence(names: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        _ = open_layout("yolo", write(tmp_path, names=names)).labels


def by_split(root: Path) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for sample in open_layout("yolo", root).samples():
        found.setdefault(sample.split, []).append(sample.id)
    return found


def parts(root: Path, *folders: str) -> Path:
    """Two images with objects in each folder."""
    for folder in folders:
        for name in "ab":
            trees.photo(root / folder / "images" / f"{name}.jpg")
            trees.write_text(root / folder / "labels" / f"{name}.txt", LINES)
    return root


@pytest.mark.parametrize(
    "content",
    [
        "train: first/images\nval: second/images\ntest: third/images",
        "path: ../pets\ntrain: first/images\nvalidation: [second/images]\ntest: ../third/images",
        "path: /home/me/pets\ntrain: /home/me/pets/first/images\nval: second/images\ntest: C:\\pets\\third\\images",
        "path: .\ntrain: one.txt\nval: second/images\ntest: lists/three.txt",
    ],
)
def test_splits_are_what_the_yaml_file_names(content: str, tmp_path: Path) -> None:
    parts(tmp_path, "first", "second", "third", "fourth")
    trees.write_text(tmp_path / "one.txt", "./first/images/a.jpg\n\ndata/first/images/b.jpg\n")
    trees.write_text(tmp_path / "lists" / "three.txt", "/home/me/pets/third/images/a.jpg\n../third/images/b.jpg\n")
    trees.write_text(tmp_path / "data.yaml", f"names: [cat, cow]\n{content}\n")
    assert by_split(tmp_path) == {
        "train": ["first/a", "first/b"],
        "val": ["second/a", "second/b"],
        "test": ["third/a", "third/b"],
    }
    layout = open_layout("yolo", tmp_path)
    list(layout.samples())
    assert layout.left_out == ["fourth/images/a.jpg", "fourth/images/b.jpg"]


def test_splits_that_the_yaml_file_lacks_are_those_of_the_folders(tmp_path: Path) -> None:
    parts(tmp_path, "train", "valid", "test")
    trees.write_text(tmp_path / "data.yaml", "names: [cat, cow]\ntrain: ../train/images\nval: ../elsewhere/images\n")
    assert sorted(map(str, by_split(tmp_path))) == ["test", "train", "val"]


def test_a_split_of_the_images_of_another_one_counts_as_not_given(tmp_path: Path) -> None:
    parts(tmp_path, "first")
    trees.write_text(tmp_path / "data.yaml", "names: [cat, cow]\ntrain: first/images\nval: first/images\ntest:\n")
    assert by_split(tmp_path) == {"train": ["first/a", "first/b"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("train: one.txt", r"one\.txt names the image 'first/images/c\.jpg', which is not in"),
        ("train: {a: 1}", r"data\.yaml is damaged \(train is .*expected folders or lists of images"),
    ],
)
def test_wrong_paths_of_splits_are_one_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    parts(tmp_path, "first")
    trees.write_text(tmp_path / "one.txt", "first/images/a.jpg\nfirst/images/c.jpg\n")
    trees.write_text(tmp_path / "data.yaml", f"names: [cat, cow]\n{content}\n")
    with pytest.raises(InputError, match=sentence):
        list(open_layout("yolo", tmp_path).samples())


@pytest.mark.parametrize("file", ["classes.txt", "Classes.TXT"])
def test_names_may_stand_in_classes_txt(file: str, tmp_path: Path) -> None:
    parts(tmp_path, "")
    with pytest.raises(InputError, match=r"does not name its classes, expected data\.yaml .* or classes\.txt"):
        open_layout(find_layout(tmp_path), tmp_path)
    trees.write_text(tmp_path / file, "cat\ngroße Kuh\n")
    assert find_layout(tmp_path) == "yolo"
    layout = open_layout("yolo", tmp_path)
    assert layout.labels.classes == ("background", "cat", "große Kuh")
    assert [sample.files for sample in layout.samples()] == [("labels/a.txt",), ("labels/b.txt",)]


def test_boxes_are_refused_before_any_image_is_opened(tmp_path: Path) -> None:
    trees.write_text(write(tmp_path) / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match=r"a\.txt holds boxes alone, '0 0.5 0.5 0.2 0.2', expected polygons"):
        list(open_layout("yolo", tmp_path).samples())


def test_a_folder_without_the_text_file_of_an_image_is_not_annotated(tmp_path: Path) -> None:
    trees.write_text(write(tmp_path) / "labels" / "test" / "classes.txt", "cat\ngroße Kuh\n")
    layout = open_layout("yolo", tmp_path)
    assert {sample.split for sample in layout.samples()} == {"train", "val"}
    assert layout.left_out == ["images/test/hidden.jpg", "labels/test/classes.txt"]
