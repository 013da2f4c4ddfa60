"""The layers of detectors against what torchvision 0.29 computes (tests/fixtures/torchvision)."""

from __future__ import annotations

from pathlib import Path

import drawn
import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.layers.anchors import anchors, decode, encode
from segmodels.layers.matching import BACKGROUND, UNDECIDED, Objects, match
from segmodels.layers.nms import batched_nms, box_iou, nms
from segmodels.layers.roi_align import align_masks, roi_align
from segmodels.layers.roi_heads import HeadSettings, RoIHeads, cells
from segmodels.layers.sampling import Candidates, Proposals, draw, drawn_of
from segmodels.losses.detection import DetectionLoss, giou_loss
from segmodels.outputs import Sampled

REFERENCE = np.load(Path(__file__).parents[2] / "fixtures" / "torchvision" / "layers.npz")
CODING = (10.0, 10.0, 5.0, 5.0)


def tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values)


def assert_equal(ours: Tensor, name: str, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.detach(), tensor(REFERENCE[name]), rtol=tolerance, atol=tolerance)


BOXES = tensor(drawn.boxes("rois", 12, 40, 60))
MANY = tensor(drawn.boxes("many", 600, 100, 150))
IMAGES = torch.arange(12) % 2


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_roi_align_and_its_gradient(aligned: bool, ratio: int) -> None:
    features = tensor(drawn.normal("features", 2, 3, 20, 30)).requires_grad_()
    found = roi_align(features, BOXES, IMAGES, 4, 0.5, ratio, aligned)
    assert_equal(found, f"roi_align/{aligned}/{ratio}")
    found.square().sum().backward()
    assert features.grad is not None
    assert_equal(features.grad, f"roi_align_gradient/{aligned}/{ratio}", 1e-4)


def test_roi_align_of_no_boxes_and_of_half_precision() -> None:
    features = torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)
    assert roi_align(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7).shape == (0, 3, 7, 7)
    one = roi_align(features, torch.tensor([[1.0, 1, 5, 5]]), torch.zeros(1, dtype=torch.int64), 7)
    assert one.dtype == torch.float32
    assert (one == 1).all()


def test_every_box_is_read_from_the_map_of_its_size() -> None:
    pyramid = [tensor(drawn.normal(f"map{i}", 2, 3, 64 >> i, 96 >> i)) for i in range(4)]
    large = tensor(drawn.boxes("large", 40, 256, 384)).clamp(min=0)[:-1]
    assert_equal(cells(pyramid, [large[:20], large[20:]], 3), "levels")


def test_masks_in_boxes() -> None:
    _, masks = drawn.scene("masks", 3, 40, 60)
    assert_equal(align_masks(tensor(masks), BOXES[:-1], torch.arange(11) % 3, 7), "masks")
    inside = torch.tensor([[0.0, 0, *masks.shape[:0:-1]], [1.5, 2, 9, 4.25]])
    every = align_masks(tensor(masks), inside, torch.arange(2), 3)
    torch.testing.assert_close(align_masks(tensor(masks), inside, torch.arange(2), 3, inside=True), every)
    one = torch.zeros(1, dtype=torch.int64)
    plain = roi_align(tensor(masks)[None, :1].float(), BOXES[:1], one, 7)
    torch.testing.assert_close(align_masks(tensor(masks), BOXES[:1], one, 7), plain[0])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms(threshold: float) -> None:
    scores = tensor(drawn.generator("scores").permutation(600).astype(np.float32))
    groups = tensor(drawn.generator("groups").integers(0, 3, 600))
    assert nms(MANY, scores, threshold).tolist() == REFERENCE[f"nms/{threshold}"].tolist()
    assert batched_nms(MANY, scores, groups, threshold).tolist() == REFERENCE[f"batched_nms/{threshold}"].tolist()


def test_boxes_anchors_and_their_coding() -> None:
    assert_equal(box_iou(BOXES[:-1], MANY[:5]), "iou")
    found = anchors([(8, 12), (1, 2)], (64, 96), (32, 64), (0.5, 1.0, 2.0), torch.device("cpu"))
    assert_equal(torch.cat(found), "anchors")
    assert_equal(encode(BOXES[:-1], MANY[:11], CODING), "encoded")
    deltas = tensor(drawn.normal("deltas", 11, 4))
    assert_equal(decode(deltas * 3, MANY[:11], CODING), "decoded")
    torch.testing.assert_close(decode(encode(BOXES[:-1], MANY[:11], CODING), MANY[:11], CODING), BOXES[:-1])


def test_giou_of_boxes_and_of_coded_boxes() -> None:
    assert_equal(giou_loss(BOXES[:-1], BOXES[:-1].flip(0)), "giou")
    deltas, truth = (tensor(drawn.normal(name, 11, 4)) for name in ("deltas", "true deltas"))
    loss = DetectionLoss(box_loss="giou")._boxes(Sampled(deltas, truth), 1, CODING)
    assert_equal(loss, "giou_of_deltas")


def objects(*images: Tensor, crowds: Tensor | None = None) -> Objects:
    """Boxes of each image, of one class; crowds of the first."""
    labels = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in images]
    masks = [torch.zeros(len(boxes), 4, 4) for boxes in images]
    none = [torch.zeros(0, 4) for _ in images]
    return Objects.of(images, labels, masks, none if crowds is None else [crowds, *none[1:]])


def test_matches_of_proposals_and_detections() -> None:
    first = match(objects(BOXES[:-1]), MANY, high=0.7, low=0.3, every=True)
    assert first[0].tolist() == REFERENCE["matched/proposals"].tolist()
    second = match(objects(BOXES[:-1]), MANY, high=0.5, low=0.5)
    assert second[0].tolist() == REFERENCE["matched/detections"].tolist()


def test_images_are_matched_together_as_alone() -> None:
    images = [BOXES[:4], BOXES[:0], BOXES[4:5]]
    crowd = BOXES[6:8]
    together = match(objects(*images, crowds=crowd), MANY, 0.4, 0.3, every=True)
    for number, (own, boxes) in enumerate(zip(together, images, strict=True)):
        alone = match(objects(boxes, crowds=None if number else crowd), MANY, 0.4, 0.3, every=True)
        assert torch.equal(own, alone[0])
    assert (together[0] >= 0).any()
    assert (together[1] == BACKGROUND).all()
    each = torch.stack([MANY, MANY.flip(0), MANY])
    assert torch.equal(match(objects(*images), each, 0.4, 0.3)[2], match(objects(BOXES[4:5]), MANY, 0.4, 0.3)[0])


def test_without_objects_all_is_background_but_what_lies_in_a_crowd() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [2, 2, 5, 5]])
    crowd, none = torch.tensor([[0.0, 0, 6, 10]]), torch.zeros(0, 4)
    assert match(objects(none), boxes, 0.5, 0.5).tolist() == [[BACKGROUND] * 3]
    assert match(objects(none, crowds=crowd), boxes, 0.5, 0.5).tolist() == [[UNDECIDED, BACKGROUND, UNDECIDED]]
    found = match(objects(boxes[:1], crowds=crowd), boxes, 0.5, 0.5)
    assert found.tolist() == [[0, BACKGROUND, UNDECIDED]]  # an object within a crowd counts


def test_samples_keep_the_share_of_objects_and_fill_up_with_background() -> None:
    torch.manual_seed(0)
    matched = torch.tensor([[0] * 30 + [BACKGROUND] * 50 + [UNDECIDED] * 20])
    few = torch.tensor(
        [[0] * 30 + [BACKGROUND] * 50, [UNDECIDED] * 80, [0] * 10 + [BACKGROUND] * 50 + [UNDECIDED] * 20]
    )
    one, three = drawn_of(draw(matched, 40, 0.25), draw(few, 200, 0.5))
    assert one.counts == [(10, 30)]
    assert matched[0, one.rows].tolist() == [0] * 10 + [BACKGROUND] * 30
    assert one.owners.tolist() == matched[0, one.rows].tolist()
    assert len(one.rows.unique()) == 40
    assert three.counts == [(30, 50), (0, 0), (10, 50)]
    assert torch.equal(few[three.images, three.rows], three.owners)
    assert three.of_objects(three.rows)[30:].sort().values.tolist() == list(range(10))


def test_every_box_is_as_likely_as_another_to_be_drawn() -> None:
    torch.manual_seed(0)
    matched = torch.tensor([[0] * 8 + [BACKGROUND] * 12 + [UNDECIDED] * 4]).expand(4000, -1)
    (found,) = drawn_of(draw(matched, 8, 0.25))
    times = found.rows.bincount(minlength=24) / 4000
    torch.testing.assert_close(times, torch.tensor([2 / 8] * 8 + [6 / 12] * 12 + [0.0] * 4), rtol=0, atol=0.04)


def test_boxes_that_only_fill_a_draw_stand_behind_the_others() -> None:
    torch.manual_seed(0)
    matched = torch.tensor([[UNDECIDED, BACKGROUND, UNDECIDED, 3, BACKGROUND], [UNDECIDED] * 5])
    rows, owners = draw(matched, 4, 0.5)
    assert owners.tolist() == [[3, BACKGROUND, BACKGROUND, UNDECIDED], [UNDECIDED] * 4]
    assert rows[0, 0] == 3
    assert {int(row) for row in rows[0, 1:3]} == {1, 4}


def test_chosen_boxes_know_those_of_objects() -> None:
    torch.manual_seed(0)
    own = torch.tensor([[0.0, 0, 20, 20], [30, 30, 50, 60]])
    truth = objects(own, own[:0], own[1:])
    proposals = Proposals(torch.rand(3, 40, 4).cumsum(dim=2) * 30, torch.arange(40).expand(3, -1) < 35)
    candidates = Candidates.of(proposals, truth, 0.3)
    (drawn,) = drawn_of(candidates.draw(16))
    chosen = candidates.chosen(drawn, truth)
    assert [len(boxes) for boxes in chosen.boxes] == [16, 16, 16]
    unusable = {tuple(box) for box in proposals.boxes[:, 35:].flatten(0, 1).tolist()}
    assert not unusable & {tuple(box) for box in chosen.every.tolist()}
    sampled = chosen.of_objects()
    assert sorted(sampled.rows.tolist()) == (drawn.owners >= 0).nonzero()[:, 0].tolist()
    assert torch.equal(chosen.every[sampled.rows], torch.cat(sampled.boxes))
    assert torch.equal(sampled.rows, (chosen.labels > 0).nonzero()[:, 0])
    assert torch.equal(sampled.images, drawn.images[sampled.rows])
    true = [tuple(box) for box in chosen.every[drawn.rows >= candidates.proposals].tolist()]
    assert true.count(tuple(own[1].tolist())) <= 2
    assert set(true) <= {tuple(box) for box in own.tolist()}
    overlaps = [float(box_iou(box[None], own).max()) for box in torch.cat(sampled.boxes)]
    assert min(overlaps) >= 0.3
    assert torch.equal(Proposals.of_images(proposals)[1], proposals.boxes[1, :35])


def test_a_head_of_masks_without_objects_has_a_gradient_and_no_loss() -> None:
    torch.manual_seed(0)
    heads = RoIHeads(2, HeadSettings(channels=4, hidden=8, norm=torch.nn.BatchNorm2d))
    pyramid = [torch.randn(1, 4, 32 >> i, 32 >> i) for i in range(4)]
    proposals = Proposals(torch.tensor([[[0.0, 0, 50, 60]]]), torch.ones(1, 1, dtype=torch.bool))
    truth = objects(torch.zeros(0, 4))
    candidates = heads.candidates(proposals, truth)
    chosen = candidates.chosen(*drawn_of(candidates.draw(heads.samples)), truth)
    boxes, masks = heads.samples_of(pyramid, chosen, truth)
    assert (boxes.labels.tolist(), len(boxes.deltas), masks.shares.shape) == ([0], 0, (0, 28, 28))
    loss = boxes.scores.sum() + boxes.deltas.sum() + masks.logits.sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in heads.parameters())
    assert all(value.isfinite().all() for value in heads.state_dict().values())
