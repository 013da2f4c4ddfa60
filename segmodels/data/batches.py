"""Batches of the loaders: batches to train on, and batches to measure."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from segmodels.annotations import Annotation


class Batch(NamedTuple):
    """To train on. Tensors only, a pytree."""

    images: Tensor  # (B, C, *spatial) raw, in the units and the type of the shards
    targets: Any  # what ``Task.targets`` makes of the annotations
    ids: Tensor  # (B,) int64, numbers of the samples in their split; always in main memory


class EvaluationBatch(NamedTuple):
    """To measure: annotations at their own resolution stay in main memory."""

    images: Tensor  # (B, C, *spatial) raw
    annotations: list[Annotation]
    ids: list[str]
    indices: list[int]  # of the samples in the reader
