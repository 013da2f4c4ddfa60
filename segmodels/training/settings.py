"""Settings of a training: section ``train`` of params.yaml, and what a library user gives the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segmodels.checks import (
    HIGHEST_SEED,
    MOST_WORKERS,
    check,
    each,
    number,
    one_of,
    optional,
    or_word,
    whole_number,
)
from segmodels.data.augment import Augment
from segmodels.errors import InputError

ClassWeights = Literal["none", "inverse_frequency", "complement", "median_frequency"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["polynomial", "cosine", "one_cycle", "constant"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Accelerator = Literal["auto", "cpu", "gpu"]

MOST = 1_000_000
"""Largest number of epochs, images in a batch or minutes, and largest weight of a loss."""
HIGHEST_LR = 1000.0


@dataclass(frozen=True)
class EarlyStopping:
    """When training stops because it no longer improves.

    Attributes:
        patience: validations without a better score after which training stops.
        min_delta: smallest difference of the score that counts as better.
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        check(self, patience=whole_number(1, MOST), min_delta=number(0, MOST))


@dataclass(frozen=True)
class DeepSupervision:
    """Weights of the auxiliary heads' losses. Auxiliary heads exist during training only.

    Attributes:
        weights: weight of each auxiliary head's loss, in the model's order; further heads take the last weight. None:
            the weights of the model's paper.
        decay: the weights fall linearly to 0 until the end of training.
    """

    weights: tuple[float, ...] | None = None
    decay: bool = False

    def __post_init__(self) -> None:
        check(self, weights=optional(each(number(0, MOST))))


@dataclass(frozen=True)
class SelfCorrectionSettings:
    """Correction of noisy labels during training (SCHP, Li 2019, 1910.09777). The learning rate follows the cycles, not
    ``schedule``.

    Attributes:
        start_epoch: epochs before the first average of weights; two thirds of all epochs in the paper.
        cycle_epochs: epochs of each cycle after the first average; 10 in the paper.
    """

    start_epoch: int
    cycle_epochs: int

    def __post_init__(self) -> None:
        check(self, start_epoch=whole_number(1, MOST), cycle_epochs=whole_number(1, MOST))


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, and how.

    Attributes:
        model: name of the model; docs/models.md lists them.
        task: what is predicted: semantic, instance, panoptic or promptable. None: the first task of the model that the
            dataset has annotations for.
        options: options of the model, such as encoder, encoder_weights or widths.
        loss: name -> weight, or name -> {weight: ..., option: ...}; docs/losses.md lists them. Terms that the model's
            paper adds (presence for encnet) are included automatically. None: the losses of the model's paper.
        deep_supervision: weights of the auxiliary heads' losses.
        self_correction: correction of noisy labels during training. None: off.
        class_weights: weights of the classes in losses that take them, from the pixel counts of the train split.
        epochs: passes over the train split.
        minutes: training stops after this many minutes, or after the last epoch if that comes first; the schedule
            follows whichever is nearer its end. None: epochs decide.
        batch_size: images per batch and process. A batch of validation, of whole images, has no more pixels than one of
            training.
        accumulate: batches per optimiser step.
        gradient_clip: largest norm of the gradient. 0: off.
        optimizer: optimiser.
        lr: peak learning rate, above 0.
        momentum: momentum of sgd, from 0 to below 1.
        weight_decay: weight decay; biases and normalisation layers are exempt.
        schedule: shape of the learning rate over training.
        warmup: share of all steps over which the learning rate rises linearly, from 0 to below 1. The first step has a
            thousandth of lr, which in a training of one step is all; 0 starts at lr. one_cycle has its own.
        power: exponent of the polynomial schedule, above 0.
        augment: random changes of the training images.
        precision: precision of the forward pass (automatic mixed precision). auto: bfloat16 where the hardware supports
            it, else float32.
        accelerator: device of the training. auto: the GPU if there is one.
        channels_last: keep images and weights in channels-last memory, which is faster for most convolutions.
        compile: compile the model with torch.compile.
        deterministic: use deterministic algorithms, so that the same parameters give the same weights. On a GPU they
            are slower, and a warning names the operations that have none. auto: on the CPU alone.
        ema: decay of the exponential moving average of the weights, between 0 and 1; the average is validated and kept
            in place of the weights. None: off.
        early_stopping: stop when the score no longer improves. None: off.
        validate_every: epochs between validations.
        save_minutes: minutes between two saves of the training's state; the end and SIGTERM save it, too. 0: save after
            every step.
        workers: loader processes. 0: one thread of the process that trains, which slows a GPU down. auto: 0 on the CPU;
            on a GPU 4, or fewer where the machine has too few cores.
        cache_gigabytes: local disk that copies of shards may take, GB, where ``preprocess.store`` keeps the shards in
            an object store. If the shards of the train split fit, each epoch is one permutation of its samples; else
            shards are shuffled, and then the samples of each 4 shards.
        seed: seed of all random draws.
    """

    model: str = "unet"
    task: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, float | dict[str, Any]] | None = None
    deep_supervision: DeepSupervision = field(default_factory=DeepSupervision)
    self_correction: SelfCorrectionSettings | None = None
    class_weights: ClassWeights = "none"
    epochs: int = 20
    minutes: float | None = None
    batch_size: int = 16
    accumulate: int = 1
    gradient_clip: float = 0.0
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "polynomial"
    warmup: float = 0.05
    power: float = 0.9
    augment: Augment = field(default_factory=Augment)
    precision: Precision = "auto"
    accelerator: Accelerator = "auto"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool | Literal["auto"] = "auto"
    ema: float | None = None
    early_stopping: EarlyStopping | None = None
    validate_every: int = 1
    save_minutes: float = 10.0
    workers: int | Literal["auto"] = "auto"
    cache_gigabytes: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "accumulate", "validate_every")
        check(
            self,
            **{name: whole_number(1, MOST) for name in counts},
            class_weights=one_of(ClassWeights),
            minutes=optional(number(above=0, high=MOST)),
            save_minutes=number(0, MOST),
            gradient_clip=number(0, MOST),
            optimizer=one_of(Optimizer),
            lr=number(above=0, high=HIGHEST_LR),
            momentum=number(0, below=1),
            weight_decay=number(0, HIGHEST_LR),
            schedule=one_of(Schedule),
            warmup=number(0, below=1),
            power=number(above=0, high=100),
            precision=one_of(Precision),
            accelerator=one_of(Accelerator),
            ema=optional(number(above=0, below=1)),
            workers=or_word("auto", whole_number(0, MOST_WORKERS)),
            cache_gigabytes=number(above=0, high=MOST),
            seed=whole_number(0, HIGHEST_SEED),
        )
        if self.loss is not None and not self.loss:
            raise InputError("loss is empty, expected at least one term, for example {cross_entropy: 1.0}")
        if self.precision == "float16" and self.accelerator == "cpu":
            raise InputError("precision float16 needs a GPU, choose bfloat16 on accelerator cpu")
        if self.self_correction:
            self._check_self_correction(self.self_correction)

    def _check_self_correction(self, cycles: SelfCorrectionSettings) -> None:
        if self.epochs < cycles.start_epoch or (self.epochs - cycles.start_epoch) % cycles.cycle_epochs:
            raise InputError(
                f"epochs is {self.epochs}, expected start_epoch of self_correction ({cycles.start_epoch}) and whole"
                f" cycles of {cycles.cycle_epochs}"
            )
        if self.warmup * self.epochs >= cycles.start_epoch:
            raise InputError(
                f"warmup takes {self.warmup * self.epochs:g} epochs, expected it to end before start_epoch of"
                f" self_correction ({cycles.start_epoch})"
            )
        if self.loss is not None and "cross_entropy" not in self.loss:
            raise InputError(
                "self_correction gives the term cross_entropy corrected labels, expected it in loss: add it"
            )
        unfit = {
            "minutes": self.minutes,
            "ema": self.ema,
            "class_weights": None if self.class_weights == "none" else self.class_weights,
        }
        for name, value in unfit.items():
            if value is not None:
                raise InputError(
                    f"{name} is {value} but self_correction counts epochs and has its own average and labels: leave out"
                    " one of the two"
                )
