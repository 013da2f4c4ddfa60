"""Whether models compute on the GPU what they compute on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.setting import Setting
from segmodels.models.registry import create_model, list_models, model_entry, model_options
from segmodels.outputs import QueryOutput

FIRST = [
    *("attention_unet", "attention_unet_original", "bisenet_v1_r18", "bisenet_v1_resnet18", "dfanet_a", "dfanet_b"),
    *("gruu_net", "ocrnet_hr18", "ocrnet_hr18s", "segnext_t", "segnext_s", "segnext_b", "segnext_l"),
    *("vnet", "wnet", "ynet"),
]
REHEARSED = ["unet", "vnet"]


NUDGE = 1e-6  # of the images, relative: some roundings of float32
MARGIN, ALWAYS_ALLOWED = 10, 1e-4


def correctness(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Largest difference between the GPU's float32 (no TF32) and the CPU's, relative to the largest value: of the
    logits in evaluation, and of the gradients of their sum of squares. Beside them the most that the same model makes,
    on the CPU, of three changes of the images by 1e-6 (a rounding may turn a ReLU, and with it a gradient): a GPU is
    right where it differs by at most ten times that, or by 1e-4.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = REHEARSED if setting.rehearse else [*FIRST, *(name for name in list_models() if name not in FIRST)]
    for name in names:
        if name not in known and "semantic" in model_entry(name).card.tasks:
            try:
                yield name, differences(name, setting.device)
            except Exception as error:  # the other models are still worth measuring
                yield name, {"right": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}


def differences(name: str, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    volume = model_options(name).get("spatial_dims", 2) == 3
    images = torch.randn(2, 3, *((16, 32, 32) if volume else (128, 128)))
    model = create_model(name, 5).eval()
    for layer in model.classifiers():  # some start as zeros, which would hide all that comes before
        for weight in layer.parameters():
            nn.init.normal_(weight, std=0.02)
    ours = outcome(model, images)
    nudged = [outcome(model, images + NUDGE * torch.randn_like(images)) for _ in range(3)]
    theirs = outcome(model.to(device), images.to(device))
    found, allowed = (
        relative(ours, theirs),
        tuple(map(max, zip(*(relative(ours, each) for each in nudged), strict=True))),
    )
    right = all(own <= max(ALWAYS_ALLOWED, MARGIN * most) for own, most in zip(found, allowed, strict=True))
    names = ("logits", "gradients", "logits, nudged", "gradients, nudged")
    return {**dict(zip(names, (*found, *allowed), strict=True)), "right": "yes" if right else "NO"}


def outcome(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the gradients of all parameters, on the CPU."""
    output = model(images)
    said = [output.class_logits, output.mask_logits] if isinstance(output, QueryOutput) else [output.logits]
    logits = torch.cat([own.flatten() for own in said])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(logits.square().sum(), list(parameters.values()), allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    return logits.detach().cpu(), {name: one.cpu() for name, one in gradients.items() if one is not None}


def relative(ours: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> tuple[float, float]:
    """Largest relative difference of the logits, and of any parameter's gradient."""

    def difference(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))

    if ours[1].keys() != other[1].keys():
        raise ValueError(f"gradients of {sorted(ours[1].keys() ^ other[1].keys())[:3]} are on one side alone")
    return difference(ours[0], other[0]), max(difference(ours[1][name], other[1][name]) for name in ours[1])
