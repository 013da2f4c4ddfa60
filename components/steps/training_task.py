"""What the train step trains: the model, its losses and its optimiser, as the parameters say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segmodels.errors import InputError
from segmodels.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch

    from segmodels.data.shards import ShardReader
    from segmodels.training.learner import Task

# Losses that read an output of the model's own: they stay beside the pixel loss that the user chooses. Y-Net's
# ``image_label`` is the learner's.
_OWN_OUTPUTS = ("presence", "object_presence", "points")


def create_task(params: TrainSettings, training: ShardReader, validation: ShardReader) -> Task:
    """The model with its losses.

    Raises:
        InputError: a model, loss or option that does not exist, is not for training on masks, or does not fit the data.
    """
    import torch

    from segmodels.losses import create_loss
    from segmodels.models.registry import create_model, model_entry
    from segmodels.models.wnet import WNet
    from segmodels.training.alternating import UnsupervisedTask
    from segmodels.training.class_weights import class_weights
    from segmodels.training.learner import SegmentationTask

    card = model_entry(params.model).card
    if "semantic" not in card.tasks:
        raise InputError(
            f"model {params.model!r} is for the tasks {', '.join(card.tasks)}, expected one for semantic:"
            " `python -m segmodels models` lists them"
        )
    for split in (training, validation):
        _check_image_labels(params, split)
    torch.manual_seed(params.seed)
    statistics, labels = training.statistics, training.labels
    scale: dict[str, Any] = {"mean": statistics.mean, "std": statistics.std}
    if card.learner == "alternating":
        if params.accumulate > 1:
            raise InputError(
                f"train.accumulate is {params.accumulate}, but model {params.model!r} takes two steps on every batch:"
                " set it to 1"
            )
        loss = create_loss(params.loss or dict.fromkeys(UnsupervisedTask.objectives, 1.0))
        model = create_model(params.model, num_classes=labels.num_classes, **params.options)
        assert isinstance(model, WNet)
        return UnsupervisedTask(model, loss, **scale)
    if not any(statistics.class_pixels):
        raise InputError(
            f"no pixel of the train split is labelled, but model {params.model!r} learns from labels: add masks, or set"
            " train.model to wnet"
        )
    weights = (
        class_weights(params.class_weights, statistics.class_pixels, statistics.present_pixels)
        if params.class_weights != "none"
        else None
    )
    terms = {name: weight for name, weight in card.losses.items() if name in _OWN_OUTPUTS}
    wanted = params.loss or {"cross_entropy": 1.0}
    loss = create_loss({**terms, **wanted}, ignore_index=labels.ignore_index, class_weights=weights)
    for name, term in loss.losses.items():
        if term.reads != "logits" and name not in card.losses:
            raise InputError(
                f"loss {name!r} reads the output {term.reads!r}, which model {params.model!r} does not have: choose"
                " another loss, or leave it out"
            )
    return SegmentationTask(
        create_model(params.model, num_classes=labels.num_classes, **params.options),
        loss,
        auxiliary_weights=params.deep_supervision.weights or card.auxiliary_weights,
        auxiliary_decay=params.deep_supervision.decay,
        image_label_weight=params.image_label_weight,
        **scale,
    )


def leaves_weights_without_gradient(params: TrainSettings) -> bool:
    """Whether a step may reach only part of the model, which distributed training must know."""
    from segmodels.models.registry import model_entry

    return 0 in (params.deep_supervision.weights or ()) or model_entry(params.model).card.learner == "alternating"


def image_classes(params: TrainSettings) -> int:
    """Classes of whole images that the model tells apart; 0 for most models."""
    from segmodels.models.registry import model_options

    return params.options.get("image_classes", model_options(params.model).get("image_classes", 0))


def _check_image_labels(params: TrainSettings, reader: ShardReader) -> None:
    if not (classes := image_classes(params)):
        return
    labels = reader.image_labels
    if missing := int((labels < 0).sum()):
        raise InputError(
            f"model {params.model!r} classifies whole images, but {missing} of the {len(labels)} images of split"
            f" {reader.split!r} have no image label: add them to the dataset (layout folder: image_labels.csv) and run"
            " ingest and preprocess again, or set train.options.image_classes to 0"
        )
    if labels.max() >= classes:
        raise InputError(
            f"split {reader.split!r} has the image label {labels.max()}, expected 0 to {classes - 1}: set"
            " train.options.image_classes to the number of classes"
        )


def in_memory_format(params: TrainSettings, model: torch.nn.Module) -> torch.nn.Module:
    """Channels last for models of images; volumes keep theirs."""
    import torch

    if not params.channels_last or any(isinstance(module, torch.nn.Conv3d) for module in model.modules()):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub lacks it


def create_optimizer(params: TrainSettings, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Weight decay is for weights only: biases and normalisation parameters go without."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.lr, momentum=params.momentum)
    return torch.optim.AdamW(groups, lr=params.lr)


def learning_rate_factor(params: TrainSettings, share: float) -> float:
    """Factor on the peak learning rate at a share of the training."""
    from segmodels.training import schedules
    from segmodels.training.self_correction import cyclic_learning_rate_factor

    cycles = params.self_correction
    if cycles is None:
        return schedules.learning_rate_factor(params.schedule, share, warmup=params.warmup, power=params.power)
    epochs = round(share * params.epochs, 9)  # a cycle begins on the epoch, not a rounding error later
    return cyclic_learning_rate_factor(
        epochs, start=cycles.start_epoch, cycle=cycles.cycle_epochs, warmup=params.warmup * params.epochs
    )
