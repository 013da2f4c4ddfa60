"""Mask R-CNN against torchvision 0.29 with the same weights (tests/fixtures/torchvision): detections, losses, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from segmodels.errors import InputError
from segmodels.layers.sampling import Proposals
from segmodels.losses.registry import create_loss
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.mask_rcnn import MaskRCNN
from segmodels.models.published import _named
from segmodels.models.registry import create_model
from segmodels.outputs import DetectionOutput
from segmodels.tasks.targets import Segments, SegmentTargets

FOLDER = Path(__file__).parents[2] / "fixtures" / "torchvision"
REFERENCE = np.load(FOLDER / "mask_rcnn.npz")
NAMES = json.loads((FOLDER / "names.json").read_text())
HEIGHT, WIDTH = 64, 96
SMALL: dict[str, Any] = {
    "encoder": "resnet18",
    "channels": 32,
    "hidden": 64,
    "sides": [8, 16, 32, 64, 128],
    "detections": 6,
}
FORMS = pytest.mark.parametrize("form", ["small", "small_v2", pytest.param("r50", marks=pytest.mark.slow)])


def tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values)


def build(form: str) -> MaskRCNN:
    """With torchvision's weights, copied by their published names."""
    options = SMALL if form.startswith("small") else {"detections": 4}
    model = create_model("mask_rcnn_r50_fpn" + "_v2" * form.endswith("v2"), 4, **options)
    state = {name: tensor(drawn.weight(name, tuple(shape))) for name, shape in NAMES[form].items()}
    named = _named(model, state, model.state_dict())
    missing, unexpected = model.load_state_dict(named, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert isinstance(model, MaskRCNN)
    return model


def images() -> Tensor:
    return tensor(drawn.normal("images", 2, 3, HEIGHT, WIDTH))


def targets() -> SegmentTargets:
    boxes, masks = drawn.scene("objects", 3, HEIGHT, WIDTH)
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    none = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    first = Segments(torch.tensor([0, 2, 3]), tensor(masks), valid, tensor(boxes))
    second = Segments(torch.zeros(0, dtype=torch.int64), none, valid, torch.zeros(0, 4))
    return SegmentTargets([first, second], torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8))


def expected(form: str, name: str) -> Tensor:
    return tensor(REFERENCE[f"{form}/{name}"])


@FORMS
def test_boxes_scores_classes_and_masks_are_torchvisions(form: str) -> None:
    model = build(form).eval()
    with torch.inference_mode():
        padded, pyramid = model.pyramid(images())
        proposed, _ = model.rpn([*pyramid, nn.functional.max_pool2d(pyramid[-1], 1, 2)], padded, padded)
        proposals = proposed.of_images()
        found = model(images())
    for number in range(2):
        assert len(proposals[number]) == expected(form, f"count/{number}")
        torch.testing.assert_close(proposals[number][:20], expected(form, f"proposals/{number}"), rtol=1e-3, atol=1e-2)
        assert (found.labels[number] + 1).tolist() == expected(form, f"labels/{number}").tolist()
        torch.testing.assert_close(found.boxes[number], expected(form, f"boxes/{number}"), rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(found.scores[number], expected(form, f"scores/{number}"), rtol=1e-3, atol=1e-4)
        masks = found.masks[number].sigmoid()
        torch.testing.assert_close(masks, expected(form, f"masks/{number}")[:, 0], rtol=1e-3, atol=1e-3)


@FORMS
def test_losses_and_gradients_are_torchvisions(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # what comes first is drawn
    monkeypatch.setattr(
        torch, "rand", lambda shape, device: torch.linspace(1, 0, shape[1], device=device).expand(shape)
    )
    model = build(form).train()
    # Its proposals as well: their order, which decides what is sampled, hangs on the last bits of scores
    proposals = [expected(form, f"training_proposals/{number}") for number in range(2)]
    boxes = pad_sequence(proposals, batch_first=True)
    usable = pad_sequence([torch.ones(len(own), dtype=torch.bool) for own in proposals], batch_first=True)
    monkeypatch.setattr(model.rpn, "_proposals", lambda *_: Proposals(boxes, usable))
    criterion = create_loss({"detection": 1.0})
    output = model(images(), guide=targets())
    parts = criterion.losses["detection"].parts(output.training)
    names = {
        "loss_classes": "loss_classifier",
        "loss_boxes": "loss_box_reg",
        "loss_masks": "loss_mask",
        "loss_objectness": "loss_objectness",
        "loss_proposals": "loss_rpn_box_reg",
    }
    for ours, theirs in names.items():
        torch.testing.assert_close(parts[ours].detach(), expected(form, f"losses/{theirs}"), rtol=1e-3, atol=1e-5)
    criterion(output, targets()).backward()
    own = dict(model.named_parameters())
    norms = {name: torch.empty(shape) for name, shape in NAMES[form].items()}
    for ours, empty in _named(model, norms, model.state_dict()).items():
        theirs = next(name for name, value in norms.items() if value is empty)
        if ours in own:
            norm = expected(form, f"gradient/{theirs}")
            torch.testing.assert_close(own[ours].grad.norm(), norm, rtol=1e-2, atol=1e-5 * (1 + float(norm)))


@pytest.mark.parametrize(("name", "form"), [("mask_rcnn_r50_fpn", "r50"), ("mask_rcnn_r50_fpn_v2", "r50_v2")])
def test_torchvisions_names_old_and_new_have_their_place(name: str, form: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 4)
        given = {key: torch.empty(shape) for key, shape in NAMES[form].items()}
    own = {key: value.shape for key, value in model.state_dict().items() if value.dim()}
    assert {key: value.shape for key, value in _named(model, given, model.state_dict()).items()} == own
    if form == "r50":
        old = {
            f"{key[: key.index('.0.')]}.{key.rpartition('.')[2]}".replace("mask_head.3", "mask_head.mask_fcn4"): value
            for key, value in given.items()
            if key.startswith(("backbone.fpn.inner_blocks.2.", "rpn.head.conv.", "roi_heads.mask_head.3."))
        }
        assert {
            "backbone.fpn.inner_blocks.2.weight",
            "rpn.head.conv.weight",
            "roi_heads.mask_head.mask_fcn4.bias",
        } <= old.keys()
        named = _named(model, old, model.state_dict())
        assert {key: value.shape for key, value in named.items()}.items() <= own.items()


def test_frozen_batch_norms_leave_the_published_number_of_parameters() -> None:
    model, _ = on_meta("mask_rcnn_r50_fpn", 90, encoder_options={"frozen_batch_norm": True})
    assert count_parameters(model) == 44_401_393


def test_weights_of_other_classes_leave_the_last_layers_at_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = create_model("mask_rcnn_r50_fpn", 7, **SMALL)
    save_file(dict(given.state_dict()), tmp_path / "whole.safetensors")
    model = create_model("mask_rcnn_r50_fpn", 2, weights=tmp_path / "whole.safetensors", **SMALL)
    assert "are for 8 classes and the model has 3: roi_heads.classes, roi_heads.deltas, roi_heads.masks" in caplog.text
    assert torch.equal(model.rpn.deltas.weight, given.rpn.deltas.weight)


@pytest.mark.parametrize("size", [(33, 70), (96, 64)])
def test_any_size_and_no_detections(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build("small").eval()
    found = model(torch.randn(1, 3, *size))
    assert isinstance(found, DetectionOutput)
    assert found.size == size
    assert (found.boxes[0] <= torch.tensor([size[1], size[0]] * 2)).all()
    model.roi_heads.score = 1.0
    none = model(torch.randn(2, 3, *size))
    assert [len(boxes) for boxes in none.boxes] == [0, 0]
    assert none.masks[0].shape == (0, 28, 28)


def test_wrong_anchors_are_refused() -> None:
    with pytest.raises(InputError, match=r"sides is \[8, 16\], expected 5 positive numbers"):
        create_model("mask_rcnn_r50_fpn", 2, sides=[8, 16])
