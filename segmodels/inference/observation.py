"""Confidence and deepest features of a network for an image, beside its result.

The numbers are those of one pass over the whole image, reduced to at most 2^18 pixels: with windows, scales and mirror
images they are the same as without. If the prediction itself is such a pass, it is observed; otherwise one more is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.data.shards import ShardReader
from segmodels.encoders.base import Encoder
from segmodels.inference.predictor import Predictor
from segmodels.inference.reference import MOST_IMAGES, Observation, Reference, reference_of
from segmodels.prompts import Prompt
from segmodels.tasks.base import Result, Size

MOST_PIXELS = 2**18
"""Largest number of pixels of an observed image. Larger ones are reduced."""

PLACES = 8
"""Parts of the training set that images are taken from, if its shards are read by windows."""


class Observer:
    """Predicts as ``predictor`` does, and observes its network for each image.

    Args:
        predictor: of the model.
        layer: name of the module whose output is the deepest feature map (``deepest_layer``); None: no features.
    """

    def __init__(self, predictor: Predictor, layer: str | None) -> None:
        self._predictor, self._layer = predictor, layer
        self._batches: list[_Network] = []

    def batch(
        self,
        images: Tensor,
        sizes: Sequence[Size] | None = None,
        prompts: Sequence[Sequence[Prompt]] | None = None,
    ) -> list[Result]:
        """As ``Predictor.batch``."""
        self._batches.append(network := _Network(self._predictor, self._layer, images))
        return self._predictor.batch(images, sizes, prompts, network)

    def look(self, images: Tensor) -> None:
        """Observe images (B, C, *spatial) without a prediction."""
        self._batches.append(_Network(self._predictor, self._layer, images))

    @torch.inference_mode()
    def observations(self) -> list[Observation]:
        """Observations of all images so far, in their order, which are then forgotten."""
        batches, self._batches = self._batches, []
        return [one for network in batches for one in network.observations()]


@dataclass
class _Network:
    """The network of a predictor, for one batch of images (B, C, *spatial)."""

    predictor: Predictor
    layer: str | None
    images: Tensor
    seen: tuple[Tensor | None, Tensor | None] | None = None  # confidence (B,) and features (B, C)

    def __call__(self, images: Tensor, **guide: Any) -> Any:
        if self.seen is not None or images.shape != self.images.shape or _pixels(images) > MOST_PIXELS:
            return self.predictor.network(images, **guide)
        return self._look(images, **guide)

    def observations(self) -> list[Observation]:
        images = self.images.to(self.predictor.device).float()
        if self.seen is None:
            self._look(_reduced(images))
        assert self.seen is not None
        confidence, features = (None if one is None else one.cpu().numpy() for one in self.seen)
        return [
            Observation(
                brightness,
                None if confidence is None else float(confidence[number]),
                None if features is None else features[number],
            )
            for number, brightness in enumerate(images.flatten(1).mean(dim=1).tolist())
        ]

    def _look(self, images: Tensor, **guide: Any) -> Any:
        if self.layer is None:
            output, maps = self.predictor.network(images, **guide), None
        else:
            output, maps = with_maps(self.predictor, self.layer, images, **guide)
        says = getattr(output, "confidence", None)  # the answer of a promptable model has none
        features = None if maps is None else maps.float().flatten(2).mean(dim=2)
        self.seen = (None if says is None else says().float()), features
        return output


def deepest_layer(predictor: Predictor, images: Tensor) -> str:
    """Name of the module whose output is the deepest feature map.

    Models that call one of our encoders: the encoder, whose last map it is. Others: of the maps of more than one pixel
    that modules put out, the smallest, and of several of that size the last, such as the bottom of a U-Net.

    Args:
        images: (B, C, *spatial) on the device, of a size that the model takes.
    """
    modules = dict(predictor.model.named_modules())
    encoders: list[str] = []
    found: list[tuple[int, str]] = []

    def note(name: str, output: Any) -> None:
        if isinstance(modules[name], Encoder):
            encoders.append(name)
        if isinstance(output, Tensor) and output.dim() == images.dim() and len(output) == len(images):
            found.append((_pixels(output), name))

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        with torch.inference_mode():
            predictor.network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if encoders:
        return encoders[-1]  # the outermost ends last
    smallest = min((pixels for pixels, _ in found if pixels > 1), default=1)
    return [name for pixels, name in found if pixels == smallest][-1]


@torch.inference_mode()
def make_reference(
    predictor: Predictor, reader: ShardReader, watch: Callable[[list[list[int]]], Iterable[list[int]]] = iter
) -> Reference:
    """The reference statistics of at most 256 images of ``reader``, fewer if they are large; the same every time.

    Args:
        watch: passes on the batches one by one and may show how far they are.
    """
    layer = ""
    observations: list[Observation] = []
    shares: list[dict[str, float]] = []
    for numbers in watch(_batches(reader, _chosen(reader))):
        batch = np.stack([reader.image(number) for number in numbers])
        images = torch.from_numpy(np.moveaxis(batch, -1, 1)).to(predictor.device)
        layer = layer or deepest_layer(predictor, _reduced(images[:1].float()))
        observer = Observer(predictor, layer)
        if predictor.task.takes_prompts:  # there is nothing to answer
            observer.look(images)
            shares += [{} for _ in images]
        else:
            shares += [shares_of(predictor, result) for result in observer.batch(images)]
        observations += observer.observations()
    return reference_of(observations, shares, layer)


def shares_of(predictor: Predictor, result: Result) -> dict[str, float]:
    """Class -> share of the image; empty for models that take prompts, which know no classes."""
    if predictor.task.takes_prompts:
        return {}
    return dict(zip(predictor.labels.classes, result.shares(predictor.labels).tolist(), strict=True))


def with_maps(predictor: Predictor, layer: str, images: Tensor, **guide: Any) -> tuple[Any, Tensor]:
    """The output of the network, and the (last) map (B, C, *spatial) that the module ``layer`` put out meanwhile."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        maps.append(output if isinstance(output, Tensor) else output[-1])

    hook = predictor.model.get_submodule(layer).register_forward_hook(keep)
    try:
        return predictor.network(images, **guide), maps[-1]
    finally:
        hook.remove()


def _chosen(reader: ShardReader) -> list[int]:
    """Numbers of samples, evenly spaced: at most 256 and about 2^26 pixels in all, but at least 64 samples."""
    pixels = float(reader.sizes.prod(axis=1).mean())
    most = min(MOST_IMAGES, max(MOST_IMAGES // 4, int(MOST_IMAGES * MOST_PIXELS / pixels)))
    starts = np.linspace(0, len(reader) - 1, PLACES).round().astype(int)
    places = list(dict.fromkeys(reader.at_hand(int(start)) for start in starts))  # one unless they are read by windows
    own = max(most // len(places), 1)
    chosen = (np.linspace(one.start, one.stop - 1, min(own, len(one))).round().astype(int) for one in places)
    return [int(number) for numbers in chosen for number in numbers]


def _batches(reader: ShardReader, numbers: Sequence[int]) -> list[list[int]]:
    """Neighbours of one size, together at most ``MOST_PIXELS`` or one image."""
    batches: list[list[int]] = []
    for number in numbers:
        size = reader.sizes[number]
        most = max(MOST_PIXELS // math.prod(size.tolist()), 1)
        if batches and len(batches[-1]) < most and (reader.sizes[batches[-1][0]] == size).all():
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _reduced(images: Tensor) -> Tensor:
    """Float images (B, C, *spatial), with areas averaged where they have more than ``MOST_PIXELS`` pixels."""
    if (pixels := _pixels(images)) <= MOST_PIXELS:
        return images
    factor = (MOST_PIXELS / pixels) ** (1 / (images.dim() - 2))
    size = tuple(max(int(length * factor), 1) for length in images.shape[2:])
    return functional.interpolate(images, size, mode="area")


def _pixels(images: Tensor) -> int:
    return math.prod(images.shape[2:])
