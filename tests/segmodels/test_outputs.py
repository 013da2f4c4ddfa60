"""Outputs read themselves: the inference rules of mask classification, detections and panoptic FPN, as plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from segmodels.annotations import Segment
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.object_reading import InstanceSettings, PanopticSettings
from segmodels.outputs import DetectionOutput, PanopticOutput, PixelOutput, QueryOutput

LABELS = LabelMap(
    ("ground", "sky", "cat", "dog"), tuple((i, i, i) for i in range(4)), {i: i for i in range(4)}, things={2, 3}
)


def queries(seed: int, images: int = 2, count: int = 7, classes: int = 4) -> QueryOutput:
    """Queries that are sure of their class, with smooth masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = F.interpolate(6 * torch.randn(images, count, 3, 4, generator=generator), (12, 16), mode="bicubic")
    return QueryOutput(5 * torch.randn(images, count, classes + 1, generator=generator), masks)


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def test_probabilities_of_queries_are_sums_of_class_times_mask() -> None:
    output = queries(0)._replace(size=(24, 32))
    found = output.probabilities()
    assert found.shape == (2, 4, 24, 32)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 24, 32))
    expected = torch.zeros(4, 24, 32)
    for scores, mask in zip(output.class_logits[1].softmax(-1), resized(output.mask_logits[1], (24, 32)), strict=True):
        for c in range(4):
            expected[c] += scores[c] * mask.sigmoid()
    torch.testing.assert_close(found[1], expected / expected.sum(0))


@pytest.mark.parametrize("seed", range(4))
def test_instances_of_queries_are_the_best_pairs_of_query_and_class(seed: int) -> None:
    output, sizes = queries(seed), [(12, 16), (25, 30)]
    for found, logits, masks, size in zip(
        output.instances(sizes, InstanceSettings(most=9)), output.class_logits, output.mask_logits, sizes, strict=True
    ):
        pairs = [(float(p), q, c) for q, row in enumerate(logits.softmax(-1)[:, :-1]) for c, p in enumerate(row)]
        expected = []
        for probability, query, label in sorted(pairs, reverse=True)[:9]:
            mask = resized(masks[query : query + 1], size)[0]
            inside = mask > 0
            if inside.any():
                expected.append((probability * float(mask.sigmoid()[inside].mean()), label, inside.numpy()))
        expected.sort(key=lambda row: -row[0])
        np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-5)
        assert found.labels.tolist() == [row[1] for row in expected]
        for i, (_, _, mask) in enumerate(expected):
            np.testing.assert_array_equal(found.mask(i), mask)
    least = output.instances(sizes, InstanceSettings(score=0.5))
    assert all((found.scores > 0.5).all() for found in least)


def maskformer(logits: Tensor, masks: Tensor, size: tuple[int, int], least: float = 0.8) -> tuple[np.ndarray, list]:
    """``panoptic_inference`` of MaskFormer, query by query."""
    scores, labels = logits.softmax(-1).max(-1)
    keep = [q for q in range(len(labels)) if labels[q] < 4 and scores[q] > least]
    ids, segments, stuff = np.zeros(size, int), [], {}
    if not keep:
        return ids, segments
    probabilities = resized(masks, size).sigmoid()
    owner = torch.stack([scores[q] * probabilities[q] for q in keep]).argmax(0)
    for place, query in enumerate(keep):
        own, whole, label = owner == place, probabilities[query] >= 0.5, int(labels[query])
        mask = (own & whole).numpy()
        if own.sum() > 0 and whole.sum() > 0 and mask.sum() > 0:
            if own.sum() / whole.sum() < 0.8:
                continue
            if label in (0, 1) and label in stuff:
                ids[mask] = stuff[label]
                continue
            segments.append((len(segments) + 1, label))
            ids[mask] = len(segments)
            if label in (0, 1):
                stuff[label] = len(segments)
    return ids, segments


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_maps_of_queries_are_those_of_maskformer(seed: int) -> None:
    output, sizes = queries(seed, count=12), [(12, 16), (25, 30)]
    for found, logits, masks, size in zip(
        output.panoptic(sizes, LABELS, PanopticSettings()), output.class_logits, output.mask_logits, sizes, strict=True
    ):
        ids, segments = maskformer(logits, masks, size)
        np.testing.assert_array_equal(found.ids, ids)
        assert [(s.id, s.label) for s in found.segments] == segments
    (nothing,) = output._replace(class_logits=output.class_logits[:1] * 0, mask_logits=output.mask_logits[:1]).panoptic(
        sizes[:1], LABELS, PanopticSettings()
    )
    assert not nothing.ids.any()
    assert nothing.segments == ()


def detections() -> DetectionOutput:
    """Three boxes of two classes in an image of 20 x 20, two of them duplicates; none in the second image."""
    boxes = torch.tensor([[2.0, 4, 10, 12], [2, 4, 10, 11], [12, 0, 24, 8], [0, 0, 5, 5]])
    masks = torch.full((4, 7, 7), 8.0)
    masks[2, :, 4:] = -8  # the right half of the box is background, as it is outside of the image
    none = (boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64), masks[:0])
    image = (boxes, torch.tensor([0.9, 0.8, 0.6, 0.01]), torch.tensor([0, 0, 1, 1]), masks)
    return DetectionOutput(*((a, b) for a, b in zip(image, none, strict=True)), size=(20, 20))


def test_detections_are_suppressed_scaled_and_pasted_into_their_boxes() -> None:
    found, none = detections().instances([(40, 20), (10, 10)], InstanceSettings())
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[2, 8, 10, 24], [12, 0, 20, 16]]  # clipped to the image
    expected = np.zeros((40, 20), bool)
    expected[8:24, 2:10] = True
    np.testing.assert_array_equal(found.mask(0), expected)
    columns = np.flatnonzero(found.mask(1).any(0))
    assert (columns[0], columns[-1]) == (12, 18)  # half way between the centres of two cells of 12/7 pixels
    assert (len(none), none.size) == (0, (10, 10))


def test_settings_choose_the_detections() -> None:
    def count(**settings: Any) -> int:
        return len(detections().instances([(20, 20), (20, 20)], InstanceSettings(**settings))[0])

    assert [count(score=0.0), count(score=0.7), count(overlap=0.95), count(most=1)] == [3, 1, 3, 1]


def test_duplicates_that_a_model_gives_the_score_0_are_no_objects_whatever_the_settings() -> None:
    one_stage = detections()._replace(scores=(torch.tensor([0.9, 0.0, 0.6, 0.0]), torch.zeros(0)))
    found, _ = one_stage.instances([(20, 20), (20, 20)], InstanceSettings(score=0.0, overlap=1.0))
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])


def test_a_mask_follows_its_logits_between_the_centres_of_its_cells() -> None:
    ramp = torch.linspace(-3, 3, 8)[None, None].expand(1, 8, 8)
    output = DetectionOutput(
        (torch.tensor([[4.0, 4, 12, 12]]),), (torch.ones(1),), (torch.zeros(1, dtype=torch.int64),), (ramp,), (16, 16)
    )
    (found,) = output.instances([(16, 16)], InstanceSettings())
    expected = np.zeros((16, 16), bool)
    expected[4:12, 8:12] = True
    np.testing.assert_array_equal(found.mask(0), expected)


def test_things_lie_over_stuff_and_hidden_things_are_dropped() -> None:
    logits = torch.zeros(2, 3, 20, 20)
    logits[:, 0, 10:] = logits[:, 1, :6] = logits[:, 2, 6:10] = 5  # "other" between ground and sky
    output = PanopticOutput(PixelOutput(logits), detections())
    found, plain = output.panoptic([(20, 20)] * 2, LABELS, PanopticSettings())
    assert [(s.id, s.label) for s in found.segments] == [(1, 2), (2, 3), (3, 0), (4, 1)]
    assert (found.ids[5, 3], found.ids[1, 13], found.ids[15, 0], found.ids[0, 0], found.ids[8, 11]) == (1, 2, 3, 4, 0)
    assert plain.segments == (Segment(1, 0), Segment(2, 1))
    small = output.panoptic([(20, 20)] * 2, LABELS, PanopticSettings(stuff_area=130, score=0.7))[0]
    assert [s.label for s in small.segments] == [2, 0]
    assert not small.ids[0].any()
    hidden = detections()._replace(labels=(torch.tensor([0, 1, 1, 1]), torch.zeros(0, dtype=torch.int64)))
    labels = [
        s.label
        for s in output._replace(detections=hidden).panoptic([(20, 20)] * 2, LABELS, PanopticSettings())[0].segments
    ]
    assert labels == [2, 3, 0, 1]  # the duplicate of another class lies under the better one


def test_layers_list_every_output_that_a_loss_may_see() -> None:
    earlier = queries(1)
    output = queries(0)._replace(auxiliary=(earlier, earlier, earlier))
    assert [weight for weight, _ in output.layers((0.5, 0.25))] == [1.0, 0.5, 0.25, 0.25]
    cascade = detections()._replace(auxiliary=(detections(),))
    assert [(w, type(layer)) for w, layer in cascade.layers((0.5,))] == [(1, DetectionOutput), (0.5, DetectionOutput)]
    pixels = PixelOutput(torch.zeros(2, 3, 4, 4), auxiliary=(torch.zeros(2, 3, 4, 4),))
    both = PanopticOutput(pixels, detections()).layers((0.4,))
    assert [(w, type(layer)) for w, layer in both] == [(1, PixelOutput), (0.4, PixelOutput), (1, DetectionOutput)]


def test_outputs_are_pytrees() -> None:
    output = PanopticOutput(PixelOutput(torch.zeros(2, 3, 4, 4)), detections())
    leaves, shape = pytree.tree_flatten(output)
    assert sum(isinstance(leaf, Tensor) for leaf in leaves) == 9
    assert isinstance(pytree.tree_unflatten(leaves, shape), PanopticOutput)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: InstanceSettings(score=1.5), "score is 1.5, expected a number from 0 to 1"),
        (lambda: InstanceSettings(overlap=-1), "overlap is -1"),
        (lambda: InstanceSettings(most=0), "most is 0, expected a whole number from 1 to 100000"),
        (lambda: PanopticSettings(visible=2), "visible is 2"),
        (lambda: PanopticSettings(stuff_area=-1), "stuff_area is -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings()
