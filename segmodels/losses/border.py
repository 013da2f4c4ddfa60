"""U-Net's weight map: background between cells that nearly touch weighs more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import mean_valid
from segmodels.losses.distance import distance_to
from segmodels.losses.distribution import PixelLoss
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "border_weighted_cross_entropy",
    LossCard(
        "Ronneberger 2015 (1505.04597), eq. 1 and 2", "touching objects of one class that must come apart, as cells do"
    ),
)
class BorderWeightedCrossEntropyLoss(PixelLoss):
    """Cross-entropy weighted by w_y + w_0 exp(-(d1 + d2)² / 2σ²), mean over valid pixels.

    The cells are the connected regions of each class but 0 in the target.

    Args:
        border_weight: w_0.
        sigma: pixels.
    """

    def __init__(
        self,
        border_weight: float = 10.0,
        sigma: float = 5.0,
        class_weights: Tensor | Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if border_weight < 0 or sigma <= 0:
            raise InputError(f"border_weight is {border_weight:g} and sigma {sigma:g}, expected at least 0 and above 0")
        self.border_weight = border_weight
        self.sigma = sigma

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        maps = [
            border_weight_map(connected_regions(names), self.border_weight, self.sigma)
            for names in torch.where(valid, labels, 0).numpy(force=True)
        ]
        weights = torch.from_numpy(np.stack(maps)).to(logits)
        of_classes = self.weights(logits)
        weights += 1 if of_classes is None else of_classes[labels]
        return mean_valid(weights * F.cross_entropy(logits, labels, reduction="none"), valid)


def border_weight_map(cells: np.ndarray, border_weight: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """w_0 exp(-(d1 + d2)² / 2σ²) on the background, d1 and d2 being the distances to the nearest and the second nearest
    cell.

    The paper prints the term for all pixels, but means it for the background that separates cells; it is 0 inside
    cells, and everywhere where there are fewer than two.

    Args:
        cells: 0 for background, another integer per cell, 2-D or 3-D.
        border_weight: w_0; sigma: σ in pixels.

    Returns:
        float32, the shape of ``cells``; the class weights w_c of equation 2 are to be added.
    """
    names = np.unique(cells[cells != 0])
    if len(names) < 2:
        return np.zeros(cells.shape, np.float32)
    nearest, second = np.full(cells.shape, np.inf, np.float32), np.full(cells.shape, np.inf, np.float32)
    for name in names:
        distance = distance_to(cells == name)
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    weights = border_weight * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(cells == 0, weights, 0).astype(np.float32)


def connected_regions(labels: np.ndarray) -> np.ndarray:
    """A number from 1 for each connected region (shared sides, not corners) of one label other than 0, and 0
    elsewhere.
    """
    import scipy.ndimage

    regions, count = np.zeros(labels.shape, np.int64), 0
    for name in np.unique(labels[labels != 0]):
        of_name, found = scipy.ndimage.label(labels == name)
        regions += np.where(of_name > 0, of_name + count, 0)
        count += found
    return regions
