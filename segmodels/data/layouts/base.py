"""What a dataset layout on disk is. Adding one is a single file in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.errors import InputError
from segmodels.labels import LabelMap


@dataclass(frozen=True)
class Sample:
    """One image with its mask. Paths are relative to the layout's root.

    ``split`` is ``train``, ``val``, ``test`` or None when the dataset ships no splits. Samples of one ``group``
    (a patient, a video, a source drawing) never go to different splits. ``image_label`` is the class of the whole image
    (a diagnosis), counted from 0, for models that tell it beside the segmentation; None where the dataset has none.
    """

    id: str
    split: str | None
    image: str
    mask: str | None
    group: str
    image_label: int | None = None


class Layout(ABC):
    """One dataset organisation, as its authors publish it. Never writes.

    Subclasses set ``name`` and are found by it: ``open_layout("camvid", root)``. ``labelled`` is False where no sample
        has a mask.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"dataset folder {self.root} is not there (layout {self.name!r}): check the path")

    @property
    @abstractmethod
    def labels(self) -> LabelMap:
        """Classes, palette, and source id -> train id."""

    @abstractmethod
    def samples(self) -> Iterable[Sample]:
        """All samples, in a stable order."""

    @abstractmethod
    def read_image(self, sample: Sample) -> np.ndarray:
        """RGB uint8 ``(H, W, 3)``."""

    @abstractmethod
    def read_source_mask(self, sample: Sample) -> np.ndarray:
        """The dataset's own label ids, integer ``(H, W)``, before the label map."""

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(H, W, 3)`` uint8 RGB and mask ``(H, W)`` in train ids.

        Raises:
            InputError: file missing or broken, sizes differ, unknown label; names the file.
        """
        image, mask = self.read_image(sample), self.read_source_mask(sample)
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"{sample.mask} is {mask.shape[1]}x{mask.shape[0]} but its image {sample.image} is"
                f" {image.shape[1]}x{image.shape[0]}, expected the same size"
            )
        try:
            return image, self.labels.encode(mask)
        except InputError as error:
            raise InputError(f"{sample.mask}: {error}") from None


def _layouts() -> dict[str, type[Layout]]:
    package = importlib.import_module("segmodels.data.layouts")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segmodels.data.layouts.{module.name}")
    found: dict[str, type[Layout]] = {}
    pending = list(Layout.__subclasses__())
    while pending:
        layout = pending.pop()
        pending.extend(layout.__subclasses__())
        if "name" in vars(layout):
            found[layout.name] = layout
    return found


def list_layouts() -> list[str]:
    """Names of all known layouts, sorted."""
    return sorted(_layouts())


def open_layout(name: str, root: str | Path) -> Layout:
    """The layout of that name over ``root``.

    Raises:
        InputError: unknown layout, or ``root`` is not a folder or lacks what the layout needs.
    """
    known = _layouts()
    if name not in known:
        raise InputError(f"unknown layout {name!r}: choose one of {', '.join(sorted(known))}")
    return known[name](root)
