"""Single training steps: beside torchvision's models, compiled, and as a share of what the card can compute."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu.setting import Setting
from benchmarks.report import side_by_side
from segmodels.models.analysis import count_gmac
from segmodels.models.registry import create_model

CLASSES = 21
TFLOPS = {"H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362, "L4": 121, "4090": 165, "V100": 125}
"""Dense bfloat16 of the tensor cores (float16 of V100), from the makers' data sheets."""


def beside_torchvision(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Milliseconds of one training step (forward, backward, SGD) in bfloat16, channels last, beside torchvision's model
    of the same layers.
    """
    if not importlib.util.find_spec("torchvision"):
        yield "torchvision", {"skipped": "not installed"}
        return
    from torchvision.models import segmentation

    for ours, theirs in {
        "fcn_resnet50": segmentation.fcn_resnet50,
        "deeplab_v3_resnet50": segmentation.deeplabv3_resnet50,
    }.items():
        if ours not in known:
            peer = theirs(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
            times = side_by_side(
                {"segmodels": step(setting, create(setting, ours)), "torchvision": step(setting, peer)}, rounds=15
            )
            yield ours, {**times, "ratio": times["segmodels"] / times["torchvision"]}


def compiled(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Milliseconds of one training step, eager, compiled (``torch.compile``) and with CUDA graphs, too
    (``mode="reduce-overhead"``); compiling itself is left out.
    """
    for name in ("unet", "deeplab_v3_plus_resnet50"):
        if name not in known:
            eager, compiled, graphs = (create(setting, name) for _ in range(3))
            compiled.compile()
            graphs.compile(mode="reduce-overhead")
            models = {"eager": eager, "compiled": compiled, "CUDA graphs": graphs}
            runs = {way: step(setting, model) for way, model in models.items()}
            times = side_by_side(runs, rounds=15, warmup=5)
            yield name, {**times, "ratio": times["eager"] / min(times["compiled"], times["CUDA graphs"])}


def utilisation(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Share of the card's dense bfloat16 arithmetic that a training step uses: three times the forward pass's
    multiply-accumulates, two operations each.
    """
    card = torch.cuda.get_device_name() if setting.device == "cuda" else ""
    peak = next((tflops for name, tflops in TFLOPS.items() if name in card), None)
    for name in ("unet", "deeplab_v3_plus_resnet50", "pspnet_r50_d8", "segnext_t"):
        if name not in known:
            model = create(setting, name)
            gmac = count_gmac(model, images_of(setting)[:1])
            milliseconds = side_by_side({name: step(setting, model)}, rounds=15)[name]
            tflops = 6 * gmac * setting.batch / milliseconds  # 1e9 operations in 1e-3 seconds
            yield name, {"ms": milliseconds, "TFLOP/s": tflops, **({"share of peak": tflops / peak} if peak else {})}


def create(setting: Setting, name: str) -> nn.Module:
    chosen = setting.model(name)
    return create_model(chosen["model"], CLASSES, **chosen.get("options", {}))


def images_of(setting: Setting) -> Tensor:
    return torch.randn(setting.batch, 3, *setting.size, device=setting.device)


def step(setting: Setting, model: nn.Module) -> Callable[[], None]:
    """A training step of ours or of torchvision, on a batch that is there already; waits for the device."""
    model = model.to(setting.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = images_of(setting).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (setting.batch, *setting.size), device=setting.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        with torch.autocast(setting.device, torch.bfloat16):
            output = model(images)
            logits = list(output.values()) if isinstance(output, dict) else [output.logits, *output.auxiliary]
            loss = sum(functional.cross_entropy(one.float(), target) for one in logits)
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        setting.synchronize()

    return run
