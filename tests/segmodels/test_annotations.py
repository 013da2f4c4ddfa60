"""Annotations: every map changes alike, rows follow the maps, and label maps keep what they say of things."""

import json
import pickle

import numpy as np
import pytest

from segmodels.annotations import (
    Annotation,
    Segment,
    pack_layers,
    resize_map,
    rows_of,
)
from segmodels.errors import InputError
from segmodels.labels import LabelMap, UnknownLabelsError

PALETTE = ((0, 0, 0), (9, 9, 9), (250, 0, 0))
LABELS = LabelMap(("sky", "road", "car"), PALETTE, {0: 0, 1: 1, 2: 2, 9: 255})


def discs(size=(40, 50)) -> list[np.ndarray]:
    """Two that overlap, one apart, one in a corner."""
    places = [np.arange(length) for length in size]
    grid = np.meshgrid(*places, indexing="ij")
    centres = [(12, 12, 8), (18, 20, 8), (30, 40, 6), (0, 0, 4)]
    return [
        sum((axis - c) ** 2 for axis, c in zip(grid, centre[:2], strict=False)) <= centre[2] ** 2 for centre in centres
    ]


def annotation() -> Annotation:
    masks = discs()
    layers = pack_layers(masks, (40, 50))
    rng = np.random.default_rng(0)
    segments = tuple(Segment(k + 1, 2, crowd=k == 2) for k in range(4))
    return Annotation(
        rng.integers(0, 3, (40, 50), dtype=np.uint8),
        layers,
        rows_of(layers, segments),
        {"part": rng.integers(0, 9, (40, 50), dtype=np.uint8)},
        image_label=3,
        spacing=(1.0, 2.0),
    )


def test_overlapping_masks_share_as_few_layers_as_their_overlaps_need():
    masks = discs()
    layers = pack_layers(masks, (40, 50))
    assert layers.dtype == np.uint16
    assert len(layers) == 2
    for number, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal((layers == number).any(axis=0), mask)
    assert len(pack_layers([masks[0], masks[2]], (40, 50))) == 1
    assert pack_layers([], (40, 50)).shape == (0, 40, 50)


def test_masks_come_back_from_layers():
    made = annotation()
    np.testing.assert_array_equal(made.masks(), np.stack(discs()))
    np.testing.assert_array_equal(made.masks(made.segments[2:3]), np.stack(discs()[2:3]))
    assert Annotation.of_classes(made.classes).masks().shape == (0, 40, 50)


def test_boxes_and_areas_are_those_of_the_masks():
    for segment, mask in zip(annotation().segments, discs(), strict=True):
        rows, columns = np.nonzero(mask)
        assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.area == mask.sum()


def test_a_crop_drops_segments_without_a_pixel_and_makes_boxes_anew():
    part = annotation().cropped((slice(10, 40), slice(5, 34)))
    assert part.size == (30, 29)
    assert [segment.id for segment in part.segments] == [1, 2]
    assert part.segments[0].box == (0, 0, 16, 11)
    assert part.segments[0].area == discs()[0][10:, 5:34].sum()
    np.testing.assert_array_equal(part.classes, annotation().classes[10:40, 5:34])
    np.testing.assert_array_equal(part.further["part"], annotation().further["part"][10:40, 5:34])
    assert (part.image_label, part.spacing) == (3, (1.0, 2.0))


@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (0, 1)])
def test_a_flip_mirrors_maps_and_boxes(axes):
    mirrored = annotation().flipped(*axes)
    np.testing.assert_array_equal(mirrored.classes, np.flip(annotation().classes, axes))
    np.testing.assert_array_equal(mirrored.masks(), [np.flip(mask, axes) for mask in discs()])
    left, top, right, bottom = annotation().segments[2].box
    expected = (50 - right, top, 50 - left, bottom) if axes in ((1,), (-1,)) else None
    assert expected is None or mirrored.segments[2].box == expected
    assert mirrored.segments[2].crowd


def test_resizing_takes_the_label_at_the_centre_and_drops_what_vanishes():
    small = annotation().flipped().resized((4, 5))
    np.testing.assert_array_equal(small.classes, annotation().classes[5::10, 5::10])
    assert small.spacing == (10.0, 20.0)
    assert [segment.id for segment in small.segments] == [1, 2]
    large = annotation().resized((80, 100))
    np.testing.assert_array_equal(large.classes, annotation().classes.repeat(2, axis=0).repeat(2, axis=1))
    assert [segment.area for segment in large.segments] == [4 * segment.area for segment in annotation().segments]


@pytest.mark.parametrize("size", [(31, 17), (64, 90), (7, 200)])
def test_volumes_and_images_are_resized_by_one_rule(size):
    map = np.random.default_rng(1).integers(0, 9, (40, 50), dtype=np.uint16)
    volume = resize_map(map[None], (1, *size))
    assert (volume[0] == resize_map(map, size)).mean() > 0.95  # OpenCV rounds the steps to 2**-16
    if all(new % old == 0 or old % new == 0 for old, new in zip(map.shape, size, strict=True)):
        np.testing.assert_array_equal(volume[0], resize_map(map, size))


def test_volumes_are_cropped_flipped_and_resized():
    layers = np.zeros((1, 6, 8, 10), np.uint16)
    layers[0, 1:3, 2:6, 3:5] = 7
    volume = Annotation(np.zeros((6, 8, 10), np.uint8), layers, (Segment(7, 1), Segment(8, 1)), spacing=(3.0, 1.0, 1.0))
    part = volume.flipped(0).cropped((slice(2, 6), slice(0, 8), slice(0, 10)))
    np.testing.assert_array_equal(part.masks()[0], np.flip(layers[0] == 7, 0)[2:])
    assert part.segments == (Segment(7, 1, area=16.0),)
    half = volume.resized((3, 8, 10))
    assert half.spacing == (6.0, 1.0, 1.0)


def test_an_annotation_without_objects_keeps_its_byte_order_and_has_no_rows():
    plain = Annotation.of_classes(annotation().classes, image_label=1).cropped((slice(0, 5), slice(0, 6)))
    assert plain.layers.shape == (0, 5, 6)
    assert plain.segments == ()
    assert plain.image_label == 1


def test_too_many_or_ill_fitting_masks_are_refused():
    with pytest.raises(InputError, match="70000 objects, expected at most 65535"):
        pack_layers([np.zeros((1, 1), bool)] * 70000, (1, 1))
    with pytest.raises(InputError, match=r"mask 1 has the size \(2, 3\), expected \(3, 2\)"):
        pack_layers([np.zeros((2, 3), bool)], (3, 2))


# Label maps


def test_a_label_map_without_things_writes_what_it_always_wrote():
    assert LABELS.to_dict() == {
        "classes": ["sky", "road", "car"],
        "palette": [[0, 0, 0], [9, 9, 9], [250, 0, 0]],
        "ids": {"0": 0, "1": 1, "2": 2, "9": 255},
        "ignore_index": 255,
    }
    assert LabelMap.from_dict(LABELS.to_dict()) == LABELS
    assert LABELS.things == frozenset()
    assert LABELS.further == {}


def test_things_and_further_maps_survive_json():
    whole = LabelMap(LABELS.classes, PALETTE, LABELS.ids, things=frozenset({2}), further={"part": LABELS})
    again = LabelMap.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert again == whole
    assert again.things == {2}


def test_things_that_are_no_classes_are_refused():
    with pytest.raises(InputError, match=r"counts \[3\] as things, expected train ids 0\.\.2"):
        LabelMap(LABELS.classes, PALETTE, LABELS.ids, things=frozenset({1, 3}))


def test_unknown_labels_are_part_of_the_error():
    with pytest.raises(UnknownLabelsError, match=r"unknown labels \[5\]") as error:
        LABELS.encode(np.array([[0, 5]]))
    assert error.value.unknown == [5]
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.unknown) == (str(error.value), [5])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(30, 40), (3, 5, 8), (0, 4)])
def test_masks_of_any_type_and_shape_are_encoded_alike(dtype, shape):
    mask = np.random.default_rng(0).choice([0, 1, 2, 9], shape).astype(dtype)
    encoded = LABELS.encode(mask)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, np.where(mask == 9, 255, mask))


@pytest.mark.parametrize(("value", "dtype"), [(-1, np.int16), (70_000, np.int32), (2**33, np.int64), (255, np.uint8)])
def test_labels_outside_the_table_are_named_in_masks_of_any_type(value, dtype):
    mask = np.full((4, 4), value, dtype)
    mask[0] = 9
    with pytest.raises(UnknownLabelsError) as error:
        LABELS.encode(mask)
    assert error.value.unknown == [value]
