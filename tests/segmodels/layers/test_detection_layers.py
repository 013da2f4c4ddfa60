"""The layers of detectors against what torchvision 0.29 computes (tests/fixtures/torchvision)."""

from __future__ import annotations

from pathlib import Path

import drawn
import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.layers.anchors import anchors, decode, encode
from segmodels.layers.matching import BACKGROUND, UNDECIDED, Objects, choose, match, sample
from segmodels.layers.nms import batched_nms, box_iou, nms
from segmodels.layers.roi_align import align_masks, roi_align
from segmodels.layers.roi_heads import HeadSettings, RoIHeads, cells
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


def objects(boxes: Tensor, crowds: Tensor | None = None) -> Objects:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Objects(boxes, labels, torch.zeros(len(boxes), 4, 4), torch.zeros(0, 4) if crowds is None else crowds)


def test_matches_of_proposals_and_detections() -> None:
    first = match(objects(BOXES[:-1]), MANY, high=0.7, low=0.3, every=True)
    assert first.tolist() == REFERENCE["matched/proposals"].tolist()
    second = match(objects(BOXES[:-1]), MANY, high=0.5, low=0.5)
    assert second.tolist() == REFERENCE["matched/detections"].tolist()


def test_without_objects_all_is_background_but_what_lies_in_a_crowd() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [2, 2, 5, 5]])
    crowd = torch.tensor([[0.0, 0, 6, 10]])
    assert match(objects(torch.zeros(0, 4)), boxes, 0.5, 0.5).tolist() == [BACKGROUND] * 3
    assert match(objects(torch.zeros(0, 4), crowd), boxes, 0.5, 0.5).tolist() == [UNDECIDED, BACKGROUND, UNDECIDED]
    found = match(objects(boxes[:1], crowd), boxes, 0.5, 0.5)
    assert found.tolist() == [0, BACKGROUND, UNDECIDED]  # an object within a crowd counts


def test_samples_keep_the_share_of_objects_and_fill_up_with_background() -> None:
    torch.manual_seed(0)
    matched = torch.tensor([0] * 30 + [BACKGROUND] * 50 + [UNDECIDED] * 20)
    ((positive, negative),) = sample([matched], 40, positive=0.25)
    assert (len(positive), len(negative)) == (10, 30)
    assert (matched[positive] == 0).all()
    assert (matched[negative] == BACKGROUND).all()
    found = sample([matched, matched[80:], matched[20:]], 200, positive=0.5)
    assert [tuple(map(len, own)) for own in found] == [(30, 50), (0, 0), (10, 50)]


def test_chosen_boxes_know_those_of_objects() -> None:
    torch.manual_seed(0)
    own = torch.tensor([[0.0, 0, 20, 20], [30, 30, 50, 60]])
    truth = [objects(own), objects(own[:0]), objects(own[1:])]
    proposals = [torch.rand(40, 4).cumsum(dim=1) * 30 for _ in truth]
    chosen = choose(proposals, truth, 16, 0.3)
    for rows, owners in zip(chosen.rows, chosen.owners, strict=True):
        assert rows.tolist() == (owners != BACKGROUND).nonzero()[:, 0].tolist()
    sampled = chosen.of_objects(truth)
    assert torch.equal(torch.cat(chosen.boxes)[sampled.rows], torch.cat(sampled.boxes))
    assert torch.equal(sampled.rows, (chosen.labels(truth) > 0).nonzero()[:, 0])


def test_a_head_of_masks_without_objects_has_a_gradient_and_no_loss() -> None:
    torch.manual_seed(0)
    heads = RoIHeads(2, HeadSettings(channels=4, hidden=8, norm=torch.nn.BatchNorm2d))
    pyramid = [torch.randn(1, 4, 32 >> i, 32 >> i) for i in range(4)]
    proposals, truth = [torch.tensor([[0.0, 0, 50, 60]])], [objects(torch.zeros(0, 4))]
    boxes, masks = heads.samples_of(pyramid, proposals, truth)
    assert (boxes.labels.tolist(), len(boxes.deltas), masks.shares.shape) == ([0], 0, (0, 28, 28))
    loss = boxes.scores.sum() + boxes.deltas.sum() + masks.logits.sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in heads.parameters())
    assert all(value.isfinite().all() for value in heads.state_dict().values())
