"""The confusion matrix of label maps: one pass over the pixels, C × C numbers to keep, and every score follows from it
(``scores``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError
from segmodels.files import parse_json
from segmodels.metrics import ratios, scores
from segmodels.metrics.counting import count_pairs

if TYPE_CHECKING:
    from rich.table import Table

    from segmodels.metrics.counting_device import DeviceCounts


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column), accumulated over batches.

    Maps in main memory are counted and checked at once. Maps on a device (torch, CUDA) are counted there without
    waiting for it: labels outside the range then raise when ``counts`` is read.

    Args:
        num_classes: C, at least 2.
        ignore_index: pixels with this target count nowhere, whatever is predicted there. A prediction may not be it
            elsewhere.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 2:
            raise InputError(
                f"confusion matrix of {num_classes} classes, expected at least 2: the background is a class too"
            )
        if 0 <= ignore_index < num_classes:
            raise InputError(
                f"ignore index {ignore_index} is also one of the {num_classes} classes, choose one outside"
                f" 0..{num_classes - 1}, such as -1"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._counts = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._on_devices: dict[Any, DeviceCounts] = {}

    @classmethod
    def from_maps(cls, prediction: Any, target: Any, num_classes: int, ignore_index: int = 255) -> ConfusionMatrix:
        """The matrix of one pair of label maps, as by ``update``."""
        matrix = cls(num_classes, ignore_index)
        matrix.update(prediction, target)
        return matrix

    def update(self, prediction: Any, target: Any) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: label map of any integer type and shape, values in [0, C): numpy or torch.
            target: label map of the same shape, values in [0, C) or ``ignore_index``.

        Raises:
            InputError: not integers, different shapes, or labels outside the range (lists them); then nothing of this
                batch is counted.
        """
        devices = [labels.device for labels in (prediction, target) if on_device(labels)]
        if not devices:
            self._counts += count_pairs(prediction, target, self.num_classes, self.ignore_index)
            return
        if devices[0] not in self._on_devices:
            from segmodels.metrics.counting_device import DeviceCounts

            self._on_devices[devices[0]] = DeviceCounts(self.num_classes, self.ignore_index, devices[0])
        self._on_devices[devices[0]].add(prediction, target)

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 ``(C, C)``, rows = truth, columns = prediction; a copy. Waits for devices with maps still being
        counted.

        Raises:
            InputError: a batch counted on a device held labels outside the range.
        """
        return sum((device.read() for device in self._on_devices.values()), start=self._counts.copy())

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of ``other`` to this matrix and return it.

        Raises:
            InputError: different numbers of classes or ignore indices.
        """
        mine, theirs = (self.num_classes, self.ignore_index), (other.num_classes, other.ignore_index)
        if mine != theirs:
            raise InputError(
                f"confusion matrices of (classes, ignore index) {mine} and {theirs} cannot be added, expected the same"
            )
        self._counts += other.counts
        return self

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.num_classes, self.ignore_index).merge(self).merge(other)

    def all_reduce(self, group: Any = None) -> ConfusionMatrix:
        """The sum over the ranks of ``torch.distributed`` (or of its ``group``), the same on each, as a new matrix;
        this one keeps its own counts.

        Without a process group it is a copy.

        Raises:
            InputError: labels outside the range on any rank; on every rank, so that none waits for another.
        """
        import torch
        from torch import distributed

        total = ConfusionMatrix(self.num_classes, self.ignore_index)
        if not (distributed.is_available() and distributed.is_initialized()):
            return total.merge(self)
        mistake = None
        try:
            counts = self.counts
        except InputError as error:
            mistake, counts = error, total.counts
        device = torch.device("cuda" if distributed.get_backend(group) == "nccl" else "cpu")
        message = torch.from_numpy(np.append(counts, mistake is not None)).to(device)
        distributed.all_reduce(message, group=group)
        *_, mistakes = message.tolist()
        if mistakes:
            raise mistake or InputError(
                f"labels outside 0..{self.num_classes - 1} on {mistakes} other rank(s), expected none: see the message"
                " there"
            )
        total._counts += message[:-1].cpu().numpy().reshape(counts.shape)
        return total

    def to_json(self) -> str:
        """JSON text {"num_classes", "ignore_index", "counts": rows of integers}; ``from_json`` is the inverse."""
        return json.dumps(
            {"num_classes": self.num_classes, "ignore_index": self.ignore_index, "counts": self.counts.tolist()}
        )

    @classmethod
    def from_json(cls, text: str | bytes | Mapping[str, Any]) -> ConfusionMatrix:
        """From the text of ``to_json``, or the same already parsed.

        Raises:
            InputError: not such JSON.
        """
        try:
            data = text if isinstance(text, Mapping) else parse_json(text)
            matrix = cls(data["num_classes"], data["ignore_index"])
            counts = ratios.matrix(data["counts"])
        except InputError:
            raise
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"confusion matrix cannot be read ({type(error).__name__}: {error}), expected the JSON text of"
                " ConfusionMatrix.to_json"
            ) from error
        if counts.shape != matrix._counts.shape:
            raise InputError(
                f"confusion matrix of {matrix.num_classes} classes has counts of shape {counts.shape}, expected one row"
                " and column per class"
            )
        matrix._counts += counts
        return matrix

    def table(self, class_names: Sequence[str]) -> Table:
        """Rich table, one row per class with its scores in percent and the class it is most often taken for, means in
        the last row.
        """
        from rich.table import Table

        counts = self.counts
        accuracy, weighted = percent(scores.pixel_accuracy(counts)), percent(scores.frequency_weighted_iou(counts))
        table = Table(
            "class", "most taken for", caption=f"{counts.sum():,} pixels, pixel accuracy {accuracy}, FWIoU {weighted}"
        )
        for name in ("pixels", "IoU", "Dice", "precision", "recall"):
            table.add_column(name, justify="right")
        for i, score in enumerate(scores.per_class(counts, class_names)):
            table.add_row(
                score["class"],
                most_taken_for(counts[i], i, class_names),
                f"{score['pixels']:,}",
                *(percent(score[name]) for name in ("iou", "dice", "precision", "recall")),
            )
        means = (
            scores.mean_iou(counts),
            scores.mean_dice(counts),
            scores.mean_precision(counts),
            scores.mean_recall(counts),
        )
        table.add_section()
        table.add_row("mean", "", "", *map(percent, means))
        return table


def on_device(labels: Any) -> bool:
    """Whether this is a torch tensor outside main memory (numpy arrays have a ``device`` too: the text "cpu")."""
    return getattr(getattr(labels, "device", None), "type", "cpu") != "cpu"


def percent(score: float) -> str:
    """A score of 0..1 in percent, a dash for one that is undefined."""
    return "–" if np.isnan(score) else f"{100 * score:.2f}"


def most_taken_for(row: NDArray, true_class: int, class_names: Sequence[str]) -> str:
    """The other class that most pixels of ``true_class``, counted in ``row``, were predicted as, and their share."""
    wrong = row.copy()
    wrong[true_class] = 0
    return f"{class_names[int(wrong.argmax())]} {percent(wrong.max() / row.sum())}" if wrong.any() else ""
