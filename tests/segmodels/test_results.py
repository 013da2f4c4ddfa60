"""Objects and panoptic maps as results: masks without loss, files that others read, pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segmodels import run_lengths
from segmodels.annotations import Segment
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.results import Instances, PanopticMap

LABELS = LabelMap(
    ("ground", "cat", "dog"), ((90, 60, 30), (230, 60, 60), (60, 60, 230)), {i: i for i in range(3)}, things={1, 2}
)


def masks() -> np.ndarray:
    result = np.zeros((3, 30, 40), bool)
    result[0, 5:15, 3:20] = result[1, 10:25, 15:38] = result[2, 0, 39] = True
    return result


def instances() -> Instances:
    return Instances.of_masks(masks(), [0.9, 0.5, 0.25], [1, 2, 1])


def panoptic() -> PanopticMap:
    ids = np.ones((30, 40), np.int32)
    ids[5:15, 3:20], ids[10:25, 15:38], ids[0] = 2, 7, 0
    return PanopticMap(ids, (Segment(1, 0), Segment(2, 1), Segment(7, 2)))


def test_masks_are_held_as_run_lengths_without_loss() -> None:
    found = instances()
    assert len(found) == 3
    for i, mask in enumerate(masks()):
        np.testing.assert_array_equal(found.mask(i), mask)
    np.testing.assert_array_equal(run_lengths.decode(found.masks, found.size), masks())
    assert found.boxes.tolist() == [[3, 5, 20, 15], [15, 10, 38, 25], [39, 0, 40, 1]]
    assert run_lengths.areas(found.masks, found.size).tolist() == [170, 345, 1]


def test_no_objects_and_empty_masks() -> None:
    none = Instances.of_masks(np.zeros((0, 4, 5), bool), [], [])
    assert (len(none), none.boxes.shape, none.files(LABELS)[".json"]) == (0, (0, 4), b"[]")
    assert run_lengths.decode([], (4, 5)).shape == (0, 4, 5)
    empty = Instances.of_masks(np.zeros((1, 4, 5), bool), [0.5], [1])
    assert not empty.mask(0).any()
    assert empty.boxes.tolist() == [[0, 0, 0, 0]]


def test_unsure_objects_are_not_proposed_for_correction() -> None:
    found = replace(instances(), sure=0.5)
    proposed = found.annotation(LABELS)
    np.testing.assert_array_equal(proposed.masks(), masks()[:2])
    assert [segment.label for segment in proposed.segments] == [1, 2]
    assert proposed.classes[0, 39] == 0
    assert proposed.classes[12, 16] == 1  # of the better one
    assert [(region.label, region.score) for region in found.regions()] == [(1, pytest.approx(0.9)), (2, 0.5)]
    assert replace(instances(), sure=1.0).annotation(LABELS).layers.shape == (0, 30, 40)
    assert len(json.loads(found.files(LABELS)[".json"])) == 3


def test_instances_are_written_as_coco_writes_results() -> None:
    rows = json.loads(instances().files(LABELS)[".json"])
    assert [row["category_id"] for row in rows] == [1, 2, 1]
    assert [row["class"] for row in rows] == ["cat", "dog", "cat"]
    assert rows[0]["score"] == pytest.approx(0.9)
    assert rows[0]["bbox"] == [3, 5, 17, 10]
    for row, mask in zip(rows, masks(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]), mask)


def test_a_panoptic_map_is_a_png_of_ids_and_their_rows() -> None:
    files = panoptic().files(LABELS)
    picture = np.asarray(Image.open(io.BytesIO(files[".png"])))
    np.testing.assert_array_equal(picture, panoptic().ids)
    assert picture.dtype == np.uint16
    assert json.loads(files[".json"])[1:] == [
        {"id": 2, "class": "cat", "thing": True, "area": 145},
        {"id": 7, "class": "dog", "thing": True, "area": 345},
    ]
    with pytest.raises(InputError, match="has the id 70000, expected at most 65535"):
        PanopticMap(np.full((1, 1), 70000, np.int32), (Segment(70000, 1),)).files(LABELS)


def test_a_panoptic_map_says_the_class_of_every_pixel() -> None:
    classes = panoptic().classes(LABELS)
    assert classes.dtype == np.uint8
    assert [int(classes[y, x]) for y, x in ((0, 0), (29, 0), (6, 4), (20, 20))] == [255, 0, 1, 2]


@pytest.mark.parametrize("size", [1, 10])
def test_objects_are_drawn_in_their_colours_with_outlines(size: int) -> None:
    """Small pictures have no captions, large ones do."""
    large = np.kron(masks(), np.ones((size, size), bool))
    image = np.full((*large.shape[1:], 3), 100, np.uint8)
    picture = Instances.of_masks(large, [0.9, 0.5, 0.25], [1, 2, 1]).draw(image, LABELS, alpha=1.0)
    assert picture.shape == image.shape
    assert (image == 100).all()
    inside = picture[12 * size + size // 2, 6 * size], picture[20 * size, 30 * size]
    assert [color.tolist() for color in inside] == [[230, 60, 60], [60, 60, 230]]
    assert picture[15 * size - 1, 6 * size].tolist() == [255, 255, 255]  # the outline
    untouched = picture[28 * size, 2 * size]
    assert untouched.tolist() == [100, 100, 100]
    plates = (picture[: 5 * size, 5 * size : 20 * size] != 100).any()  # above the first object
    assert plates == (size == 10)


def test_panoptic_maps_are_drawn_in_the_classes_colours() -> None:
    picture = panoptic().draw(np.full((30, 40, 3), 100, np.uint8), LABELS, alpha=1.0)
    assert [picture[y, x].tolist() for y, x in ((0, 39), (28, 2), (8, 6))] == [[100] * 3, [90, 60, 30], [230, 60, 60]]


def test_the_outline_of_a_light_colour_is_dark() -> None:
    light = replace(LABELS, palette=(*LABELS.palette[:-1], (240, 240, 240)))
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:30, 10:30] = True
    drawn = [
        Instances.of_masks(mask, [0.9], [LABELS.num_classes - 1]).draw(np.full((40, 40, 3), 230, np.uint8), labels)
        for labels in (LABELS, light)
    ]
    assert [picture[10, 20].tolist() for picture in drawn] == [[255] * 3, [0] * 3]


def test_captions_are_one_line_in_any_script() -> None:
    mask = np.zeros((1, 256, 256), bool)
    mask[0, 100:240, 10:240] = True
    names = ("道路", "??", "Straße", "one line", "one\nline")
    drawn = [
        Instances.of_masks(mask, [0.9], [1]).draw(
            np.zeros((256, 256, 3), np.uint8), replace(LABELS, classes=("ground", name, "dog"))
        )
        for name in names
    ]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[3] == drawn[4]).all()


def test_captions_do_not_hide_small_objects() -> None:
    image, mask = np.zeros((256, 256, 3), np.uint8), np.zeros((2, 256, 256), bool)
    mask[0, 20:23, 20:23] = mask[1, 100:240, 60:240] = True
    drawn = [Instances.of_masks(own[None], [0.9], [1]).draw(image, LABELS).any(axis=2) for own in mask]
    assert not drawn[0][:18].any()  # a plate would stand above the object
    assert drawn[1][:98].any()
