"""Test-time augmentation: the mean of the predictions of an image, its mirror image, and both at other scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

Predict = Callable[[Tensor], Tensor]  # normalised images (B, 3, H, W) -> probabilities (B, C, H, W)


def average_predictions(
    predict: Predict, images: Tensor, *, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """Mean probabilities (B, C, H, W) over ``scales`` of ``images`` (float, (B, 3, H, W)), each also left-right
    mirrored if ``flip``.
    """
    height, width = images.shape[-2:]
    views = [
        _view(predict, images, (max(round(height * scale), 1), max(round(width * scale), 1)), flip) for scale in scales
    ]
    return sum(views[1:], views[0]) / len(views)


def _view(predict: Predict, images: Tensor, size: tuple[int, int], flip: bool) -> Tensor:
    own_size = (images.shape[-2], images.shape[-1])
    if size != own_size:
        images = functional.interpolate(images, size, mode="bilinear", antialias=True)
    probabilities = predict(images)
    if flip:
        probabilities = (probabilities + predict(images.flip(-1)).flip(-1)) / 2
    if size != own_size:
        probabilities = functional.interpolate(probabilities, own_size, mode="bilinear")
    return probabilities
