"""Resizing, padding and flipping of images of any number of channels and two or three spatial axes.

Images are ``(*spatial, C)``, label maps ``(*spatial)``; ``*spatial`` is ``H, W`` or ``D, H, W``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_OPENCV_CHANNELS = 4  # some of OpenCV's functions take no more at once


def resize_image(image: NDArray, size: Sequence[int], *, average: bool) -> NDArray:
    """The image at ``size``, of its own type: integers of up to 16 bits or float32.

    Args:
        average: take the mean over the area that becomes a pixel, for images that shrink; else interpolate linearly
            between pixel centres.
    """
    if len(size) == 3:
        return _resize_volume(image, size, average=average)
    if image.dtype == np.int8:  # OpenCV interpolates none
        return resize_image(image.astype(np.int16), size, average=average).astype(np.int8)
    height, width = size
    method = cv2.INTER_AREA if average else cv2.INTER_LINEAR
    if image.shape[-1] <= _OPENCV_CHANNELS:
        return cv2.resize(image, (width, height), interpolation=method).reshape(height, width, -1)
    return np.concatenate([resize_image(part, size, average=average) for part in _few_channels(image)], axis=-1)


def place(array: NDArray, size: Sequence[int], corner: Sequence[int], value: float | Sequence[float]) -> NDArray:
    """An array of ``size`` with ``array`` at ``corner``, and ``value`` (one, or one per channel) around it."""
    if array.shape[: len(size)] == tuple(size):
        return array
    channels = 1 if array.ndim == len(size) else array.shape[-1]
    if len(size) == 2 and channels <= _OPENCV_CHANNELS:
        (top, left), (height, width) = corner, array.shape[:2]
        margins = top, size[0] - top - height, left, size[1] - left - width
        color = [float(one) for one in np.broadcast_to(value, channels)]
        placed = cv2.copyMakeBorder(array, *margins, cv2.BORDER_CONSTANT, value=color)
        return placed.reshape(*size, *array.shape[2:])
    whole = np.empty((*size, *array.shape[len(size) :]), array.dtype)
    whole[...] = value
    whole[tuple(slice(first, first + length) for first, length in zip(corner, array.shape, strict=False))] = array
    return whole


def flip(array: NDArray, axes: Sequence[int], spatial_dims: int) -> NDArray:
    """The array mirrored along ``axes``, which count among its first ``spatial_dims``."""
    if spatial_dims == 2 and tuple(axes) == (1,):
        return cv2.flip(array, 1).reshape(array.shape)  # a copy in the order of memory is stacked faster than a view
    return np.flip(array, tuple(axes)) if axes else array


def upright(array: NDArray, orientation: int) -> NDArray:
    """The stored pixels ``(H, W, ...)`` as viewers show them.

    Args:
        orientation: 1..8, as the tag Orientation of EXIF and TIFF 6.0 counts them; 1 and unknown numbers change
            nothing.
    """
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if down else 1, :: -1 if right else 1])


def as_stored(array: NDArray, orientation: int | None) -> NDArray:
    """The inverse of ``upright``; None changes nothing."""
    return array if orientation is None else upright(array, {6: 8, 8: 6}.get(orientation, orientation))


def boxes_as_stored(boxes: NDArray, size: tuple[int, int], orientation: int | None) -> NDArray:
    """Boxes over an image of ``size`` (height, width) as ``upright`` turns it -> over its stored pixels.

    Args:
        boxes: ``(N, 4)`` left, top, right, bottom.
    """
    left, top, right, bottom = boxes.T
    height, width = size
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    sideways = orientation in (5, 6, 7, 8)
    return np.stack((top, left, bottom, right) if sideways else (left, top, right, bottom), axis=1)


def _few_channels(image: NDArray) -> list[NDArray]:
    channels = image.shape[-1]
    return [
        np.ascontiguousarray(image[..., first : first + _OPENCV_CHANNELS])
        for first in range(0, channels, _OPENCV_CHANNELS)
    ]


def _resize_volume(volume: NDArray, size: Sequence[int], *, average: bool) -> NDArray:
    """By torch, as OpenCV has no third axis; integers up to 16 bits are exact in float32."""
    if volume.shape[:3] == tuple(size):
        return volume
    import torch
    from torch.nn import functional

    values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume, -1, 0), dtype=np.float32))[None]
    resized = functional.interpolate(values, tuple(size), mode="area" if average else "trilinear")[0].numpy()
    if np.issubdtype(volume.dtype, np.integer):
        resized = np.rint(resized)
    return np.ascontiguousarray(np.moveaxis(resized, 0, -1)).astype(volume.dtype, copy=False)
