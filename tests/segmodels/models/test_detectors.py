"""What all detectors with masks share: any size, images without objects, crowds, and that they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from object_scenes import DIGITS, digit_scenes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.annotations import Annotation
from segmodels.layers import rpn
from segmodels.losses.base import LogitsLoss
from segmodels.losses.registry import create_loss
from segmodels.models.base import Model
from segmodels.models.registry import create_model, model_entry
from segmodels.tasks.registry import create_task

SIDES = [24, 32, 40, 56, 64]
TWO_STAGES = {"encoder": "resnet18", "channels": 32, "hidden": 64, "sides": SIDES, "samples": 32}
SMALL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("mask_rcnn_r50_fpn", "panet_r50", "pointrend_rcnn_r50_fpn", "htc_r50_fpn"), TWO_STAGES),
    "yolo_mask_n": {"anchors": [[[20, 30], [26, 38]], [[26, 38]], [[48, 48]]], "prototypes": 8, "width": 16},
    "detectors_r50": TWO_STAGES | {"semantic_classes": 11},
}
DETECTORS = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "detectors_r50")) for name in SMALL]
)
TASK = create_task("instance", DIGITS)


def build(name: str, **options: Any) -> Model:
    torch.manual_seed(0)
    return create_model(name, 10, **SMALL[name] | options)


def batch(count: int) -> tuple[Tensor, list[Annotation]]:
    images, annotations = digit_scenes(count)
    return normalised(images), annotations


def normalised(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 64 - 2


def losses(model: Model, name: str, images: Tensor, annotations: list[Annotation]) -> Tensor:
    return loss_of(model, name, images, TASK.targets(annotations))


def loss_of(model: Model, name: str, images: Tensor, targets: Any) -> Tensor:
    card = model_entry(name).card
    criterion = create_loss(card.losses)
    layers = model(images, guide=targets).layers(card.auxiliary_weights)
    return torch.stack([weight * criterion(layer, targets) for weight, layer in layers]).sum()


@DETECTORS
@pytest.mark.parametrize("empty", [1, 2])
def test_images_without_objects_are_background_and_every_parameter_has_a_gradient(name: str, empty: int) -> None:
    model = build(name).train()
    images, annotations = batch(2)
    annotations[:empty] = [Annotation.of_classes(np.zeros((64, 64), np.uint8))] * empty
    loss = losses(model, name, images, annotations)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


@DETECTORS
def test_any_size_gives_whole_results_and_no_more_than_the_most(name: str) -> None:
    model = build(name).eval()
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 50, 77))
    results = TASK.read(output, [(50, 77), (100, 154)])
    assert [result.size for result in results] == [(50, 77), (100, 154)]
    assert all(len(result) <= 100 for result in results)
    assert all((boxes[:, 2:] <= torch.tensor([77.0, 50.0])).all() for boxes in output.boxes)


class Waits(TorchDispatchMode):
    """Counts the operations at which a host waits for its GPU; what ``tolist`` reads is counted where it is called."""

    NAMES = frozenset(
        {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.NAMES or any(own is not None and own.dtype == torch.bool for own in places):
            self.seen.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", [name for name, settings in SMALL.items() if "hidden" in settings])
def test_a_step_asks_once_how_many_boxes_were_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other wait is that of suppression on a GPU (tests of losses on CUDA count both)."""
    model = build(name).train()
    images, annotations = batch(2)
    targets = TASK.targets(annotations)
    monkeypatch.setattr(LogitsLoss, "_check", lambda *_: None)  # of labels, on the CPU alone
    monkeypatch.setattr(rpn, "kept_of_groups", lambda _, usable, __: usable)
    read = Tensor.tolist
    with Waits() as waits:
        monkeypatch.setattr(Tensor, "tolist", lambda tensor: waits.seen.append("tolist") or read(tensor))
        loss_of(model, name, images, targets).backward()
    assert waits.seen == ["tolist"]


@pytest.mark.slow
@DETECTORS
def test_bfloat16_autocast_trains_and_finds_finite_values(name: str) -> None:
    model = build(name).train()
    images, annotations = batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses(model, name, images, annotations)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = model.eval()(images)
    assert all(values.isfinite().all() for own in (output.boxes, output.scores, output.masks) for values in own)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "scenes", "steps"),
    [
        ("mask_rcnn_r50_fpn", {"samples": 512}, 4, 60),
        ("yolo_mask_n", {}, 4, 60),
        ("detectors_r50", {"samples": 64}, 2, 30),
    ],
)
def test_detectors_learn_scenes_by_heart(name: str, options: dict[str, Any], scenes: int, steps: int) -> None:
    model = build(name, **options).train()
    images, annotations = batch(scenes)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, fused=True)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        losses(model, name, images, annotations).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % 10 == 0 and (score := mask_ap50(model, images, annotations)) > 0.7:
            return
    pytest.fail(f"mask AP50 on the training scenes is {score:.3f} after {steps} steps, expected more than 0.7")


def mask_ap50(model: Model, images: Tensor, annotations: list[Annotation]) -> float:
    evaluator = TASK.evaluator()
    with torch.inference_mode():
        # batch norms by the statistics of the batch: so few steps are too few for running ones
        output = model(images)
    sizes = [(64, 64)] * len(annotations)
    evaluator.update(TASK.read(output, sizes), annotations, [str(number) for number in range(len(annotations))])
    return float(evaluator.scores()["mask_ap50"])
