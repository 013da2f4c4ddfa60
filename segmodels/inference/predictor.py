"""Images in, masks out: normalisation, averaging over views, sliding window, dense CRF, and the way back to the image's
own size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby

import cv2
import numpy as np
import torch
from torch import Tensor

from segmodels.data import large_images
from segmodels.errors import InputError
from segmodels.inference.bundle import Bundle
from segmodels.inference.class_rows import class_rows
from segmodels.inference.crf import DenseCRF, mean_field
from segmodels.inference.sliding_window import SlidingWindow, predict_bands
from segmodels.inference.views import average_predictions


class Predictor:
    """Predicts with a trained model.

    Args:
        bundle: the model; it is moved to ``device``.
        device: where to predict.
        flip, scales: average the probabilities over the mirrored image and these scales; within each window, if there
            are windows.
        sliding_window: None predicts whole images.
        crf: refine the averaged probabilities by the image, at the size that the model sees; on the CPU, an image per
            core at a time.

    Raises:
        InputError: scales that are not above 0; a sliding window and a CRF, which connects all pixels of an image.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device = "cpu",
        *,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        sliding_window: SlidingWindow | None = None,
        crf: DenseCRF | None = None,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise InputError(f"scales are {list(scales)}, expected one or more numbers above 0")
        if sliding_window is not None and crf is not None:
            raise InputError(
                "a sliding window and a dense CRF are both asked for, expected one: the CRF connects all pixels of an"
                " image, leave the window out"
            )
        self.labels = bundle.labels
        self._dtype = torch.from_numpy(np.empty(0, bundle.labels.dtype)).dtype
        self.device = torch.device(device)
        self._longer_side = bundle.longer_side
        self._model = bundle.model.to(self.device).eval()
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (bundle.mean, bundle.std)
        )
        self._flip, self._scales = flip, tuple(scales)
        self._sliding_window, self._crf = sliding_window, crf

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W), RGB -> float32 probabilities (B, C, H, W), each pixel's sum 1."""
        return torch.stack([torch.cat(list(bands), dim=1) for bands in self._bands(images.to(self.device))])

    @torch.inference_mode()
    def batch_masks(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> list[np.ndarray]:
        """uint8 images (B, 3, H, W) -> B masks of train ids, each of its own (height, width) in ``sizes``; None: all H
        x W.
        """
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        return [
            torch.cat(list(class_rows(bands, images.shape[-2], size, self._dtype))).cpu().numpy()
            for bands, size in zip(self._bands(images.to(self.device)), sizes, strict=True)
        ]

    def masks(self, images: np.ndarray | Sequence[np.ndarray], batch_size: int = 8) -> list[np.ndarray]:
        """RGB images as they come -> masks (H, W) of train ids, uint8 (int16 above 255 classes), each of its image's
        size.

        Images are resized to the size that the model was trained at (``Bundle.longer_side``); neighbours of one size
        are predicted together.

        Args:
            images: uint8, an array (N, H, W, 3) or a sequence of arrays (H, W, 3) of any sizes.
            batch_size: images predicted at once.

        Raises:
            InputError: an image of another shape or type.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(
                    f"image is {image.dtype} of shape {image.shape}, expected uint8 (height, width, 3): convert it to"
                    " 8-bit RGB"
                )
        masks: list[np.ndarray] = []
        for size, same in groupby(images, key=lambda image: (image.shape[0], image.shape[1])):
            group = list(same)
            for first in range(0, len(group), batch_size):
                batch = np.stack([self._resize(image) for image in group[first : first + batch_size]])
                masks += self.batch_masks(torch.from_numpy(batch).permute(0, 3, 1, 2), [size] * len(batch))
        return masks

    @torch.inference_mode()
    def mask_rows(self, image: large_images.ImageRows) -> Iterator[np.ndarray]:
        """The mask of an image that may be larger than memory, as rows (n, W) from the top down; types and sizes are
        those of ``masks``.

        With a sliding window a strip of the image of the window's height is held at a time, and C x window height x W
        probabilities. A model that was trained at a fixed size (``Bundle.longer_side``) sees the image at that size,
        read row by row as well.

        Raises:
            InputError: more than ``large_images.LARGE`` pixels for the model to see, and no sliding window.
        """
        own = image.height, image.width
        height, width = self._model_size(*own)
        limit = large_images.LARGE
        if self._sliding_window is None and height * width > limit:
            raise InputError(
                f"image has {own[0]} x {own[1]} pixels, expected at most {limit / 1e6:.1f} million without a sliding"
                " window: give one, as --window 512"
            )
        if (height, width) == own and self._sliding_window is not None:

            def read(start: int, stop: int) -> Tensor:
                return torch.from_numpy(image.read(start, stop)).permute(2, 0, 1).to(self.device)

            bands = predict_bands(self._predict, read, own, self._sliding_window)
        else:
            whole = (
                large_images.shrink(image, height, width)
                if max(height, width) < max(own)
                else self._resize(image.read(0, own[0]))
            )
            (bands,) = self._bands(torch.from_numpy(whole).permute(2, 0, 1)[None].to(self.device))
        yield from (rows.cpu().numpy() for rows in class_rows(bands, height, own, self._dtype))

    def _bands(self, images: Tensor) -> Iterator[Iterator[Tensor]]:
        """Per image its probabilities as bands (C, rows, W) from the top down: one band, or many with a sliding
        window.
        """
        if self._sliding_window is None:
            probabilities = self._predict(images)
            yield from (
                iter([refined]) for refined in (self._refine(probabilities, images) if self._crf else probabilities)
            )
        else:
            size = images.shape[-2], images.shape[-1]
            yield from (
                predict_bands(self._predict, partial(_rows, image), size, self._sliding_window) for image in images
            )

    def _predict(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) on the device -> probabilities (B, C, h, w)."""
        return average_predictions(
            self._network, (images.float() - self._mean) / self._std, flip=self._flip, scales=self._scales
        )

    def _network(self, images: Tensor) -> Tensor:
        return self._model(images).logits.float().softmax(dim=1)

    def _refine(self, probabilities: Tensor, images: Tensor) -> list[Tensor]:
        """The dense CRF of each image."""
        assert self._crf is not None
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            refined = pool.map(
                partial(mean_field, crf=self._crf),
                probabilities.cpu().numpy(),
                images.permute(0, 2, 3, 1).cpu().numpy(),
            )
            return [torch.from_numpy(one).to(self.device) for one in refined]

    def _resize(self, image: np.ndarray) -> np.ndarray:
        """The image at the size of the training data, resized as they were: by area averaging to shrink, bilinearly to
        grow.
        """
        height, width = self._model_size(image.shape[0], image.shape[1])
        if (height, width) == image.shape[:2]:
            return image
        return cv2.resize(
            image,
            (width, height),
            interpolation=cv2.INTER_AREA if max(height, width) < max(image.shape) else cv2.INTER_LINEAR,
        )

    def _model_size(self, height: int, width: int) -> tuple[int, int]:
        """At what size the model sees an image of this size."""
        longer_side = max(height, width)
        if self._longer_side in (None, longer_side):
            return height, width
        factor = self._longer_side / longer_side
        return max(1, round(height * factor)), max(1, round(width * factor))


def _rows(image: Tensor, start: int, stop: int) -> Tensor:
    return image[:, start:stop]
