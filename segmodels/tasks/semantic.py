"""A class for every pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from segmodels.annotations import Annotation
from segmodels.checks import check, each, number
from segmodels.data.image_form import RGB, ImageForm
from segmodels.data.preview import flat
from segmodels.errors import InputError
from segmodels.inference.class_rows import class_rows
from segmodels.inference.crf import DenseCRF, mean_field
from segmodels.inference.sliding_window import image_rows, predict_bands, require_whole
from segmodels.inference.views import average_predictions
from segmodels.labels import LabelMap
from segmodels.outputs import PixelOutput
from segmodels.results import ClassMap
from segmodels.tasks.base import Size, Task, TensorSpec
from segmodels.tasks.registry import register_task
from segmodels.tasks.semantic_evaluator import SemanticEvaluator
from segmodels.tasks.targets import SemanticTargets
from segmodels.windows import SlidingWindow

if TYPE_CHECKING:
    from segmodels.plots import Comparison

Network = Callable[[Tensor], Any]  # raw images (B, C, *spatial) -> the model's output


@dataclass(frozen=True)
class SemanticSettings:
    """How class maps are predicted.

    Attributes:
        flip: average the probabilities with those of the mirrored image; within each window, if there are windows.
        scales: scales of the image, or of each window, to average over.
        sliding_window: predict overlapping windows and average them. None: whole images.
        crf: refine the averaged probabilities by the image with a dense CRF, at the size that the model sees; on the
            CPU, an image per core at a time. {} takes the defaults. None: no refinement.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    sliding_window: SlidingWindow | None = None
    crf: DenseCRF | None = None

    def __post_init__(self) -> None:
        check(self, scales=each(number(above=0, high=16)))
        if self.sliding_window is not None and self.crf is not None:
            raise InputError(
                "crf and sliding_window are both given, expected one: the dense CRF connects all pixels of an image,"
                " leave the window out"
            )


@register_task
class SemanticTask(Task[SemanticTargets, ClassMap]):
    """Semantic segmentation."""

    name: ClassVar[str] = "semantic"
    headline: ClassVar[Mapping[str, str]] = {
        "mean_iou": "MIoU",
        "frequency_weighted_iou": "FWIoU",
        "pixel_accuracy": "pixel accuracy",
        "mean_pixel_accuracy": "mean pixel accuracy",
    }
    short: ClassVar[Mapping[str, str]] = {"mean_iou": "miou", "frequency_weighted_iou": "fwiou"}
    answer: ClassVar[str] = "one class id per pixel"
    reads_objects: ClassVar[bool] = False
    class_score: ClassVar[str] = "iou"
    Settings: ClassVar[type] = SemanticSettings
    settings: SemanticSettings

    @classmethod
    def supports(cls, labels: LabelMap, objects: bool) -> bool:
        return True

    @classmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        return {"num_classes": labels.num_classes}

    def check_images(self, form: ImageForm) -> None:
        super().check_images(form)
        if self.settings.crf is not None and form != RGB:
            raise InputError(f"crf is given for {form}, expected {RGB}: leave out crf")

    def targets(self, annotations: Sequence[Annotation]) -> SemanticTargets:
        image_labels = [annotation.image_label for annotation in annotations]
        return SemanticTargets(
            torch.from_numpy(np.stack([annotation.classes for annotation in annotations])),
            None if None in image_labels else torch.tensor(image_labels, dtype=torch.int64),
            {
                name: torch.from_numpy(np.stack([annotation.further[name] for annotation in annotations]))
                for name in annotations[0].further
            },
        )

    def read(self, output: Any, sizes: Sequence[Size]) -> list[ClassMap]:
        # the class of the highest logit where that is all that is asked: a softmax may round two logits to one value
        scores = output.logits if isinstance(output, PixelOutput) else output.probabilities()
        if all(tuple(size) == scores.shape[2:] for size in sizes):
            return [ClassMap(classes) for classes in scores.argmax(dim=1).to(self._dtype)]
        probabilities = output.probabilities()
        seen = probabilities.shape[2:]
        return [self._class_map(iter([own]), size, seen) for own, size in zip(probabilities, sizes, strict=True)]

    def predict(
        self,
        network: Network,
        images: Tensor,
        sizes: Sequence[Size],
        guides: Any = None,
    ) -> list[ClassMap]:
        bands = self._bands(network, images)
        return [self._class_map(own, size, images.shape[2:]) for own, size in zip(bands, sizes, strict=True)]

    def probabilities(self, network: Network, images: Tensor) -> Tensor:
        """``(B, C, *spatial)`` float32, each pixel's sum 1, as ``settings`` say, at the size of ``images``."""
        return torch.stack([torch.cat(list(bands), dim=1) for bands in self._bands(network, images)])

    def predict_rows(
        self, network: Network, read: Callable[[int, int], Tensor], seen: tuple[int, int], size: tuple[int, int]
    ) -> Iterator[NDArray]:
        """The class map of an image that may be larger than memory, as rows (n, width) from the top down.

        With a sliding window, memory holds one strip of the image, as high as the window, and its C x height x width
        probabilities.

        Args:
            read: rows ``start`` .. ``stop - 1`` of the image on the device, (C, rows, width); each row is asked
                for once, from the top down.
            seen: (height, width) at which the model sees the image.
            size: (height, width) of the class map.

        Raises:
            InputError: more than ``large_images.LARGE`` pixels for the model to see, and no sliding window.
        """
        window = self.settings.sliding_window
        if window is None:
            require_whole(seen, size)
            (bands,) = self._bands(network, read(0, seen[0])[None])
        else:
            bands = predict_bands(partial(self._averaged, network), read, seen, window)
        for rows in class_rows(bands, seen[0], size, self._dtype):
            yield rows.to("cpu").numpy()

    def evaluator(self) -> SemanticEvaluator:
        return SemanticEvaluator(self.labels)

    def truth(self, annotation: Annotation) -> ClassMap:
        return ClassMap(annotation.classes)

    def compare(self, image: NDArray, annotation: Annotation, result: ClassMap, caption: str) -> Comparison:
        from segmodels import plots

        maps = annotation.classes, result.classes
        image, truth, prediction = flat(image, *maps, ignore_index=self.labels.ignore_index)
        return plots.class_maps(image, truth, prediction, self.labels, caption)

    def tensor_specs(self, spatial_dims: int) -> tuple[TensorSpec, ...]:
        return (TensorSpec("masks", self.labels.dtype.name.upper(), (-1,) * (1 + spatial_dims)),)

    def tensors(self, results: Sequence[ClassMap]) -> dict[str, NDArray]:
        sizes = {result.classes.shape for result in results}
        if len(sizes) > 1:
            raise InputError(f"images have the sizes {sorted(sizes)}, expected one size for one tensor of masks")
        return {"masks": np.stack([result.classes for result in results])}

    @property
    def _dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.labels.dtype)).dtype

    def _class_map(self, bands: Iterator[Tensor], size: Size, seen: Size) -> ClassMap:
        """The class map of probabilities (C, rows, ...), from the first to the last row, together of size ``seen``."""
        if len(size) == 2:
            return ClassMap(torch.cat(list(class_rows(bands, seen[0], (size[0], size[1]), self._dtype))))
        probabilities = torch.cat(list(bands), dim=1)
        if probabilities.shape[1:] != size:
            probabilities = functional.interpolate(probabilities[None], tuple(size), mode="trilinear")[0]
        return ClassMap(probabilities.max(dim=0).indices.to(self._dtype))

    def _bands(self, network: Network, images: Tensor) -> Iterator[Iterator[Tensor]]:
        """Per image its probabilities as bands (C, rows, W) from the top down: one band, or many with a sliding
        window.
        """
        window, crf = self.settings.sliding_window, self.settings.crf
        predict = partial(self._averaged, network)
        if window is not None:
            size = tuple(images.shape[2:])
            yield from (predict_bands(predict, partial(image_rows, image), size, window) for image in images)
            return
        probabilities = predict(images)
        yield from (iter([own]) for own in (_refined(probabilities, images, crf) if crf else probabilities))

    def _averaged(self, network: Network, images: Tensor) -> Tensor:
        """Probabilities (B, C, *spatial) over all views."""

        def probabilities(view: Tensor) -> Tensor:
            result: Tensor = network(view).probabilities()
            return result

        return average_predictions(probabilities, images, flip=self.settings.flip, scales=self.settings.scales)


def _refined(probabilities: Tensor, images: Tensor, crf: DenseCRF) -> list[Tensor]:
    """The dense CRF of each image."""
    with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
        refined = pool.map(
            partial(mean_field, crf=crf), probabilities.cpu().numpy(), images.permute(0, 2, 3, 1).cpu().numpy()
        )
        return [torch.from_numpy(one).to(images.device) for one in refined]
