"""Settings and state of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segmodels.checks import check, number, optional, whole_number


@dataclass
class Progress:
    """How far a training has come: its state beyond the tensors of the model and the optimiser."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps that are done
    seconds: float = 0.0  # spent in training and validation, over all resumptions
    epoch_seconds: float = 0.0  # of this epoch's training
    best_score: float = -1.0
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)  # of the best validation; while none is, of the last
    best_settings: dict[str, Any] = field(default_factory=dict)  # of the task, with what the best validation decided
    stale: int = 0  # validations since the best one
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's losses, weighted by images


@dataclass(frozen=True)
class FitSettings:
    """How long a training runs, how often it validates and saves.

    Attributes:
        epochs: passes over the training set.
        accumulate: batches per optimiser step.
        gradient_clip: largest norm of the gradient; 0 switches clipping off.
        minutes: training stops after this many minutes, or after ``epochs``; the schedule follows what ends first.
            None: ``epochs`` alone.
        validate_every: epochs between validations.
        patience: validations without a better score after which training stops; None: never.
        min_delta: a score counts as better when it is more than this much higher.
        save_minutes: between two saves of the state; 0 saves after every optimiser step.
    """

    epochs: int
    accumulate: int = 1
    gradient_clip: float = 0.0
    minutes: float | None = None
    validate_every: int = 1
    patience: int | None = None
    min_delta: float = 0.0
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        counts = ("epochs", "accumulate", "validate_every")
        check(
            self,
            **{name: whole_number(1) for name in counts},
            patience=optional(whole_number(1)),
            minutes=optional(number(above=0)),
            gradient_clip=number(0),
            save_minutes=number(0),
        )
