"""Facts about a model without running it on data: trainable parameters, multiply-accumulates, its structure with
shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels.models.base import PromptableModel
from segmodels.models.registry import create_model, model_entry, model_options
from segmodels.prompts import Prompts


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters, each tensor once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_gmac(model: nn.Module, images: Tensor) -> float:
    """10^9 multiply-accumulates of convolutions, matrix products and attention for one pass over ``images`` in eval
    mode.

    A promptable model answers one click on each image.

    Element-wise work, normalisation and interpolation are not counted, as usual in the literature (what it calls
    "GFLOPs" is often this number).
    """
    training = model.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(images, **_one_click(model, images))
    finally:
        model.train(training)
    return counter.get_total_flops() / 2e9


def on_meta(
    name: str, num_classes: int | None = None, size: Sequence[int] | None = None, **options: Any
) -> tuple[nn.Module, Tensor]:
    """A model and one image of its size, both without memory (meta device); ``num_classes`` and ``size`` default to the
    model card's.
    """
    card = model_entry(name).card
    in_channels = options.get("in_channels", model_options(name).get("in_channels", 3))
    with torch.device("meta"):
        model = create_model(name, num_classes or card.num_classes, **options)
        return model, torch.empty(1, in_channels, *(size or card.size))


def _one_click(model: nn.Module, images: Tensor) -> dict[str, Prompts]:
    """The guide of promptable models: a click in the middle of each image."""
    if not isinstance(model, PromptableModel):
        return {}
    middle = images.new_tensor([[[images.shape[3] / 2, images.shape[2] / 2]]])
    labels = torch.ones(1, 1, dtype=torch.int64, device=images.device)
    return {"guide": Prompts((middle,) * len(images), (labels,) * len(images))}


def describe(
    name: str, num_classes: int | None = None, size: Sequence[int] | None = None, depth: int = 2, **options: Any
) -> str:
    """The structure of a model as text: each stage with the shape it puts out and its parameters.

    Args:
        num_classes, size: default to the model card's; size is (height, width).
        depth: levels of modules shown.
        options: of the model, as for ``create_model``.

    Raises:
        InputError: as ``create_model``, and for a size that the model cannot take.
    """
    model, images = on_meta(name, num_classes, size, **options)
    shapes: dict[str, list[str]] = {}
    shown = [(key, module) for key, module in model.named_modules() if key and key.count(".") < depth]
    for key, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, key=key: shapes.setdefault(key, []).append(_shape(output))
        )
    gmac = count_gmac(model, images)
    card = model_entry(name).card
    used = {
        key.rsplit(".", cut)[0] for key in shapes for cut in range(key.count(".") + 1)
    }  # a container whose parts are called one by one is never called itself
    lines = [
        f"{name} ({card.paper})",
        f"input {_shape(images)}, {count_parameters(model):,} trainable parameters, {gmac:.2f} GMAC in eval mode",
    ]
    width = max((2 * key.count(".") + len(key.rsplit(".", 1)[-1]) for key, _ in shown), default=0) + 2
    kinds = max((len(type(module).__name__) for _, module in shown), default=0)
    for key, module in shown:
        outputs = shapes.get(key)
        calls = f" ×{len(outputs)}" if outputs and len(outputs) > 1 else ""
        shape = outputs[0] + calls if outputs else "" if key in used else "training only"
        label = "  " * key.count(".") + key.rsplit(".", 1)[-1]
        lines.append(f"  {label:<{width}}{type(module).__name__:<{kinds}}  {shape}  {count_parameters(module):,}")
    return "\n".join(lines)


def _shape(output: Any) -> str:
    """``3x512x512`` of a tensor (without the batch), the shapes of several side by side."""
    if isinstance(output, Tensor):
        return "x".join(str(size) for size in output.shape[1:])
    if isinstance(output, list | tuple):
        return ", ".join(text for text in map(_shape, output) if text)
    return ""
