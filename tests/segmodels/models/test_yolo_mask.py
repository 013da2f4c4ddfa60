"""YOLO with masks: which anchors, background and cells it is trained on, its loss, how masks are put together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.layers.anchors import centred_anchors, decode, encode
from segmodels.layers.matching import BACKGROUND, Objects, match
from segmodels.layers.nms import box_iou, fast_nms
from segmodels.layers.prototype_samples import CODING, classes_of_places, prototype_samples
from segmodels.layers.roi_align import roi_align
from segmodels.losses import create_loss
from segmodels.models.registry import create_model, model_entry
from segmodels.models.yolo_mask import CELLS, _masks
from segmodels.outputs import DetectionOutput, DetectionTraining, Sampled
from segmodels.tasks.targets import Segments

HEIGHT, WIDTH = 48, 64


@pytest.mark.parametrize(
    ("size", "parameters", "flops"),
    [("n", 2.0, 7.1), ("s", 7.6, 26.4), ("m", 22.0, 70.8), ("l", 47.9, 147.7)],
)
def test_sizes_are_those_published_for_such_networks(size: str, parameters: float, flops: float) -> None:
    """Of networks of these widths and depths with 80 classes, in millions, and 10^9 operations at 640 x 640."""
    card = model_entry(f"yolo_mask_{size}").card
    assert round(card.parameters / 1e6, 1) == parameters
    assert 2 * card.gmac == pytest.approx(flops, rel=0.02)


OBJECTS = [([[2.0, 3, 21, 25], [30, 10, 50, 30]], [2, 0]), ([], []), ([[8.0, 8, 28, 26]], [1])]
"""Boxes and labels of each image."""


def filled(boxes: list[list[float]]) -> Tensor:
    """Masks of objects that fill their boxes."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return masks


TRUTH = Objects.of(
    [torch.tensor(boxes).view(-1, 4) for boxes, _ in OBJECTS],
    [torch.tensor(labels, dtype=torch.int64) for _, labels in OBJECTS],
    [filled(boxes) for boxes, _ in OBJECTS],
    [torch.zeros(0, 4) for _ in OBJECTS],
)


def test_anchors_lie_around_the_centres_of_places() -> None:
    found = centred_anchors([(2, 3), (1, 1)], (8, 32), ([(4, 8), (6, 2)], [(20, 10)]), torch.device("cpu"))
    assert found.shape == (2 * 3 * 2 + 1, 4)
    assert found[:2].tolist() == [[2, 0, 6, 8], [1, 3, 7, 5]]  # around (4, 4)
    assert found[2].tolist() == [10, 0, 14, 8]  # the next place to the right
    assert found[6].tolist() == [2, 8, 6, 16]  # the next row
    assert found[-1].tolist() == [6, 11, 26, 21]


@pytest.mark.parametrize("seed", range(3))
def test_a_box_is_dropped_where_any_better_one_of_its_class_overlaps_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = 20 * torch.rand(2, 30, 2, generator=generator)
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(2, 30, 2, generator=generator)], dim=2)
    labels = torch.randint(2, (2, 30), generator=generator)
    found = fast_nms(boxes, labels, 0.4)
    for image in range(2):
        iou = box_iou(boxes[image], boxes[image])
        expected = [any(labels[image, i] == labels[image, j] and iou[i, j] > 0.4 for i in range(j)) for j in range(30)]
        assert found[image].tolist() == expected
    assert 0 < found.sum() < found.numel()


def said(anchors: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return drawn(3, anchors, 4), drawn(3, anchors, 4), drawn(3, anchors, 5), drawn(3, 5, HEIGHT // 4, WIDTH // 4)


ANCHORS = centred_anchors([(6, 8), (3, 4)], (8, 16), ([(16, 20)], [(22, 22), (30, 14)]), torch.device("cpu"))


def test_samples_are_those_of_a_plain_loop_over_images_and_anchors() -> None:
    classes, deltas, coefficients, prototypes = said(len(ANCHORS))
    samples, (logits, shares) = prototype_samples(classes, deltas, coefficients, prototypes, ANCHORS, TRUTH)
    scores, labels, boxes, masks, targets = [], [], [], [], []
    hard_scores: list[Tensor] = []
    matched = match(TRUTH, ANCHORS, 0.5, 0.4, every=True)
    for image, owners in enumerate(matched):
        positive = [i for i in range(len(ANCHORS)) if owners[i] >= 0]
        background = [i for i in range(len(ANCHORS)) if owners[i] == BACKGROUND]
        losses = {i: float(F.cross_entropy(classes[image, i], torch.tensor(0))) for i in background}
        hardest = sorted(background, key=lambda i: -losses[i])[: 3 * max(len(positive), 1)]
        hard_scores += [classes[image, i] for i in hardest]
        for i in positive:
            owner = int(owners[i])
            scores.append(classes[image, i])
            labels.append(int(TRUTH.labels[image, owner]) + 1)
            box = TRUTH.boxes[image, owner]
            boxes.append(decode(encode(box[None], ANCHORS[i][None], CODING), ANCHORS[i][None], CODING))
            masks.append((coefficients[image, i][:, None, None] * prototypes[image]).sum(0))
            share = F.avg_pool2d(TRUTH.masks[image][owner][None].float(), 4)[0]
            left, top, right, bottom = (box / 4).tolist()
            inside = torch.zeros_like(share, dtype=torch.bool)
            inside[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = True
            targets.append(share.masked_fill(~inside, -1))
    count = len(labels)
    assert count >= 3
    torch.testing.assert_close(samples.scores[:count], torch.stack(scores))
    assert samples.labels[:count].tolist() == labels
    assert samples.labels[count:].unique().tolist() == [0]
    torch.testing.assert_close(samples.scores[count:], torch.stack(hard_scores))
    anchors = torch.cat([ANCHORS[owners >= 0] for owners in matched])
    torch.testing.assert_close(decode(samples.true_deltas, anchors, CODING), torch.cat(boxes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, torch.stack(masks))
    torch.testing.assert_close(shares, torch.stack(targets))


def test_classes_of_places_are_those_of_most_of_their_pixels_and_ignored_pixels_do_not_count() -> None:
    masks = torch.zeros(3, 12, 16, dtype=torch.bool)
    masks[0, :8, :5], masks[1, :8, 4:8], masks[2, 8:, 8:] = True, True, True
    valid = torch.ones(12, 16, dtype=torch.bool)
    valid[:8, 8:] = False
    segments = Segments(torch.tensor([1, 1, 0]), masks, valid, torch.zeros(3, 4))
    found = classes_of_places([segments], torch.zeros(1, 2, 2, 2))  # the lower places are cut: half of their pixels
    assert found[0].tolist() == [[[0, -1], [0, 0]], [[1, -1], [0, 0]]]


def test_the_loss_is_that_of_the_paper_by_hand() -> None:
    """Divided by the positive anchors; masks are means inside their boxes; classes of places are summed."""
    masks = Sampled(torch.zeros(2, 2, 2), torch.tensor([[[1.0, 0], [-1, -1]], [[0.5, -1], [-1, -1]]]))
    semantic = Sampled(torch.tensor([[[[0.0, 2.0]], [[0.0, 5.0]]]]), torch.tensor([[[[1.0, -1.0]], [[0.0, -1.0]]]]))
    classes = Sampled(torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([1, 1, 0]))
    boxes = Sampled(torch.tensor([[0.5, 0, 0, 0], [0, 3.0, 0, 0]]), torch.zeros(2, 4))
    training = DetectionTraining(classes, boxes, masks, further={"places": semantic})
    loss = create_loss({"one_stage_detection": 1.0}).losses["one_stage_detection"]
    half = math.log(2)
    expected = {
        "loss_classes": (2 * half + math.log(4 / 3)) / 2,
        "loss_boxes": (0.125 + 2.5) / 2,
        "loss_masks": half,  # of every cell
        "loss_places": 2 * half,
    }
    parts = loss.parts(training)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(expected)
    weights = {"loss_classes": 1, "loss_boxes": 1.5, "loss_masks": 6.125, "loss_places": 1}
    whole = loss.term(DetectionOutput((), (), (), (), (8, 8), training), None)
    assert float(whole) == pytest.approx(sum(weights[name] * value for name, value in expected.items()))


def test_masks_are_sums_of_prototypes_in_the_predicted_boxes() -> None:
    _, _, coefficients, prototypes = said(6)
    boxes = torch.tensor([[8.0, 8, 40, 30], [10, 12, 13, 20]]).expand(3, -1, -1)
    found = _masks(prototypes, coefficients[:, :2], boxes)
    for image in range(3):
        for place in range(2):
            mixed = sum(coefficients[image, place, k] * prototypes[image, k] for k in range(5))
            expected = roi_align(
                mixed[None, None], boxes[image, place][None], torch.zeros(1, dtype=torch.int64), CELLS, 1 / 4, 1, True
            )
            torch.testing.assert_close(found[image, place], expected[0, 0], rtol=1e-4, atol=1e-4)


def test_duplicates_have_no_score_and_the_best_come_first() -> None:
    torch.manual_seed(0)
    model = create_model("yolo_mask_n", 3, detections=20, width=16, prototypes=4).eval()
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 64, 96))
    assert output.boxes.shape == (2, 20, 4)
    assert output.masks.shape == (2, 20, CELLS, CELLS)
    assert (output.scores.diff(dim=1) <= 0).all()
    for boxes, scores, labels in zip(output.boxes, output.scores, output.labels, strict=True):
        kept = scores > 0
        overlaps = box_iou(boxes[kept], boxes[kept]) * (labels[kept][:, None] == labels[kept])
        assert overlaps.triu(diagonal=1).max() <= 0.5


@pytest.mark.parametrize("anchors", [[[[8, 8]]] * 2, [[[8, 8]], [], [[8, 8]]], [[[8, 8]], [[8, 0]], [[8, 8]]]])
def test_wrong_anchors_are_refused(anchors: list) -> None:
    with pytest.raises(InputError, match=r"^anchors is \[.*\], expected for each of 3 maps, at strides 8, 16, 32"):
        create_model("yolo_mask_n", 2, anchors=anchors)
