"""Images padded to sizes that a network halves without loss, and cropped again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def lacking(size: int, multiple: int) -> int:
    """How many pixels a size lacks to be a multiple, 0 to ``multiple`` - 1.

    Not ``-size % multiple``: while a model is exported sizes are symbols, and those of halved maps are simplified in
    multiples of a quotient but not in sums with a remainder, which makes the export up to twice as long.
    """
    return (size + multiple - 1) // multiple * multiple - size


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column (and slice) of (B, C, *size) until every size is a multiple: halving then loses
    nothing. Crop the output.
    """
    # functional.pad takes (before, after) pairs from the last dimension backwards
    pads = [pad for size in reversed(images.shape[2:]) for pad in (0, lacking(size, multiple))]
    if not torch.compiler.is_exporting() and not any(
        pads
    ):  # asked while exporting, this would tie the graph to one answer
        return images
    return functional.pad(images, pads, mode="replicate")


def zeros_to_multiple(x: Tensor, multiple: int, first: int = 2) -> Tensor:
    """Zeros on the right and below, until height and width, the dimensions ``first`` and the next, are multiples."""
    right, below = lacking(x.shape[first + 1], multiple), lacking(x.shape[first], multiple)
    # as above; nothing to add would still be a copy
    if not torch.compiler.is_exporting() and not (right or below):
        return x
    return functional.pad(x, (*(0, 0) * (x.dim() - first - 2), 0, right, 0, below))


def crop(features: Tensor, size: Sequence[int]) -> Tensor:
    """The first rows and columns (and slices) of (B, C, *larger): a view of the given size."""
    for dimension, length in enumerate(size, start=2):
        if (
            torch.compiler.is_exporting()
        ):  # a view would tie the graph to sizes that do need padding, or to those that do not
            features = features.index_select(dimension, torch.arange(length, device=features.device))
        else:
            features = features.narrow(dimension, 0, length)
    return features


def mirror_index(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Indices that extend a line of ``size`` pixels by mirroring at both end pixels, as often as needed; length before
    + size + after.
    """
    period = max(2 * (size - 1), 1)
    index = torch.arange(-before, size + after, device=device) % period
    return torch.minimum(index, (period - index) % period) if size > 1 else index


def linear_of_padded(layer: nn.Linear, x: Tensor, side: int) -> Tensor:
    """``layer`` of maps ``(B, h, w, C)`` padded with 0 on the right and below to multiples of ``side``: nothing is
    computed for the padding, whose output is the bias.
    """
    right, below = lacking(x.shape[2], side), lacking(x.shape[1], side)
    # asked while exporting, the size would tie the graph to one answer
    if not torch.compiler.is_exporting() and not (right or below):
        return layer(x)
    padded = functional.pad(functional.linear(x, layer.weight), (0, 0, 0, right, 0, below))
    return padded if layer.bias is None else padded + layer.bias.to(padded.dtype)
