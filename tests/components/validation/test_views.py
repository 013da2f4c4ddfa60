"""Pictures of samples: what they show, and which samples are chosen for them."""

import cv2
import numpy as np
import pytest

from components.validation.views import GAP, SIDE, by_hash, picture
from segmodels.annotations import Annotation, Segment
from segmodels.data.layouts import Sample
from segmodels.labels import LabelMap

LABELS = LabelMap(("ground", "car"), ((0, 0, 0), (255, 0, 0)), {0: 0, 1: 1}, things=frozenset({1}))


def panels(image: np.ndarray, annotation: Annotation | None, **options: object) -> list[np.ndarray]:
    """RGB pictures side by side, in whole numbers."""
    data = picture(image, annotation, LABELS, **options)
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    width = (whole.shape[1] - GAP) // 2
    return [whole] if annotation is None else [whole[:, :width], whole[:, width + GAP :]]


def test_the_choice_is_bounded_and_does_not_depend_on_order_or_on_other_samples() -> None:
    samples = [Sample(f"{number}", "train" if number % 3 else "val", "", (), "") for number in range(300)]
    chosen = by_hash(samples, 12)
    assert {split: len(positions) for split, positions in chosen.items()} == {"train": 12, "val": 12}
    names = {split: [samples[position].id for position in positions] for split, positions in chosen.items()}
    backwards = by_hash(samples[::-1], 12)
    assert {split: [samples[::-1][at].id for at in positions] for split, positions in backwards.items()} == names
    fewer = by_hash(samples[:150], 12)["val"]
    kept = [samples[position].id for position in fewer]
    assert [name for name in names["val"] if int(name) < 150] == kept[: sum(int(n) < 150 for n in names["val"])]


def test_classes_and_void_are_drawn_beside_the_image() -> None:
    image = np.full((100, 200, 3), (40, 160, 40), np.uint8)
    classes = np.zeros((100, 200), np.uint8)
    classes[:, 60:120], classes[:, 120:] = 1, LABELS.ignore_index
    left, right = panels(image, Annotation.of_classes(classes))
    assert left.shape == right.shape == (SIDE // 2, SIDE, 3)
    assert np.abs(left[:, :-8] - (40, 160, 40)).max() < 12  # JPEG mixes the last columns with the gap
    grey = right[50, 30]
    assert np.ptp(grey) < 12  # the black class has no colour
    assert right[50, 100, 0] > right[50, 100, 1] + 80
    void = right[20:80, 160:200].mean(axis=2)
    assert void.min() < 0.6 * grey.mean() < void.max()
    assert len(panels(image, None)) == 1


def test_objects_of_one_class_have_colours_of_their_own_and_one_is_shown_large() -> None:
    layer = np.zeros((1, 300, 300), np.uint16)
    layer[0, 100:110, 100:110], layer[0, 200:260, 200:260] = 1, 2
    segments = (Segment(1, 1, box=(100, 100, 110, 110)), Segment(2, 1, box=(200, 200, 260, 260)))
    annotation = Annotation((layer[0] > 0).astype(np.uint8), layer, segments)
    image = np.full((300, 300, 3), 90, np.uint8)
    _, right = panels(image, annotation)
    small, large = (right[at, at] for at in (105 * SIDE // 300, 230 * SIDE // 300))
    assert np.abs(small - large).max() > 60
    _, near = panels(image, annotation, around=segments[0].box)
    assert (np.ptp(near, axis=2) > 60).mean() > 5 * (np.ptp(right[: SIDE // 2, : SIDE // 2], axis=2) > 60).mean()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_volumes_of_any_type_are_shown_by_a_slice(dtype: type) -> None:
    random = np.random.default_rng(0)
    image = (random.random((6, 40, 50, 2)) * 1000).astype(dtype)
    classes = np.zeros((6, 40, 50), np.uint8)
    classes[4, 10:30, 10:30] = 1
    _, right = panels(image, Annotation.of_classes(classes))
    middle = right[right.shape[0] // 2, right.shape[1] * 20 // 50]
    assert middle[0] > middle[2] + 50
