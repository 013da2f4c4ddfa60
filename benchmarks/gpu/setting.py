"""What is measured on: sizes, models, and scenes of digits as shards."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmodels.annotations import Annotation
from segmodels.data.digits import CLASSES, draw_scene, split_sources
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.labels import LabelMap
from segmodels.training.settings import TrainSettings

LABELS = LabelMap(tuple(CLASSES), tuple(CLASSES.values()), {i: i for i in range(len(CLASSES))})


@dataclass(frozen=True)
class Setting:
    """On a GPU, or small for a rehearsal on the CPU.

    Attributes:
        device: where models run.
        size: height and width of the scenes, pixels.
        scenes: of each split.
        batch: images per step.
        steps: that are timed.
        rehearse: small models, on the CPU.
    """

    device: str = "cuda"
    size: tuple[int, int] = (352, 480)
    scenes: int = 400
    batch: int = 16
    steps: int = 200
    rehearse: bool = False

    @classmethod
    def of(cls, *, rehearse: bool) -> Setting:
        small = cls(device="cpu", size=(64, 96), scenes=16, batch=4, steps=4, rehearse=True)
        return small if rehearse else cls()

    def model(self, name: str) -> dict[str, Any]:
        """``model`` and ``options`` of a training; in a rehearsal of a small U-Net."""
        return {"model": "unet", "options": {"widths": [4, 8]}} if self.rehearse else {"model": name}

    def training(self, name: str, **changes: Any) -> TrainSettings:
        """A training that validates at its end alone."""
        settings = TrainSettings(
            **self.model(name),
            epochs=1000,
            validate_every=1000,
            batch_size=self.batch,
            schedule="constant",
            workers=1 if self.rehearse else "auto",
        )
        return replace(settings, **changes)

    def readers(self) -> tuple[ShardReader, ShardReader]:
        """Scenes to train on and to validate by."""
        folder = _shards(self.size, self.scenes)
        return ShardReader(folder, "train"), ShardReader(folder, "val")

    def synchronize(self) -> None:
        """Wait for the device: kernels are only queued."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@cache
def _shards(size: tuple[int, int], scenes: int) -> Path:
    """Square scenes, cut to ``size``; drawn once per machine."""
    folder = Path(tempfile.gettempdir(), f"segmodels-gpu-{size[0]}x{size[1]}-{scenes}")
    if not folder.exists():
        drawn = Path(tempfile.mkdtemp())
        sources = split_sources(0)
        with ShardWriter(drawn, LABELS, "digits") as writer:
            for number, split in enumerate(("train", "val")):
                for scene in range(scenes if split == "train" else scenes // 4):
                    rng = np.random.default_rng((0, number, scene))
                    image, mask, _ = draw_scene(rng, sources[split], max(size))
                    image, mask = image[: size[0], : size[1]], mask[: size[0], : size[1]]
                    writer.add(split, f"{split}/{scene:05d}", image, Annotation.of_classes(mask))
        drawn.rename(folder)
    return folder
