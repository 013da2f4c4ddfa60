"""Images in, masks out: normalisation, averaging over views, sliding window, and the way back to the image's own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import cv2
import numpy as np
import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.inference.augmentation import average_predictions
from segmodels.inference.bundle import Bundle
from segmodels.inference.mask_writer import MaskWriter
from segmodels.inference.sliding_window import SlidingWindow, predict_bands


class Predictor:
    """Predicts with a trained model.

    Args:
        bundle: the model; it is moved to ``device``.
        device: where to predict.
        flip, scales: average the probabilities over the mirrored image and these scales; within each window, if there are windows.
        sliding_window: None predicts whole images.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device = "cpu",
        *,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        sliding_window: SlidingWindow | None = None,
    ) -> None:
        self.labels = bundle.labels
        self.device = torch.device(device)
        self._longer_side = bundle.longer_side
        self._model = bundle.model.to(self.device).eval()
        self._mean, self._std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (bundle.mean, bundle.std))
        self._flip, self._scales = flip, tuple(scales)
        self._sliding_window = sliding_window

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W), RGB -> float32 probabilities (B, C, H, W), each pixel's sum 1."""
        return torch.stack([torch.cat(list(bands), dim=1) for bands in self._bands(images.to(self.device))])

    @torch.inference_mode()
    def batch_masks(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> list[np.ndarray]:
        """uint8 images (B, 3, H, W) -> B masks of train ids, each of its own (height, width) in ``sizes``; None: all H x W."""
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        masks = []
        for bands, size in zip(self._bands(images.to(self.device)), sizes, strict=True):
            writer = MaskWriter(images.shape[-2], size, self.labels.dtype)
            for band in bands:
                writer.write(band)
            masks.append(writer.mask)
        return masks

    def masks(self, images: np.ndarray | Sequence[np.ndarray], batch_size: int = 8) -> list[np.ndarray]:
        """RGB images as they come -> masks (H, W) of train ids, uint8 (int16 above 255 classes), each of its image's size.

        Images are resized to the size that the model was trained at (``Bundle.longer_side``); neighbours of one size are predicted together.

        Args:
            images: uint8, an array (N, H, W, 3) or a sequence of arrays (H, W, 3) of any sizes.
            batch_size: images predicted at once.

        Raises:
            InputError: an image of another shape or type.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(f"image is {image.dtype} of shape {image.shape}, expected uint8 (height, width, 3): convert it to 8-bit RGB")
        masks: list[np.ndarray] = []
        for size, same in groupby(images, key=lambda image: (image.shape[0], image.shape[1])):
            group = list(same)
            for first in range(0, len(group), batch_size):
                batch = np.stack([self._resize(image) for image in group[first : first + batch_size]])
                masks += self.batch_masks(torch.from_numpy(batch).permute(0, 3, 1, 2), [size] * len(batch))
        return masks

    def _bands(self, images: Tensor) -> Iterator[Iterator[Tensor]]:
        """Per image its probabilities as bands (C, rows, W) from the top down: one band, or many with a sliding window."""
        if self._sliding_window is None:
            yield from (iter([probabilities]) for probabilities in self._predict(images))
        else:
            yield from (predict_bands(self._predict, image, self._sliding_window) for image in images)

    def _predict(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) on the device -> probabilities (B, C, h, w)."""
        return average_predictions(self._network, (images.float() - self._mean) / self._std, flip=self._flip, scales=self._scales)

    def _network(self, images: Tensor) -> Tensor:
        return self._model(images).logits.float().softmax(dim=1)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        """The image at the size of the training data, resized as they were: by area averaging to shrink, bilinearly to grow."""
        longer_side = max(image.shape[:2])
        if self._longer_side in (None, longer_side):
            return image
        factor = self._longer_side / longer_side
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
