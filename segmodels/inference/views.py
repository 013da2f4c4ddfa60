"""Test-time augmentation: the mean of the predictions of an image, its mirror image, and both at other scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

Predict = Callable[[Tensor], Tensor]  # images (B, channels, *spatial) -> probabilities (B, C, *spatial)


def average_predictions(
    predict: Predict, images: Tensor, *, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """Mean probabilities (B, C, *spatial) over ``scales`` of ``images`` (B, channels, *spatial), each also left-right
    mirrored if ``flip``.
    """
    images = images.float()  # interpolating whole numbers would round, and torch turns no uint16 about
    views = [
        _view(predict, images, tuple(max(round(length * scale), 1) for length in images.shape[2:]), flip)
        for scale in scales
    ]
    return sum(views[1:], views[0]) / len(views)


def _view(predict: Predict, images: Tensor, size: tuple[int, ...], flip: bool) -> Tensor:
    own_size = tuple(images.shape[2:])
    linear = "trilinear" if len(size) == 3 else "bilinear"
    if size != own_size:
        images = functional.interpolate(images, size, mode=linear, antialias=len(size) == 2)
    probabilities = predict(images)
    if flip:
        probabilities = (probabilities + predict(images.flip(-1)).flip(-1)) / 2
    if size != own_size:
        probabilities = functional.interpolate(probabilities, own_size, mode=linear)
    return probabilities
