"""COCO's views, and COCO's JSON as annotation tools export it."""

import json
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import SIZE, histogram, objects, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError


def test_instances_hold_polygons_runs_and_crowds(tmp_path: Path) -> None:
    layout, samples, annotation = opened("coco_instances", trees.coco_instances(tmp_path))
    assert find_layout(tmp_path) == "coco"
    assert [(sample.split, sample.id) for sample in samples] == [
        (split, f"{number:012}") for split in ("train", "val") for number in (139, 140)
    ]
    # the polygon's 48 pixels, less the 16 under the smaller dog
    assert histogram(layout, annotation) == {"person": 48 - 16 + 96, "dog": 24, "background": 768 - 48 - 96 - 8}
    assert objects(layout, annotation) == [("person", 48, False), ("dog", 24, False), ("person", 96, True)]
    assert annotation.layers.shape == (2, *SIZE)
    assert annotation.segments[0].box == (2, 4, 8, 12)
    assert [segment.area for segment in annotation.segments] == [48, 24, 96]
    empty = layout.annotation(samples[1])
    assert set(histogram(layout, empty)) == {"background"}
    assert empty.layers.shape == (0, *SIZE)


def test_panoptic_maps_keep_every_segment_as_stated(tmp_path: Path) -> None:
    layout, samples, annotation = opened("coco_panoptic", trees.coco_panoptic(tmp_path))
    assert [sample.split for sample in samples] == ["train", "val"]
    assert histogram(layout, annotation) == {"person": 48 + 96, "grass-merged": 288, "void": 768 - 432}
    assert objects(layout, annotation) == [("person", 48, False), ("person", 96, True), ("grass-merged", 288, False)]
    assert layout.labels.things == {0}
    path = tmp_path / "annotations" / "panoptic_train2017.json"
    rows = json.loads(path.read_text())
    rows["annotations"][0]["segments_info"].pop()
    path.write_text(json.dumps(rows))
    layout = open_layout("coco_panoptic", tmp_path)
    with pytest.raises(InputError, match=r"holds the segments \[5\], which .*panoptic_train2017\.json does not list"):
        layout.annotation(next(iter(layout.samples())))


def test_stuff_maps_hold_category_ids_less_one(tmp_path: Path) -> None:
    layout, samples, annotation = opened("coco_stuff", trees.coco_stuff(tmp_path))
    assert find_layout(tmp_path) == "coco"
    assert [(sample.split, sample.image) for sample in samples] == [
        ("train", "images/train2017/000000000139.jpg"),
        ("val", "images/val2017/000000000139.jpg"),
    ]
    assert layout.labels.num_classes == 171
    assert histogram(layout, annotation) == {"person": 23 * 24, "wood": 23 * 8, "void": 32}


def test_coco_is_its_richest_view(tmp_path: Path) -> None:
    trees.coco_instances(tmp_path)
    assert open_layout("coco", tmp_path).labels.classes[0] == "background"
    trees.coco_panoptic(tmp_path)
    assert open_layout("coco", tmp_path).labels.classes == ("person", "grass-merged")


@pytest.mark.parametrize(
    ("write", "splits"),
    [
        (trees.cvat, [None, None]),
        (trees.supervisely, [None, None]),
        (trees.roboflow, ["test", "test", "train", "train", "val", "val"]),
    ],
)
def test_exports_have_their_own_categories(write, splits, tmp_path: Path) -> None:
    assert find_layout(write(tmp_path)) == "coco_export"
    layout, samples, annotation = opened("coco_export", tmp_path)
    assert [sample.split for sample in samples] == splits
    assert layout.labels.classes == ("background", "person", "dog")
    assert layout.labels.things == {1, 2}
    assert objects(layout, annotation) == [("person", 48, False), ("dog", 24, False), ("person", 96, True)]


def test_an_export_finds_images_of_windows_paths_and_leaves_out_those_that_are_gone(tmp_path: Path) -> None:
    rows = trees.coco_rows("sub\\000000000139.jpg")
    trees.photo(tmp_path / "images" / "sub" / "000000000139.jpg")
    trees.write_text(tmp_path / "annotations" / "instances_default.json", json.dumps(rows))
    layout = open_layout("coco_export", tmp_path)
    assert [sample.image for sample in layout.samples()] == ["images/sub/000000000139.jpg"]
    assert layout.left_out == ["sub/000000000140.jpg"]


def export(root: Path, content: dict, *pictures: str, file: str = "annotations/instances_default.json") -> list[str]:
    """Images of the samples of an export, and then what is left out."""
    for name in pictures:
        trees.photo(root / name)
    trees.write_text(root / file, json.dumps(content))
    layout = open_layout("coco_export", root)
    return [sample.image for sample in layout.samples()] + layout.left_out


def test_images_of_another_machine_are_found_by_name_where_no_two_share_one(tmp_path: Path) -> None:
    rows = trees.coco_rows("/home/me/data/é139.JPG")
    decomposed = "images/e\u0301139.jpg"
    assert export(tmp_path, rows, decomposed, "images/new.png") == [
        decomposed,
        "home/me/data/é140.JPG",
        "images/new.png",
    ]
    trees.photo(tmp_path / "old" / "é139.jpg")
    assert export(tmp_path, rows) == ["home/me/data/é139.JPG", "home/me/data/é140.JPG"]


def test_images_of_label_studios_local_storage_are_found_by_name(tmp_path: Path) -> None:
    rows = trees.coco_rows("/data/local-files/?d=139.jpg")
    assert export(tmp_path, rows, "images/139.jpg", "images/140.jpg") == ["images/139.jpg", "images/140.jpg"]


def test_endings_of_images_may_have_capitals_that_the_file_lacks_or_the_other_way_round(tmp_path: Path) -> None:
    found = export(tmp_path, trees.coco_rows("a139.JPG"), "images/a139.jpg", "images/a140.JPG")
    assert found == ["images/a139.jpg", "images/a140.JPG"]


def test_a_file_in_utf_16_is_read(tmp_path: Path) -> None:
    export(tmp_path, trees.coco_rows("é139.jpg"), "images/é139.jpg")
    path = tmp_path / "annotations" / "instances_default.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16")
    assert find_layout(tmp_path) == "coco_export"
    assert next(iter(open_layout("coco_export", tmp_path).samples())).image == "images/é139.jpg"


def test_a_missing_image_is_not_the_one_of_another_split(tmp_path: Path) -> None:
    rows = trees.coco_rows("a139.jpg")
    for split, name in (("valid", "a139.jpg"), ("train", "a140.jpg")):
        found = export(tmp_path, rows, f"{split}/{name}", file=f"{split}/_annotations.coco.json")
    assert found == ["train/a140.jpg", "valid/a139.jpg", "a139.jpg", "a140.jpg"]


def test_an_export_of_boxes_alone_is_one_sentence(tmp_path: Path) -> None:
    rows = trees.coco_rows()
    for row in rows["annotations"]:
        row["segmentation"] = []
    with pytest.raises(
        InputError, match=r"instances_default\.json has 3 annotations and no segmentation, expected poly"
    ):
        export(tmp_path, rows, "images/000000000139.jpg")


def test_labelmes_background_is_the_background(tmp_path: Path) -> None:
    rows = trees.coco_rows()
    rows["categories"].insert(0, {"id": 0, "name": "_background_", "supercategory": None})
    export(tmp_path, rows, "images/000000000139.jpg")
    assert open_layout("coco_export", tmp_path).labels.classes == ("background", "person", "dog")


def test_panoptic_files_in_cityscapes_are_no_export(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    rows = trees.coco_rows()
    trees.write_text(tmp_path / "annotations" / "instancesonly_filtered_gtFine_train.json", json.dumps(rows))
    rows["annotations"] = [{"image_id": 139, "segments_info": []}]
    trees.write_text(tmp_path / "gtFine" / "cityscapes_panoptic_train.json", json.dumps(rows))
    assert find_layout(tmp_path) == "cityscapes"


def test_ids_that_stand_twice_are_one_sentence(tmp_path: Path) -> None:
    trees.cvat(tmp_path)
    rows = trees.coco_rows()
    rows["images"].append(rows["images"][0] | {"id": 77})
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"instances_default\.json lists the image .* twice, expected each once"):
        list(open_layout("coco_export", tmp_path).samples())
    trees.coco_panoptic(tmp_path / "panoptic")
    path = tmp_path / "panoptic" / "annotations" / "panoptic_train2017.json"
    rows = json.loads(path.read_text())
    rows["annotations"][0]["segments_info"] *= 2
    path.write_text(json.dumps(rows))
    layout = open_layout("coco_panoptic", tmp_path / "panoptic")
    with pytest.raises(InputError, match=r"panoptic_train2017\.json lists a segment of .* twice, expected each id"):
        layout.annotation(next(iter(layout.samples())))


def exported(root: Path, rows: dict):
    """The layout of an export with these rows."""
    trees.cvat(root)
    (root / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    return open_layout("coco_export", root)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (lambda rows: rows["images"][1].update(id=139), r"gives the id 139 to the images 0+139\.jpg and 0+140\.jpg"),
        (lambda rows: rows["categories"][1].update(id=1), "gives the id 1 to the categories person and dog, expected"),
        (
            lambda rows: [row.update(image_id=f"{row['image_id']}.jpg") for row in rows["annotations"]],
            r"lists none of the images that its annotations belong to: image_id is '139\.jpg', expected .* such as 139",
        ),
        (lambda rows: rows["annotations"].append(5), r"annotations\.3 is 5, expected an object"),
        (lambda rows: rows["annotations"][0].pop("image_id"), r"annotations\.0\.image_id is missing"),
        (lambda rows: rows["images"][1].pop("file_name"), r"images\.1\.file_name is missing"),
        (lambda rows: rows["annotations"][0].update(category_id=[1]), r"has the category \[1\], expected one of"),
    ],
)
def test_rows_that_do_not_belong_together_are_one_sentence(changed, sentence: str, tmp_path: Path) -> None:
    rows = trees.coco_rows()
    changed(rows)
    layout = exported(tmp_path, rows)
    with pytest.raises(InputError, match=sentence):
        layout.annotation(next(iter(layout.samples())))


@pytest.mark.parametrize(
    ("box", "area"), [([2, 4, 0, 8], "48"), ([2, 4, -6, 8], None), ([2, None, 6, 8], float("nan")), ("2 4", 10**400)]
)
def test_boxes_without_an_area_and_areas_that_are_no_numbers_follow_from_the_mask(box, area, tmp_path: Path) -> None:
    rows = trees.coco_rows()
    rows["annotations"][0] |= {"bbox": box, "area": area, "iscrowd": "0", "id": 2}  # an id that another has too
    layout = exported(tmp_path, rows)
    annotation = layout.annotation(next(iter(layout.samples())))
    assert annotation.segments[0].box == (2, 4, 8, 12)
    assert [segment.area for segment in annotation.segments] == [48, 24, 96]
    assert [segment.crowd for segment in annotation.segments] == [False, False, True]


def test_polygons_beyond_the_image_end_at_its_border_and_those_without_area_have_no_pixel(tmp_path: Path) -> None:
    trees.cvat(tmp_path)
    rows = trees.coco_rows()
    height = SIZE[0]
    corners = [(-10, -10), (4, -10), (4, height + 10), (-10, height + 10)]
    rows["annotations"][0]["segmentation"] = [[number for corner in corners for number in corner]]
    rows["annotations"][1] |= {"segmentation": [[3, 3, 3, 9, 3, 3]], "bbox": [3, 3, 0, 6]}
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    layout = open_layout("coco_export", tmp_path)
    annotation = layout.annotation(next(iter(layout.samples())))
    assert annotation is not None
    assert annotation.masks(annotation.segments[:1])[0].sum() == 4 * height
    assert all(segment.area for segment in annotation.segments)


def test_points_and_empty_lists_among_polygons_have_no_pixel(tmp_path: Path) -> None:
    rows = trees.coco_rows()
    layout = exported(tmp_path, rows)
    whole = layout.annotation(next(iter(layout.samples())))
    rows["annotations"][0]["segmentation"] += [[16.0, 12.0], []]
    rows["annotations"][1]["segmentation"] = [[16.0, 12.0]]
    layout = exported(tmp_path, rows)
    annotation = layout.annotation(next(iter(layout.samples())))
    np.testing.assert_array_equal(annotation.masks(annotation.segments[:1]), whole.masks(whole.segments[:1]))
    assert (len(annotation.segments), annotation.empty) == (len(whole.segments) - 1, whole.empty + 1)


def test_via_writes_polygons_as_one_list_and_ids_of_images_as_text(tmp_path: Path) -> None:
    trees.cvat(tmp_path)
    layout, _, annotation = opened("coco_export", tmp_path)
    rows = trees.coco_rows()
    for row in rows["annotations"]:
        row["image_id"] = str(row["image_id"])
        if isinstance(row["segmentation"], list):
            (row["segmentation"],) = row["segmentation"]
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    again, _, same = opened("coco_export", tmp_path)
    assert objects(again, same) == objects(layout, annotation)
    np.testing.assert_array_equal(same.classes, annotation.classes)


def test_masks_that_cvat_calls_crowds_are_objects(tmp_path: Path) -> None:
    trees.cvat(tmp_path)
    rows = trees.coco_rows()
    path = tmp_path / "annotations" / "instances_default.json"
    for attributes, crowd in (
        ({"occluded": False}, False),
        ({"occluded": False, "is_crowd": True}, True),
        (None, True),
    ):
        rows["annotations"][2]["attributes"] = attributes
        path.write_text(json.dumps(rows))
        layout, _, annotation = opened("coco_export", tmp_path)
        assert objects(layout, annotation)[2] == ("person", 96, crowd)


RUNS = {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([[1, 2, 3, 4]], r"annotation 1 has the polygon \[1, 2, 3, 4\], expected \[x1, y1"),
        ([[1, 2, 3, 4, 5]], "has the polygon"),
        ([["a"] * 6], "has the polygon"),
        ([[1, 2, 3, 4, 1e9, 6]], r"polygon with the coordinate 1000000000\.0, expected pixels of an image of 32 x 24"),
        ([[1, 2, 3, 4, float("nan"), 6]], "polygon with the coordinate nan, expected pixels"),
        (RUNS | {"counts": [5, 5]}, r"its runs have 10 pixels, expected \[24, 32\] and 768\): correct it"),
        (RUNS | {"counts": [-5, 773]}, r"cannot be understood \(it has a run of -5 pixels\)"),
        (RUNS | {"counts": []}, "its runs have 0 pixels"),
        (RUNS | {"counts": "WWWW"}, r"\(its run lengths end in the middle of a number\)"),
        (RUNS | {"counts": "a\u00fcb"}, "its run lengths hold the character"),
        (RUNS | {"size": [4, 4]}, r"its size is \[4, 4\] and its runs have 768 pixels, expected \[24, 32\]"),
        (RUNS | {"counts": [2**40]}, "cannot be understood"),
        ("text", "cannot be understood"),
    ],
)
def test_a_segmentation_that_is_none_is_one_sentence(segmentation, sentence: str, tmp_path: Path) -> None:
    rows = trees.coco_rows()
    rows["annotations"][0]["segmentation"] = segmentation
    trees.cvat(tmp_path)
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    layout = open_layout("coco_export", tmp_path)
    with pytest.raises(InputError, match=sentence):
        layout.annotation(next(iter(layout.samples())))


def test_real_panoptic_maps_and_objects_of_coco(shared_data: Path) -> None:
    root = shared_data / "coco-sample"
    assert find_layout(root) == find_layout(root / "coco") == "coco"
    layout, samples, annotation = opened("coco", root / "coco")
    assert [sample.id for sample in samples] == ["000000142238", "000000439180"]
    assert layout.labels.num_classes == 133
    stated = json.loads((root / "coco" / "annotations" / "panoptic_val2017.json").read_text())
    infos = {row["image_id"]: row["segments_info"] for row in stated["annotations"]}
    for sample in samples:
        annotation = layout.annotation(sample)
        own = infos[int(sample.id)]
        assert [segment.crowd for segment in annotation.segments] == [bool(info["iscrowd"]) for info in own]
        assert [mask.sum() for mask in annotation.masks()] == [info["area"] for info in own]
    layout, samples, annotation = opened("coco_instances", root / "coco")
    assert layout.labels.num_classes == 81
    crowds = [sum(segment.crowd for segment in layout.annotation(sample).segments) for sample in samples]
    assert crowds == [1, 2]
    assert len(annotation.segments) == 15
    assert np.count_nonzero(annotation.classes) == sum(annotation.masks().any(axis=0).ravel())


def lists_of_images(root: Path, **files: str) -> dict[str | None, list[str]]:
    """Split -> images, of an export whose JSON files, by name without the ending, list these images."""
    for file, names in files.items():
        rows = trees.coco_rows()
        rows["images"] = [rows["images"][0] | {"id": id, "file_name": f"{one}.jpg"} for id, one in enumerate(names)]
        rows["annotations"] = [row | {"image_id": 0} for row in rows["annotations"][:1]]
        trees.write_text(root / "annotations" / f"{file}.json", json.dumps(rows))
        for one in names:
            trees.photo(root / "images" / f"{one}.jpg")
    found: dict[str | None, list[str]] = {}
    for sample in open_layout("coco_export", root).samples():
        found.setdefault(sample.split, []).append(Path(sample.image).stem)
    return found


@pytest.mark.parametrize("name", ["{}_v2", "instances-{}", "{}.v2", "my {} set", "test_{}"])
def test_the_word_of_a_split_may_stand_anywhere_in_an_exports_name(name: str, tmp_path: Path) -> None:
    files = {name.format("train"): "ab", name.format("val"): "c"}
    assert lists_of_images(tmp_path, **files) == {"train": ["a", "b"], "val": ["c"]}


def test_json_files_that_leave_doubts_about_splits_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images/a\.jpg in annotations/all\.json and in annotations/train\.json, "):
        lists_of_images(tmp_path / "twice", all="abc", train="ab", val="c")
    with pytest.raises(InputError, match=r"\(annotations/train\.json\) beside others \(annotations/more\.json\)"):
        lists_of_images(tmp_path / "some", train="ab", more="c")
    assert lists_of_images(tmp_path / "none", one="ab", two="c") == {None: ["a", "b", "c"]}


def test_files_of_keypoints_are_read_where_there_are_none_of_objects(tmp_path: Path) -> None:
    files = {"person_keypoints_train2017": "ab", "person_keypoints_val2017": "c"}
    assert lists_of_images(tmp_path, **files) == {"train": ["a", "b"], "val": ["c"]}
    assert find_layout(tmp_path) == "coco_export"
    assert lists_of_images(tmp_path, instances_all="abc") == {None: ["a", "b", "c"]}


@pytest.mark.parametrize("file", ["result.json", "annotations/custom.json"])
def test_a_large_json_file_is_known_by_its_keys(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmodels.data.layouts.coco_export.LARGEST_PARSED", 50)
    export(tmp_path, trees.coco_rows(), "images/000000000139.jpg", file=file)
    assert find_layout(tmp_path) == "coco_export"
    trees.write_text(tmp_path / file, json.dumps({"images": [], "annotations": [], "text": "none" * 50}))
    with pytest.raises(InputError, match="fits no layout"):
        find_layout(tmp_path)
