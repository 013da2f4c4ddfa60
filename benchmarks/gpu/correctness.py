"""Whether models compute on the GPU what they compute on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.setting import Setting
from segmodels.models.registry import create_model, list_models, model_entry, model_options

FIRST = [
    *("attention_unet", "attention_unet_original", "bisenet_v1_r18", "bisenet_v1_resnet18", "dfanet_a", "dfanet_b"),
    *("gruu_net", "ocrnet_hr18", "ocrnet_hr18s", "segnext_t", "segnext_s", "segnext_b", "segnext_l"),
    *("vnet", "wnet", "ynet"),
]
REHEARSED = ["unet", "vnet"]


def correctness(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Largest difference between the GPU's float32 (no TF32) and the CPU's, relative to the largest value: of the
    logits in evaluation, and of the gradients of their sum of squares.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = REHEARSED if setting.rehearse else [*FIRST, *(name for name in list_models() if name not in FIRST)]
    for name in names:
        if name not in known and "semantic" in model_entry(name).card.tasks:
            try:
                yield name, differences(name, setting.device)
            except (RuntimeError, ValueError) as error:  # the other models are still worth measuring
                yield name, {"error": str(error).splitlines()[0][:200]}


def differences(name: str, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    volume = model_options(name).get("spatial_dims", 2) == 3
    images = torch.randn(2, 3, *((16, 32, 32) if volume else (128, 128)))
    model = create_model(name, 5).eval()
    ours, ours_gradients = outcome(model, images)
    theirs, their_gradients = outcome(copy.deepcopy(model).to(device), images.to(device))
    return {
        "logits": relative(ours, theirs),
        "gradients": max(relative(a, b) for a, b in zip(ours_gradients, their_gradients, strict=True)),
    }


def outcome(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and the gradients of all parameters, on the CPU."""
    logits = model(images).logits
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
    return logits.detach().cpu(), [gradient.cpu() for gradient in gradients if gradient is not None]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
