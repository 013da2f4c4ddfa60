"""The same few validation images over a training, truth beside prediction, as pictures that MLflow shows by epoch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from segmodels.annotations import Annotation
    from segmodels.data.batches import EvaluationBatch
    from segmodels.tasks.base import Task

IMAGES = 8
TIMES = 20
"""How often in a training the pictures are made, at most."""

MOST_BYTES, LONGEST_SIDE = 100_000, 1024
"""Largest size of a picture, in bytes, and its longest side, in pixels."""


class ValidationPictures:
    """Chooses images by the hash of their ids, so that every training on a dataset shows the same, and draws them when
    they are due. Of several processes only the first draws, from its own share of the images.

    Args:
        task: of the training.
        folder: where pictures wait until MLflow has them, ``EPOCH/KEY.png``.
        epochs, validate_every: of the training.
    """

    def __init__(self, task: Task, folder: Path, epochs: int, validate_every: int) -> None:
        self.task = task
        self.folder = folder
        self.epochs = epochs
        self.validate_every = validate_every
        self._drawn: dict[str, tuple[str, np.ndarray]] = {}  # hash -> id and picture, of a validation so far

    def due(self, epoch: int) -> bool:
        """Whether the validation after ``epoch`` (from 0) has pictures: all of 20, or evenly spread."""
        now, before = (max(done, 0) * TIMES // self.epochs for done in (epoch + 1, epoch + 1 - self.validate_every))
        return self.epochs <= TIMES or now != before

    def see(self, epoch: int, batch: EvaluationBatch, results: Sequence[Any]) -> None:
        """Draw those of a batch's results that are among the chosen so far."""
        if not self.due(epoch):
            return
        for index, (name, result) in enumerate(zip(batch.ids, results, strict=True)):
            place = hashlib.sha256(name.encode()).hexdigest()
            if len(self._drawn) >= IMAGES:
                if place > (last := max(self._drawn)):
                    continue
                del self._drawn[last]
            image = np.moveaxis(batch.images[index].numpy(), 0, -1)
            self._drawn[place] = name, self._draw(image, batch.annotations[index], result)

    def write(self, epoch: int) -> list[Path]:
        """Write what the validation after ``epoch`` has drawn; the files, in the order of their hashes."""
        drawn, self._drawn = sorted(self._drawn.items()), {}
        paths = []
        for _, (name, picture) in drawn:
            path = self.folder / str(epoch) / f"{_key(name).replace('/', '~')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encoded(picture))
            paths.append(path)
        return paths

    def _draw(self, image: np.ndarray, annotation: Annotation, result: Any) -> np.ndarray:
        """Truth and result side by side; of a volume the same slice of both."""
        from segmodels.data.preview import as_rgb

        pictures = self.task.compare(as_rgb(image), annotation, result, "").pictures
        return np.hstack([pictures["truth"], pictures["prediction"]])


def waiting(folder: Path) -> Iterator[Path]:
    """Pictures of earlier processes that MLflow does not have yet."""
    yield from sorted(folder.glob("*/*.png"), key=lambda path: (int(path.parent.name), path.name))


def key_and_step(path: Path) -> tuple[str, int]:
    """The key and the step (epoch) of a picture in MLflow."""
    return path.stem.replace("~", "/"), int(path.parent.name)


def _key(name: str) -> str:
    """An id in the characters that MLflow takes; it is shown above the picture, truth on the left."""
    return "validation/" + re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", name)[-60:].strip("./ ")


def _encoded(picture: np.ndarray) -> bytes:
    """PNG of an RGB picture, made smaller until it has at most 100 kB."""
    import cv2

    scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
    while True:
        size = tuple(max(1, round(scale * side)) for side in picture.shape[1::-1])
        small = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
        if len(data) <= MOST_BYTES:
            return data
        scale *= 0.8
