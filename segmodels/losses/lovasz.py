"""The Lovász extension of the Jaccard loss: exact, piecewise linear, made for optimising IoU.

Berman 2018 (1705.08790). With the errors m of a class sorted in descending order, the loss is Σ m_i (Δ_i - Δ_{i-1}),
where Δ_i = |M| / |{y = c} ∪ M| is the Jaccard loss of a prediction that is wrong on the set M of the first i pixels.
Between two ties it is linear in m, so the differences, found by one sort per class, are also its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import LogitsLoss, class_sums, mean_present
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "lovasz_softmax",
    LossCard("Berman 2018 (1705.08790), eq. 8, 9 and 11", "fine-tuning for mean IoU, usually beside cross_entropy"),
)
class LovaszSoftmaxLoss(LogitsLoss):
    """Mean over the present classes of the Lovász extension at the errors |[y = c] - s_c|.

    Args:
        per_image: the loss of each image, then the mean over images; otherwise the batch counts as one image.
    """

    def __init__(self, per_image: bool = False, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        self.per_image = per_image

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        labels = labels.masked_fill(~valid, -1).flatten(1)
        values = _LovaszExtension.apply(logits.flatten(2).softmax(dim=1), labels, self.per_image)
        pixels = class_sums(valid.flatten(1), labels.clamp(min=0), logits.shape[1])
        return mean_present(values, (pixels if self.per_image else pixels.sum(dim=0, keepdim=True)) > 0)


@register_loss(
    "lovasz_hinge",
    LossCard(
        "Berman 2018 (1705.08790), eq. 8 and 9 at hinge errors",
        "as lovasz_softmax for two classes, when margins suit better than probabilities",
    ),
)
class LovaszHingeLoss(LogitsLoss):
    """Lovász extension of class 1 at the hinge errors max(0, 1 ± z), z = logit of class 1 - logit of class 0.

    Args:
        per_image: the loss of each image, then the mean over images; otherwise the batch counts as one image.
    """

    def __init__(self, per_image: bool = False, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        self.per_image = per_image

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        if logits.shape[1] != 2:
            raise InputError(f"lovasz_hinge got {logits.shape[1]} classes, expected 2: use lovasz_softmax")
        margin, truth = (logits[:, 1] - logits[:, 0]).flatten(1), (labels == 1).flatten(1)
        valid = valid.flatten(1)
        errors = torch.where(truth, 1 - margin, 1 + margin).relu().masked_fill(~valid, 0)
        if not self.per_image:
            errors, truth, valid = errors.view(1, -1), truth.view(1, -1), valid.view(1, -1)
        values = (jaccard_slopes(errors.detach(), truth & valid) * errors).sum(dim=1)
        return mean_present(values[None], valid.any(dim=1)[None])


def jaccard_slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """Gradient of the Lovász extension of the Jaccard loss of each row.

    With the errors in descending order, G true pixels in all, t true and b other ones up to here, it is 1 / (G + b) for
    a true pixel and (G - t) / ((G + b) (G + b - 1)) for another one; differences of Δ itself would cancel. Without any
    true
    pixel Δ is 1 as soon as one pixel is wrong: 1 for the largest error, 0 for the others.

    Args:
        errors: ``(..., N)``, at least 0; truth: bool, same shape.

    Returns:
        ``(..., N)``, the type of ``errors``.
    """
    order = errors.argsort(dim=-1, descending=True)
    hits = truth.gather(-1, order)
    found = hits.cumsum(dim=-1)
    total = found[..., -1:]
    union = (torch.arange(1, errors.shape[-1] + 1, device=errors.device) + total - found).to(errors.dtype)
    slopes = torch.where(hits, 1, (total - found) / (union - 1).clamp(min=1)) / union
    slopes[..., :1] = torch.where(total > 0, slopes[..., :1], 1)
    return torch.empty_like(errors).scatter_(-1, order, slopes)


class _LovaszExtension(torch.autograd.Function):
    """Lovász extension of every class.

    Probabilities ``(B, C, N)`` and labels ``(B, N)``, -1 where ignored -> ``(B, C)`` if per image, else ``(1, C)``.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, labels: Tensor, per_image: bool) -> Tensor:
        compiled = (
            probabilities.device.type == "cpu"
            and probabilities.dtype == torch.float32
            and probabilities.numel() < 2**31
        )
        values, slopes = (_compiled_extension if compiled else _tensor_extension)(probabilities, labels, per_image)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * gradient[:, :, None], None, None


def _tensor_extension(probabilities: Tensor, labels: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Values ``(G, C)`` and their gradient ``(B, C, N)``, for any device and type."""
    truth = labels[:, None] == torch.arange(probabilities.shape[1], device=labels.device)[:, None]
    errors = torch.where(truth, 1 - probabilities, probabilities).masked_fill_(labels[:, None] < 0, 0)
    if per_image:
        slopes = jaccard_slopes(errors, truth)
        values = (slopes * errors).sum(dim=2)
    else:
        classes_first = errors.transpose(0, 1)
        slopes = (
            jaccard_slopes(classes_first.flatten(1), truth.transpose(0, 1).flatten(1))
            .view(classes_first.shape)
            .transpose(0, 1)
        )
        values = (slopes * errors).sum(dim=(0, 2))[None]
    return values, torch.where(truth, -slopes, slopes)


def _compiled_extension(probabilities: Tensor, labels: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """The same for float32 on the CPU: one compiled pass per class, as many at once as torch may use threads."""
    slopes = torch.zeros_like(probabilities, memory_format=torch.contiguous_format)
    images = len(labels) if per_image else 1
    values = np.zeros((images, probabilities.shape[1]), np.float32)
    inputs, truth = (
        tensor.contiguous().numpy().reshape(images, -1, *tensor.shape[1:]) for tensor in (probabilities, labels)
    )
    outputs = slopes.numpy().reshape(images, -1)
    kernel = _compile()

    def fill(cell: tuple[int, int]) -> None:
        image, c = cell
        values[cell] = kernel(inputs[image], truth[image], c, outputs[image])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, np.ndindex(values.shape)))
    return torch.from_numpy(values), slopes


@cache
def _compile() -> Callable[[np.ndarray, np.ndarray, int, np.ndarray], float]:
    """The extension of one class, compiled on first use so that importing this module does not pay for it.

    Errors are sorted as integers that hold the error's bits (floats of at least 0 sort as their bits do), the pixel's
    position and whether the class is true there; three rounds of counting sort, 11 bits each.
    """
    import numba

    digit_bits, digits = 11, 3

    def extension(probabilities: np.ndarray, labels: np.ndarray, c: int, slopes: np.ndarray) -> float:
        images, classes, pixels = probabilities.shape
        keys, sorted_keys = np.empty(labels.size, np.uint64), np.empty(labels.size, np.uint64)
        counts = np.zeros((digits, 2**digit_bits + 1), np.int64)
        error = np.empty(1, np.float32)
        error_bits = error.view(np.uint32)
        size, total = 0, 0
        for image in range(images):
            for pixel in range(pixels):
                label = labels[image, pixel]
                if label < 0:
                    continue
                hit = label == c
                total += hit
                probability = probabilities[image, c, pixel]
                error[0] = np.float32(1) - probability if hit else probability
                position = (image * classes + c) * pixels + pixel
                keys[size] = (
                    np.uint64(error_bits[0]) << np.uint64(32) | np.uint64(position) << np.uint64(1) | np.uint64(hit)
                )
                for digit in range(digits):
                    counts[
                        digit, (error_bits[0] >> np.uint32(digit * digit_bits) & np.uint32(2**digit_bits - 1)) + 1
                    ] += 1
                size += 1
        if total == 0:
            return 0.0
        for digit in range(digits):
            places = counts[digit].cumsum()
            shift = np.uint64(32 + digit * digit_bits)
            for i in range(size):
                value = np.int64(keys[i] >> shift & np.uint64(2**digit_bits - 1))
                sorted_keys[places[value]] = keys[i]
                places[value] += 1
            keys, sorted_keys = sorted_keys, keys
        missing, union, loss = float(total), float(total), 0.0
        for i in range(size - 1, -1, -1):
            position = np.int64((keys[i] & np.uint64(2**32 - 1)) >> np.uint64(1))
            error_bits[0] = np.uint32(keys[i] >> np.uint64(32))
            if keys[i] & np.uint64(1):
                missing -= 1
                slope = 1 / union
                slopes[position] = -slope
            else:
                union += 1
                slope = missing / (union * (union - 1))
                slopes[position] = slope
            loss += slope * error[0]
        return loss

    return numba.njit(nogil=True)(extension)
