"""Panoptic FPN: which losses read which pixels and segments, and how both parts become one map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from object_scenes import DIGITS, digit_scenes
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.losses.registry import create_loss
from segmodels.models.registry import create_model, model_entry
from segmodels.outputs import StuffPrediction
from segmodels.tasks.registry import create_task

SMALL = {"encoder": "resnet18", "channels": 32, "hidden": 32, "width": 32, "samples": 16, "detections": 5}
SIDES = [16, 24, 32, 40, 64]


def batch() -> tuple[Tensor, list[Annotation]]:
    """Two scenes with digits and one without."""
    images, annotations = digit_scenes(2)
    images.append(np.full_like(images[0], 90))
    annotations.append(Annotation.of_classes(np.zeros((64, 64), np.uint8)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 64 - 2, annotations


def test_both_parts_are_trained_and_read_as_one_map() -> None:
    torch.manual_seed(0)
    images, annotations = batch()
    task = create_task("panoptic", DIGITS)
    model = create_model("panoptic_fpn_r50", **task.model_arguments(DIGITS), **SMALL, sides=SIDES).train()
    targets = task.targets(annotations)
    criterion = create_loss(model_entry("panoptic_fpn_r50").card.losses)
    pixels, detections = (layer for _, layer in model(images, guide=targets).layers((1.0,)))
    terms = criterion.terms(pixels, targets) | criterion.terms(detections, targets)
    assert terms.keys() == {"stuff", "detection"}
    criterion.total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    labels = detections.training.classes.target
    assert labels.max() <= 10  # ten things and the background
    assert (labels > 0).sum() == len(detections.training.masks.prediction) > 0

    with torch.inference_mode():
        output = model.eval()(images)
    assert output.pixels.logits.shape == (3, 2, 64, 64)  # background, and all digits as one class
    assert output.pixels.extras == {}
    maps = task.read(output, [annotation.size for annotation in annotations])
    assert [found.ids.shape for found in maps] == [(64, 64)] * 3
    assert {segment.label for found in maps for segment in found.segments} <= set(range(11))


def test_things_are_one_class_beside_stuff() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([0, 2, 1, 2])  # classes 0 and 2 are stuff
    target = torch.tensor([[[0, 1, 2, 3]] * 3 + [[255] * 4]], dtype=torch.uint8)
    loss = create_loss({"stuff": 1.0}).losses["stuff"]
    expected = torch.nn.functional.cross_entropy(logits[:, :, :3], torch.tensor([[[0, 2, 1, 2]] * 3]))
    torch.testing.assert_close(loss(StuffPrediction(logits, places), target), expected)


def test_things_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"things has \[7\], expected train ids of the 5 classes, 0\.\.4"):
        create_model("panoptic_fpn_r50", 5, things=[1, 7])
