"""The two losses of unsupervised W-Net (Xia and Kulis 2017, 1711.08506), which compare a prediction with the image
itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import Images, Loss
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "reconstruction",
    LossCard(
        "Xia and Kulis 2017 (1711.08506), the loss J_reconstr",
        "trains both halves of W-Net to keep the image",
    ),
)
class ReconstructionLoss(Loss):
    """``loss(reconstruction, image)``: mean squared difference of two tensors of one shape, scalar; in float32 at
    least.
    """

    reads: ClassVar[str] = "reconstruction"

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        """Compare what the model rebuilt with the images that it saw."""
        reconstruction = self.read(layer)
        return None if reconstruction is None else self(reconstruction, _given("reconstruction", images).normalised)

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        if reconstruction.shape != image.shape:
            raise InputError(
                f"reconstruction has shape {tuple(reconstruction.shape)}, expected {tuple(image.shape)} as the image"
            )
        return F.mse_loss(_full(reconstruction), _full(image))


@register_loss(
    "soft_normalized_cut",
    LossCard(
        "Xia and Kulis 2017 (1711.08506), the loss J_soft-Ncut",
        "trains W-Net's encoder to cut where neighbours differ",
    ),
)
class SoftNormalizedCutLoss(Loss):
    """``loss(logits, image)``: K - Σ_k assoc(A_k, A_k) / assoc(A_k, V) of each image, mean over the batch; 0..K.

    With p the softmax over the K classes, assoc(A_k, A_k) = Σ_ij w_ij p_ik p_jk and assoc(A_k, V) = Σ_ij w_ij p_ik,
    where w_ij = exp(-|F_i - F_j|² / σ_I²) exp(-|X_i - X_j|² / σ_X²) for |X_i - X_j| < radius, else 0. Exact: all
    neighbours are visited, one shift of the image at a time; memory is one map per shift.

    Args:
        sigma_intensity: σ_I in units of the image: 10 for intensities 0..255, about 0.04 for 0..1.
        sigma_distance: σ_X, pixels.
        radius: pixels; the neighbours nearer than this.
    """

    def __init__(self, sigma_intensity: float = 10.0, sigma_distance: float = 4.0, radius: float = 5.0) -> None:
        super().__init__()
        if min(sigma_intensity, sigma_distance, radius) <= 0:
            raise InputError(
                f"sigma_intensity is {sigma_intensity:g}, sigma_distance {sigma_distance:g}, radius {radius:g},"
                " expected all above 0"
            )
        self.sigma_intensity = sigma_intensity
        self.sigma_distance = sigma_distance
        self.radius = radius

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        """Read the segments, and the images in their own units."""
        logits = self.read(layer)
        return None if logits is None else self(logits, _given("soft_normalized_cut", images).raw.float())

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Scalar.

        Args:
            logits: ``(B, K, *spatial)``, raw, two or three spatial axes.
            image: ``(B, channels, *spatial)``.
        """
        if logits.ndim not in (4, 5) or image.shape[:1] + image.shape[2:] != logits.shape[:1] + logits.shape[2:]:
            raise InputError(
                f"logits have shape {tuple(logits.shape)} and the image {tuple(image.shape)}, expected (B, K, *spatial)"
                " and (B, channels, *spatial)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            probabilities = _full(logits).softmax(dim=1)
            with torch.no_grad():
                weights = self._weights(_full(image))
                degree = _NeighbourSum.apply(torch.ones_like(probabilities[:, :1]), weights)
            neighbours = _NeighbourSum.apply(probabilities, weights)
            axes = tuple(range(2, logits.ndim))
            within = (probabilities * neighbours).sum(dim=axes)
            total = (probabilities * degree).sum(dim=axes)
            return (logits.shape[1] - (within / total.clamp(min=torch.finfo(total.dtype).tiny)).sum(dim=1)).mean()

    def _weights(self, image: Tensor) -> dict[tuple[int, ...], Tensor]:
        """w of every pixel with its neighbour at each shift of one half-space, ``(B, 1, *overlap)``: w is symmetric."""
        reach = range(-int(self.radius), int(self.radius) + 1)
        weights = {}
        for shift in itertools.product(reach, repeat=image.ndim - 2):
            square = sum(step * step for step in shift)
            if (
                shift > (0,) * len(shift)
                and square < self.radius**2
                and all(abs(step) < size for step, size in zip(shift, image.shape[2:], strict=True))
            ):
                here, there = _overlap(shift)
                difference = (image[here] - image[there]).square().sum(dim=1, keepdim=True)
                weights[shift] = torch.exp(-difference / self.sigma_intensity**2 - square / self.sigma_distance**2)
        return weights


class _NeighbourSum(torch.autograd.Function):
    """Σ_j w_ij p_j for every pixel i, with w_ii = 1. As w is symmetric, so is its gradient."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weights: dict[tuple[int, ...], Tensor]) -> Tensor:
        ctx.weights = weights
        sums = maps.clone()
        for shift, weight in weights.items():
            here, there = _overlap(shift)
            sums[here] += weight * maps[there]
            sums[there] += weight * maps[here]
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _NeighbourSum.apply(gradient, ctx.weights), None


def _overlap(shift: Sequence[int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Indices into ``(B, C, *spatial)`` of the pixels that have a neighbour at ``shift``, and of those neighbours."""
    here = tuple(slice(max(0, -step), -step if step > 0 else None) for step in shift)
    there = tuple(slice(max(0, step), step if step < 0 else None) for step in shift)
    return (..., *here), (..., *there)


def _given(name: str, images: Images | None) -> Images:
    if images is None:
        raise InputError(
            f"loss {name!r} compares a prediction with the image, expected the images of the batch: give `images`"
        )
    return images


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
