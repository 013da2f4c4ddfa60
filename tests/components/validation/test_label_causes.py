"""Causes of meaningless labels: named where they show, else not guessed."""

from dataclasses import replace

import numpy as np
import pytest

from components.validation.label_causes import one_off, unknown_labels, void_everywhere
from components.validation.object_facts import odd_objects, place_of_first
from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.data.layouts import LAYOUTS
from segmodels.labels import LabelMap

BINARY = LabelMap(("background", "object"), ((0, 0, 0), (200, 30, 60)), {0: 0, 1: 1, 255: 255})
BINARY_THINGS = replace(BINARY, things=frozenset({1}))
ADE20K = LAYOUTS["ade20k"].build.published()
CAMVID = LAYOUTS["camvid"].build.published()
CITYSCAPES = LAYOUTS["cityscapes"].build.published()
VOC = LAYOUTS["voc2012"].build.published()


@pytest.mark.parametrize(
    ("unknown", "labels", "file_format", "cause"),
    [
        ([2], BINARY, "PNG", "count from 1"),
        ([7, 254], BINARY, "PNG", None),
        ([3], BINARY, "PNG", None),
        ([7, 254], BINARY, "JPEG", "JPEG"),
        (list(range(2, 40)), BINARY, "PNG", "smooth resizing"),
        ([255], ADE20K, "PNG", "reduce_zero_label"),
        ([38, 75, 113], VOC, "PNG", "brightnesses"),  # Pillow's convert("L") of palette indices 1 to 3
        ([53, 147, 220], VOC, "PNG", "brightnesses"),  # 220 is void, (224, 224, 192)
        ([53, 54], VOC, "PNG", None),
        ([300], ADE20K, "PNG", None),
        ([12], CAMVID, "PNG", "only value above 11: the ids may count from 1"),  # void is the last id there
        ([255], CAMVID, "PNG", "255 is 0 - 1 in 8 bits"),
        ([34], CITYSCAPES, "PNG", "count from 1"),
    ],
)
def test_a_cause_is_named_where_it_shows(unknown: list[int], labels: LabelMap, file_format: str, cause: str) -> None:
    text = unknown_labels(unknown, labels, file_format)
    assert text.startswith(str(unknown[0]))
    assert (cause in text) if cause else (";" not in text)


def test_a_mask_full_of_0_is_named_where_0_is_void() -> None:
    assert "full of 0" in str(void_everywhere(1.0, ADE20K))
    assert void_everywhere(1.0, BINARY) == ""
    assert void_everywhere(0.99, ADE20K) is None


@pytest.mark.parametrize(
    ("pixels", "void", "found"),
    [
        ([0, 5, 5], False, {"a": "count from 1"}),
        ([5, 5, 0], True, {"c": "reduce_zero_label"}),
        ([5, 5, 0], False, {}),
        ([0, 5, 0], True, {}),
        ([5, 0, 5], True, {}),
        ([5, 5, 5], True, {}),
    ],
)
def test_ids_that_are_one_off_show_in_the_first_or_last_class(pixels: list[int], void: bool, found: dict) -> None:
    train = {name: {"pixels": count, "samples": 1} for name, count in zip("abc", pixels, strict=True)}
    none = {name: {"pixels": 0, "samples": 0} for name in "abc"}
    shifted = one_off({"train": train, "val": none}, void)
    assert shifted.keys() == found.keys()
    assert all(found[name] in text for name, text in shifted.items())


def test_odd_objects_are_those_of_one_pixel_and_those_that_the_class_map_contradicts() -> None:
    classes = np.zeros((10, 10), np.uint8)
    classes[:, 5:] = 1
    masks = np.zeros((5, 10, 10), bool)
    masks[0, 2:4, 6:9] = True  # in place
    masks[1, 0:4, 3:7] = True  # half of its pixels: in place; over object 0
    masks[2, 5:8, 1:7] = True  # a third
    masks[3, 9, 9] = True  # a pixel, in place
    masks[4, 8:10, 0:4] = True  # nowhere, but a crowd
    layers = pack_layers(masks, (10, 10))
    assert len(layers) == 2
    segments = rows_of(layers, [Segment(number, 1, number == 5) for number in range(1, 6)])
    annotation = Annotation(classes, layers, segments)
    odd = odd_objects(annotation, BINARY_THINGS)
    assert [segment.id for segment in odd.specks] == [4]
    assert [segment.id for segment in odd.misplaced] == [3]
    assert place_of_first(annotation, BINARY_THINGS, "misplaced") == (1, 5, 7, 8)
    assert odd_objects(Annotation.of_classes(classes), BINARY_THINGS) == ([], [], [])
    assert odd.doubled == []
    third = np.where(layers == 3, layers, 0)
    on_background = Annotation(classes, third, rows_of(third, [Segment(3, 0)]))
    assert [segment.id for segment in odd_objects(on_background, BINARY_THINGS).misplaced] == [3]
    assert odd_objects(on_background, BINARY).misplaced == []  # with several classes of stuff it may be a region


@pytest.mark.parametrize("depth", [(), (3,)], ids=["image", "volume"])
def test_doubled_objects_have_the_class_and_the_pixels_of_one_before_them(depth: tuple[int, ...]) -> None:
    size = (*depth, 10, 10)
    masks = np.zeros((6, *size), bool)
    masks[:3, ..., 2:4, 6:9] = True  # three times the same, the third of another class
    masks[3, ..., 2:4, 6:8] = True  # nearly the same
    masks[4:, ..., 7, 7] = True  # the same twice, of them one a crowd
    layers = pack_layers(masks, size)
    rows = [Segment(number, 1 + (number == 3), number == 6) for number in range(1, 7)]
    odd = odd_objects(Annotation(np.zeros(size, np.uint8), layers, tuple(rows)), BINARY_THINGS)
    assert [segment.id for segment in odd.doubled] == [2]
