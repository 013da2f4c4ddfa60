"""From images to results: checks, resizing to the model's training size, batches, normalisation, device. The task turns
the model's output into results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.data import large_images
from segmodels.data.batches import EvaluationBatch
from segmodels.data.decoding import resize_image, scaled_size
from segmodels.data.image_form import ImageForm
from segmodels.errors import InputError
from segmodels.inference.bundle import Bundle
from segmodels.inference.memory import prediction_bytes
from segmodels.machine import free_memory
from segmodels.prompts import Prompt, check_prompt, prompts_of
from segmodels.tasks.base import Result, Size
from segmodels.tasks.registry import create_task


def choose_device(accelerator: str = "auto") -> str:
    """``cpu``, or ``cuda`` where a GPU is there and ``accelerator`` is not cpu.

    Raises:
        InputError: ``accelerator`` is gpu but there is none.
    """
    found = torch.cuda.is_available()
    if accelerator == "gpu" and not found:
        raise InputError(
            "accelerator is 'gpu' but torch sees no GPU: install a CUDA build of torch, or choose cpu or auto"
        )
    return "cuda" if found and accelerator != "cpu" else "cpu"


AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}
LEAST_SIDE = {2: 32, 3: 16}
"""Pixels that networks pad each side of smaller images, or volumes, to: an image costs at least these."""

MANY_PIXELS = 2**22
"""From here on it is worth a moment to find out whether a prediction fits into memory."""


def padded_pixels(size: Size) -> int:
    """Pixels of an image whose sides are at least ``LEAST_SIDE``."""
    return math.prod(max(side, LEAST_SIDE[len(size)]) for side in size)


class Predictor:
    """Predicts with a trained model.

    Args:
        bundle: the model; it is moved to ``device``.
        device: where to predict.
        settings: how the task predicts, as its ``Settings`` or the mapping of their fields; None: as the bundle says.

    Attributes:
        task: what is predicted, with its settings.
        model: the network, which takes normalised images.
        labels: of the classes in the results.
        channels, dtype, spatial_dims: of the images that the model takes.
        neighbours: slices of a volume on each side of an image that are among its channels (2.5-D).

    Raises:
        InputError: settings that the task does not have or refuses, or that do not suit the model's images.
    """

    def __init__(
        self, bundle: Bundle, device: str | torch.device = "cpu", settings: Mapping[str, Any] | Any = None
    ) -> None:
        task = bundle.task
        self.task = task if settings is None else create_task(task.name, task.labels, settings)
        self.task.settings = task.completed(self.task.settings)
        self.labels = self.task.result_labels
        self.device = torch.device(device)
        self.channels, self.dtype = bundle.channels, np.dtype(bundle.dtype)
        self.spatial_dims, self.neighbours = bundle.spatial_dims, bundle.neighbours
        self.task.check_images(ImageForm(self.dtype, self.channels, self.spatial_dims))
        self._longer_side = bundle.longer_side
        self.model = bundle.model.to(self.device).eval()
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(-1, *[1] * bundle.spatial_dims)
            for values in (bundle.mean, bundle.std)
        )

    def network(self, images: Tensor, **guide: Any) -> Any:
        """The model's output for images (B, C, *spatial) on the device, in their own units.

        Raises:
            InputError: large images that need more memory than a CPU's machine has free.
        """
        if len(images) * math.prod(images.shape[2:]) > MANY_PIXELS:
            self.room(images.shape)
        return self.model((images.float() - self._mean) / self._std, **guide)

    def room(self, shape: Sequence[int]) -> float:
        """How many times the least memory for images of this shape, (B, C, *spatial), is free on a CPU's machine.
        Infinite on a GPU, which says so when it runs out of memory, and where it is not known.

        Raises:
            InputError: there is less: the operating system would kill the process.
        """
        if self.device.type != "cpu" or (free := free_memory()) is None:
            return math.inf
        needed = prediction_bytes(self.model, shape)
        if needed > free:
            raise InputError(
                f"the prediction of {' x '.join(map(str, shape[2:]))} pixels needs at least {needed / 1e9:.1f} GB of"
                f" memory, {free / 1e9:.1f} GB are free: give a sliding window (--window 512 of predict,"
                " evaluate.sliding_window in params.yaml), or use a machine with more memory"
            )
        return free / needed if needed else math.inf

    @torch.inference_mode()
    def batch(
        self,
        images: Tensor,
        sizes: Sequence[Size] | None = None,
        prompts: Sequence[Sequence[Prompt]] | None = None,
        network: Callable[..., Any] | None = None,
    ) -> list[Result]:
        """Results of images (B, C, *spatial) that have the model's input size already, each at its own size in
        ``sizes`` (None: the images' size), in whose pixels the prompts are. ``network`` stands for the method.
        """
        sizes = sizes or [tuple(images.shape[2:])] * len(images)
        images = images.to(self.device)
        guides = None if prompts is None else prompts_of(prompts, sizes, images)
        return self.task.predict(network or self.network, images, sizes, guides)

    @torch.inference_mode()
    def measured(self, image: NDArray, annotation: Annotation) -> Result:
        """The result of an image (*spatial, C) of the model's input size, as the task measures it on the annotation."""
        images = torch.from_numpy(np.moveaxis(image, -1, 0)[None]).to(self.device)
        (result,) = self.task.results(self.network, EvaluationBatch(images, [annotation], [""], [0]))
        return result

    def results(
        self,
        images: NDArray | Sequence[NDArray],
        batch_size: int = 8,
        prompts: Sequence[Sequence[Prompt] | None] | None = None,
        batch: Callable[..., list[Result]] | None = None,
    ) -> list[Result]:
        """Results of images of any size, each at its image's size.

        Images are resized to the size that the model was trained at (``Bundle.longer_side``); neighbours of one size
        are predicted together.

        Args:
            images: an array (N, *spatial, C) or a sequence of arrays (*spatial, C) of any sizes, of the type and the
                channels that the model was trained on: ``dtype`` and ``channels``.
            batch_size: images predicted at once.
            prompts: for each image its prompts, in its pixels, or None for everything in it; of promptable models.
            batch: stands for the method ``batch``, as that of an ``Observer`` does.

        Raises:
            InputError: an image of another shape or type, prompts that do not lie in their image, or for a model that
                takes none.
        """
        predict = batch or self.batch
        asked: Sequence[Sequence[Prompt] | None] = [None] * len(images) if prompts is None else prompts
        for image, own in zip(images, asked, strict=True):
            self._check(image)
            self.check_prompts(own, image.shape[:-1])
        results: list[Result] = []
        pairs = zip(images, asked, strict=True)
        for (size, prompted), same in groupby(pairs, key=lambda pair: (pair[0].shape[:-1], pair[1] is not None)):
            group = list(same)
            for first in range(0, len(group), batch_size):
                part = group[first : first + batch_size]
                seen = np.stack([resize_image(image, self._longer_side) for image, _ in part])
                given = [own for _, own in part if own is not None] if prompted else None
                results += predict(torch.from_numpy(np.moveaxis(seen, -1, 1)), [size] * len(seen), given)
        return results

    def check_prompts(self, prompts: Sequence[Prompt] | None, size: Size) -> None:
        """Check the prompts for an image of ``size``.

        Raises:
            InputError: they do not lie in the image, or the model takes none.
        """
        if prompts is None:
            return
        if not self.task.takes_prompts:
            raise InputError(
                f"points or boxes are given, but the model's task, {self.task.name}, takes none: leave them out, or"
                " choose a promptable model"
            )
        for prompt in prompts:
            check_prompt(prompt, size)

    def masks(self, images: NDArray | Sequence[NDArray], batch_size: int = 8) -> list[NDArray]:
        """Class maps as arrays of train ids, of images as in ``results``. The code inside models that version 0.1
        registered calls it.
        """
        results: list[Any] = list(self.results(images, batch_size))
        return [result.classes for result in results]

    def pixels_seen(self, size: Size) -> int:
        """Pixels that the network computes for an image of this size: after resizing to the size that the model was
        trained at, with sides of at least ``LEAST_SIDE``.
        """
        if self._longer_side:
            size = scaled_size((size[0], size[1]), self._longer_side)
        return padded_pixels(size)

    @property
    def volume_channels(self) -> int:
        """Channels of the volumes that the model takes, as they are or slice by slice."""
        return self.channels // (2 * self.neighbours + 1)

    @property
    def gives_rows(self) -> bool:
        """Whether the task gives class maps row by row (``rows``); others give whole results of large images
        (``large``).
        """
        return hasattr(self.task, "predict_rows")

    @torch.inference_mode()
    def rows(self, image: large_images.ImageRows) -> Iterator[NDArray]:
        """The class map of an image that may be larger than memory, as rows (n, width) from the top down; of a task
        that gives rows.

        A model that was trained at a fixed size (``Bundle.longer_side``) sees the image at that size, read row by row
        as well.

        Raises:
            InputError: the image is too large for the model without a sliding window.
        """
        task: Any = self.task
        yield from task.predict_rows(self.network, *self._reader(image), (image.height, image.width))

    @torch.inference_mode()
    def large(self, image: large_images.ImageRows) -> Result:
        """The result of an image that may be larger than memory, read as in ``rows``; of a task that gives no rows.

        Raises:
            InputError: the task takes prompts, or the image is too large for the model without a sliding window.
        """
        if self.task.takes_prompts:
            raise InputError(
                f"image has {image.height} x {image.width} pixels, expected at most {large_images.LARGE / 1e6:.1f}"
                f" million for a model of {self.task.name} segmentation: cut it into parts"
            )
        task: Any = self.task
        result: Result = task.predict_large(self.network, *self._reader(image), (image.height, image.width))
        return result

    def _reader(self, image: large_images.ImageRows) -> tuple[Callable[[int, int], Tensor], tuple[int, int]]:
        """What reads rows ``start`` .. ``stop - 1`` of an image as the model sees it, (C, rows, width) on the device;
        the height and width at which it sees it.
        """
        own = image.height, image.width
        seen = scaled_size(own, self._longer_side)
        whole: list[NDArray] = []

        def read(start: int, stop: int) -> Tensor:
            if seen == own:
                rows = image.read(start, stop)
            else:
                if not whole:
                    shrinks = max(seen) < max(own)
                    whole.append(
                        large_images.shrink(image, *seen)
                        if shrinks
                        else resize_image(image.read(0, own[0]), self._longer_side)
                    )
                rows = whole[0][start:stop]
            return torch.from_numpy(rows).permute(2, 0, 1).to(self.device)

        return read, (seen[0], seen[1])

    def _check(self, image: NDArray) -> None:
        shape, expected = image.shape, (*AXES[self.spatial_dims], self.channels)
        if len(shape) == len(expected) and shape[-1] == self.channels and image.dtype == self.dtype and 0 not in shape:
            return
        rgb = self.dtype == np.uint8 and self.channels == 3
        hint = "convert it to 8-bit RGB" if rgb else "give the model images like those it was trained on"
        raise InputError(
            f"image is {image.dtype} of shape {shape}, expected {self.dtype} ({', '.join(map(str, expected))}): {hint}"
        )
