"""The second stage of a hybrid task cascade (HTC, Chen 2019, 1901.07518): heads that refine boxes and masks in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from segmodels.layers.anchors import clip, decode
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.matching import UNDECIDED, Objects
from segmodels.layers.roi_heads import (
    Detections,
    HeadSettings,
    MaskSamples,
    RoIHeads,
    cells,
    cells_of_map,
    initialise,
    true_shares,
)
from segmodels.layers.sampling import Candidates, Chosen, Draw, Drawn, Proposals, Samples

OVERLAPS = (0.5, 0.6, 0.7)
"""IoU with an object from which each stage trains a box as one (Cascade R-CNN, Cai 2018, 1712.00726)."""

CODINGS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""Weights that the boxes of each stage are coded with; later stages correct less."""

STRIDE = 8
"""Stride of the maps of ``SemanticContext``."""

SURE = 1e-6
"""Distance of the averaged masks from 0 and 1, so that they have logits."""


class Stage(RoIHeads):
    """One stage: the box is the same for all classes, and so is the mask's body.

    Args:
        num_classes: of objects, without the background.
        follows: whether it reads the mask features of a stage before it (mask information flow, section 3.3).
    """

    def __init__(self, num_classes: int, settings: HeadSettings, follows: bool) -> None:
        super().__init__(num_classes, settings)
        channels = settings.channels
        self.deltas = nn.Linear(settings.hidden, 4)
        self.masks = nn.Conv2d(channels, num_classes, 1)
        self.mask_before = nn.Conv2d(channels, channels, 1) if follows else None
        initialise(self)

    def mask_features(self, features: Tensor, before: Tensor | None) -> Tensor:
        """Features for the masks, of the boxes' cells and the features of the stage before: ``(K, C, 14, 14)``."""
        if self.mask_before is not None:
            features = features + self.mask_before(before)
        return self.mask_head(features)

    def own_masks(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits of the first masks, one for each of these classes, ``(K, m, m)``."""
        logits = self.masks(self.mask_up(features))
        return logits[torch.arange(len(labels), device=labels.device), labels]


class Context(NamedTuple):
    """The output of ``SemanticContext``, at stride 8."""

    features: Tensor  # (B, C, h, w)
    logits: Tensor  # (B, S, h, w) of all classes of pixels


class SemanticContext(nn.Module):
    """The semantic branch (section 3.4): all maps of the pyramid at stride 8, added, through four 3x3 convolutions.

    Args:
        levels, channels: of the pyramid.
        num_classes: S, of the pixels.
    """

    def __init__(self, levels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(levels))
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=None) for _ in range(4)))
        self.embedding = ConvNormAct(channels, channels, 1, norm=None)
        self.logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Context:
        """The context of maps at strides 4, 8, ..."""
        size = pyramid[1].shape[2:]
        aligned = [resize(lateral(x), size) for lateral, x in zip(self.laterals, pyramid, strict=True)]
        features = self.convs(sum(aligned[1:], start=aligned[0]))
        return Context(self.embedding(features), self.logits(features))


class StageBoxes(NamedTuple):
    """Boxes that a stage is trained on, and what it says of them: K of each of B images."""

    candidates: Candidates
    draw: Draw  # for the classes and boxes
    classes: Tensor  # (B * K, C + 1) logits, the background first
    deltas: Tensor  # (B * K, 4) coded boxes
    of_masks: Candidates  # the same boxes, refined
    mask_draw: Draw  # for the masks


class CascadeHeads(nn.Module):
    """Three stages, each on the boxes of the one before. In a stage the mask is read from the boxes that the same stage
    has refined (interleaved execution, section 3.2).

    Args:
        num_classes: of objects, without the background.
    """

    def __init__(self, num_classes: int, settings: HeadSettings) -> None:
        super().__init__()
        self.samples = settings.samples
        self.stages = nn.ModuleList(Stage(num_classes, settings, number > 0) for number in range(len(OVERLAPS)))

    def detect(
        self, pyramid: Sequence[Tensor], context: Context | None, proposals: Sequence[Tensor], size: tuple[int, int]
    ) -> Detections:
        """The detections among proposals ``(P, 4)`` of each image, best first, of images of this height and width.

        Their boxes are the last stage's, their scores and masks the means over all stages.

        Args:
            pyramid: maps at strides 4, 8, 16 and 32.
        """
        counts, boxes, scores = [len(own) for own in proposals], list(proposals), []
        for stage, coding in zip(self._stages(), CODINGS, strict=True):
            classes, deltas = _classes_and_boxes(stage, pyramid, context, boxes)
            scores.append(classes.float().softmax(dim=1))
            boxes = _refined(boxes, deltas, coding, size)
        score = torch.stack(scores).mean(dim=0)
        each = [own[:, None].expand(-1, score.shape[1], -1) for own in boxes]
        last = self._stages()[-1]
        found = [last.best(*image) for image in zip(each, score.split(counts), strict=True)]
        chosen, best, labels = (list(values) for values in zip(*found, strict=True))
        features = self._mask_features(pyramid, context, chosen, len(OVERLAPS))
        own_labels = torch.cat(labels)
        masks = [stage.own_masks(x, own_labels) for stage, x in zip(self._stages(), features, strict=True)]
        logits = torch.stack(masks).float().sigmoid().mean(dim=0).logit(SURE)
        return Detections(chosen, best, labels, list(logits.split([len(box) for box in chosen])))

    def boxes_of_stages(
        self,
        pyramid: Sequence[Tensor],
        context: Context | None,
        proposals: Proposals,
        truth: Objects,
        size: tuple[int, int],
    ) -> list[StageBoxes]:
        """Random boxes to train each stage on: of the region proposals, and of those that the stage before has refined.

        No wait for a GPU: how many are drawn is not asked, since a mask changes no box.
        """
        found = []
        for stage, coding, overlap in zip(self._stages(), CODINGS, OVERLAPS, strict=True):
            candidates = Candidates.of(proposals, truth, overlap)
            drawn = candidates.draw(self.samples)
            boxes = list(candidates.boxes.gather(1, drawn.rows[..., None].expand(-1, -1, 4)))
            classes, deltas = _classes_and_boxes(stage, pyramid, context, boxes)
            refined = torch.stack(_refined(boxes, deltas.detach(), coding, size))
            proposals = Proposals(refined, (drawn.owners != UNDECIDED) & (drawn.rows < candidates.proposals))
            of_masks = Candidates.of(proposals, truth, overlap)
            found.append(StageBoxes(candidates, drawn, classes, deltas, of_masks, of_masks.draw(self.samples)))
        return found

    def samples_of(
        self,
        pyramid: Sequence[Tensor],
        context: Context | None,
        stages: Sequence[StageBoxes],
        drawn: Sequence[Drawn],
        truth: Objects,
    ) -> list[tuple[Samples, MaskSamples]]:
        """Samples to train each stage on, see ``RoIHeads.samples_of``.

        Args:
            drawn: of the draws of each stage in turn.
        """
        found = []
        for number, (own, coding) in enumerate(zip(stages, CODINGS, strict=True)):
            chosen = own.candidates.chosen(drawn[2 * number], truth)
            of_masks = own.of_masks.chosen(drawn[2 * number + 1], truth)
            sampled, places = chosen.of_objects(), chosen.drawn.places
            deltas = own.deltas[chosen.drawn.of_objects(places)]
            samples = Samples(own.classes[places], chosen.labels, deltas, sampled.deltas(truth, coding))
            found.append((samples, self._mask_samples(number, pyramid, context, of_masks, truth)))
        return found

    def classifiers(self) -> list[nn.Module]:
        """The layers whose outputs are scores of the classes."""
        return [layer for stage in self._stages() for layer in (stage.classes, stage.masks)]

    def _mask_samples(
        self, number: int, pyramid: Sequence[Tensor], context: Context | None, chosen: Chosen, truth: Objects
    ) -> MaskSamples:
        """Mask logits of a stage for those of the chosen boxes that stand for an object, and their true masks."""
        sampled = chosen.of_objects()
        boxes = sampled.boxes if len(sampled.labels) else sampled.spare
        *_, features = self._mask_features(pyramid, context, boxes, number + 1)
        logits = self._stages()[number].own_masks(features, sampled.labels)
        return MaskSamples(logits, true_shares(sampled, truth, logits.shape[-1]))

    def _mask_features(
        self, pyramid: Sequence[Tensor], context: Context | None, boxes: Sequence[Tensor], count: int
    ) -> list[Tensor]:
        """Features of the first ``count`` stages; later ones follow from earlier ones on the same boxes."""
        own = _cells(pyramid, context, boxes, 14)
        found: list[Tensor] = []
        for stage in self._stages()[:count]:
            found.append(stage.mask_features(own, found[-1] if found else None))
        return found

    def _stages(self) -> list[Stage]:
        return cast(list[Stage], list(self.stages))


def _cells(pyramid: Sequence[Tensor], context: Context | None, boxes: Sequence[Tensor], size: int) -> Tensor:
    """RoIAlign of the boxes on the pyramid, with that of the context added, ``(K, C, size, size)``."""
    own = cells(pyramid, boxes, size)
    return own if context is None else own + cells_of_map(context.features, boxes, size, STRIDE)


def _classes_and_boxes(
    stage: Stage, pyramid: Sequence[Tensor], context: Context | None, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits ``(K, C + 1)``, the background first, and coded boxes ``(K, 4)``."""
    features = stage.box_head(_cells(pyramid, context, boxes, 7))
    return stage.classes(features), stage.deltas(features)


def _refined(boxes: Sequence[Tensor], deltas: Tensor, coding: Sequence[float], size: tuple[int, int]) -> list[Tensor]:
    """The boxes of each image, corrected."""
    corrected = clip(decode(deltas.float(), torch.cat(list(boxes)), coding), size)
    return list(corrected.split([len(own) for own in boxes]))
