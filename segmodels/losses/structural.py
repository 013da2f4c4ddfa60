"""Multi-scale structural similarity, the patch-level part of UNet 3+'s loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import LogitsLoss, class_sums, mean_present
from segmodels.losses.registry import LossCard, register_loss

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003, section 3.2, finest scale first


@register_loss(
    "ms_ssim",
    LossCard(
        "Huang 2020 (UNet 3+, 2004.08790), section 2.2; Wang 2003 (Asilomar), MS-SSIM",
        "fuzzy contours; with focal and iou as UNet 3+ does",
    ),
)
class MultiScaleStructuralSimilarityLoss(LogitsLoss):
    """1 - MS-SSIM of a class's probability map and its true map, per image; mean over the classes present, then over
    images.

    Contrast and structure are compared at every scale, luminance at the coarsest only, in Gaussian windows that lie
    wholly inside the image. In ignored pixels both maps are 0; windows count by the valid share of the pixels at their
    centre.

    Args:
        scales: 1..5, each half the size of the one before; fewer than 5 use the first exponents, scaled to the same
            sum.
        window: side of the window, odd, pixels. The coarsest scale must be as large: with 5 scales and 11, images of
            176 pixels.
        sigma: of the Gaussian, pixels.
    """

    def __init__(self, scales: int = 5, window: int = 11, sigma: float = 1.5, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        if scales not in range(1, len(EXPONENTS) + 1) or window < 1 or window % 2 != 1 or sigma <= 0:
            raise InputError(
                f"scales is {scales}, window {window}, sigma {sigma:g}, expected 1..{len(EXPONENTS)}, an odd whole"
                " number, and above 0"
            )
        self.scales = int(scales)
        self.window = int(window)
        self.sigma = sigma

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        if min(labels.shape[1:]) >> (self.scales - 1) < self.window:
            raise InputError(
                f"ms_ssim got images of {tuple(labels.shape[1:])}, expected sides of at least"
                f" {self.window << (self.scales - 1)} pixels: set fewer scales or a smaller window"
            )
        known = valid[:, None].to(logits.dtype)
        # channels last: the blurs are depthwise convolutions, three times faster in that order
        planar = logits.ndim == 4
        pool, order = (F.avg_pool2d, torch.channels_last) if planar else (F.avg_pool3d, torch.channels_last_3d)
        prediction = torch.where(valid[:, None], logits.softmax(dim=1), 0).contiguous(memory_format=order)
        truth = torch.zeros_like(prediction).scatter_(1, labels[:, None], known)
        exponents = [exponent * sum(EXPONENTS) / sum(EXPONENTS[: self.scales]) for exponent in EXPONENTS[: self.scales]]
        similarity = logits.new_ones(logits.shape[:2])
        for scale, exponent in enumerate(exponents):
            if scale:
                prediction, truth, known = pool(prediction, 2), pool(truth, 2), pool(known, 2)
            structure, luminance = self._compare(prediction, truth)
            coarsest = scale == self.scales - 1
            mean = self._mean(structure * luminance if coarsest else structure, known)
            similarity = (
                similarity * mean.clamp(min=1e-6) ** exponent
            )  # the clamp keeps roots of numbers near 0 from infinite slopes
        present = class_sums(valid.flatten(1), labels.flatten(1), logits.shape[1]) > 0
        return mean_present(1 - similarity, present)

    def _compare(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast-structure and luminance of each window, for maps with values 0..1."""
        mean_a, mean_b = self._blur(a), self._blur(b)
        spread = self._blur(a * a + b * b) - mean_a**2 - mean_b**2
        shared = self._blur(a * b) - mean_a * mean_b
        return (2 * shared + 0.03**2) / (spread + 0.03**2), (2 * mean_a * mean_b + 0.01**2) / (
            mean_a**2 + mean_b**2 + 0.01**2
        )

    def _blur(self, maps: Tensor) -> Tensor:
        """Gaussian mean over every window, one axis after the other: each spatial side shrinks by window - 1."""
        position = torch.arange(self.window, dtype=maps.dtype, device=maps.device) - self.window // 2
        kernel = torch.exp(-(position**2) / (2 * self.sigma**2))
        kernel = kernel / kernel.sum()
        convolve, channels = (F.conv2d if maps.ndim == 4 else F.conv3d), maps.shape[1]
        for axis in range(2, maps.ndim):
            shape = [1] * maps.ndim
            shape[axis] = self.window
            maps = convolve(maps, kernel.view(shape).expand(channels, *shape[1:]), groups=channels)
        return maps

    def _mean(self, values: Tensor, known: Tensor) -> Tensor:
        """Mean over windows ``(B, C)``, weighted by the valid share at their centres."""
        margin = self.window // 2
        for axis in range(2, known.ndim):
            known = known.narrow(axis, margin, known.shape[axis] - 2 * margin)
        axes = tuple(range(2, values.ndim))
        return (values * known).sum(dim=axes) / known.sum(dim=axes).clamp(min=torch.finfo(values.dtype).tiny)
