"""A bundle's model as a ``torch.export`` program: runs with torch alone, without this package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.inference.bundle import Bundle
from segmodels.outputs import PixelOutput

FREE_DIMENSIONS = {
    2: {"batch size, height and width": (0, 2, 3), "batch size": (0,)},
    3: {"batch size, depth, height and width": (0, 2, 3, 4), "batch size": (0,)},
}
TRACED_SIZE = {2: (64, 96), 3: (16, 32, 48)}


class NormalisedModel(nn.Module):
    """Images (B, channels, *spatial) in their own units -> logits (B, C, *spatial), or the model's whole output where
    it has none: normalisation and model in one graph.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model = bundle.model
        ones = [1] * bundle.spatial_dims
        self.mean, self.std = (nn.Buffer(torch.tensor(values).view(-1, *ones)) for values in (bundle.mean, bundle.std))

    def forward(self, images: Tensor) -> Any:
        output = self.model((images.to(torch.float32) - self.mean) / self.std)
        return output.logits if isinstance(output, PixelOutput) else output


def export_program(bundle: Bundle, path: Path, size: Sequence[int] | None = None) -> str:
    """Write the program of ``NormalisedModel`` to ``path`` (.pt2), with as many free dimensions as the model allows.

    Args:
        size: ``(*spatial)`` of the images, to which the program is fixed where their size cannot be free. None:
            ``TRACED_SIZE``.

    Returns:
        What the program gives, which dimensions are free, in words, with the least side that it takes, and the images'
        size where it is not free: ``to logits, free batch size, height and width of at least 17 pixels``.

    Raises:
        RuntimeError: the model cannot be exported, or what was exported computes something else.
    """
    if not getattr(bundle.model, "exportable", True):  # tracing to the first number that depends on pixels takes long
        raise RuntimeError("torch.export: it has as many outputs as there are objects in an image")
    module = NormalisedModel(bundle).eval().cpu()
    traced = TRACED_SIZE[bundle.spatial_dims]
    other = tuple(length + change for length, change in zip(traced, (37, -11, -5), strict=False))
    size = tuple(size or traced)
    reason: Exception | None = None
    for free, dimensions in FREE_DIMENSIONS[bundle.spatial_dims].items():
        if 2 in dimensions and not getattr(bundle.model, "exportable_sizes", True):
            continue
        first, second = (traced, other) if 2 in dimensions else (size, size)
        try:
            example = _images(bundle, 2, first)
            program = torch.export.export(
                module, (example,), dynamic_shapes=(dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC),)
            )
            outputs = _checked(module, program, _images(bundle, 3, second))
            buffer = io.BytesIO()  # torch's own writer ends the process when the disk is full
            torch.export.save(program, buffer)
        except Exception as error:  # the exporter raises all kinds
            reason = error
        else:
            path.write_bytes(buffer.getbuffer())
            if 2 not in dimensions:
                return f"to {outputs}, free {free} alone: every image has {' x '.join(map(str, size))} pixels"
            least = _least_side(bundle, program, max(traced))
            return f"to {outputs}, free {free}{f' of at least {least} pixels' if least > 1 else ''}"
    raise RuntimeError(f"torch.export: {str(reason).splitlines()[0][:300]}") from reason


def _least_side(bundle: Bundle, program: torch.export.ExportedProgram, taken: int) -> int:
    """The shortest side of images, all sides alike, that the program takes; ``taken`` is one.

    The exporter fixes what the traced size decides, such as whether a map has more than one pixel, so that a program
    may refuse images that the model takes.
    """
    module, refused = program.module(), 0
    while taken - refused > 1:
        side = (refused + taken) // 2
        try:
            with torch.inference_mode():
                module(_images(bundle, 2, (side,) * bundle.spatial_dims))
        except Exception:  # the program's guards and torch's layers raise all kinds
            refused = side
        else:
            taken = side
    return taken


def _images(bundle: Bundle, count: int, size: tuple[int, ...]) -> Tensor:
    """Random images of the model's type and channels."""
    return torch.randint(0, 256, (count, bundle.channels, *size)).to(getattr(torch, bundle.dtype))


def _checked(module: nn.Module, program: torch.export.ExportedProgram, images: Tensor) -> str:
    """Names of the program's outputs, which are those of the module."""
    with torch.inference_mode():
        output = module(images)
        torch.testing.assert_close(program.module()(images), output, rtol=1e-3, atol=1e-3)
    if isinstance(output, Tensor):
        return "logits"
    return ", ".join(name for name, value in output._asdict().items() if isinstance(value, Tensor))
