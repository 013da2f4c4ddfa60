"""The losses of a training: the user's, or those of the model's paper, with what they require of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.losses.registry import WeightedSum, create_loss, loss_class, loss_options
from segmodels.models.registry import Card, model_options
from segmodels.training.settings import TrainSettings

DEFAULT_LOSS: Mapping[str, float] = {"cross_entropy": 1.0}
"""Loss of models whose paper states none."""

REQUIRED = {"image_label": "image labels (layout folder: image_labels.csv)", "objects": "annotated objects"}
"""What a loss may require of the data, in words."""


def create_criterion(
    settings: TrainSettings, card: Card, *, ignore_index: int = 255, class_weights: Tensor | None = None
) -> WeightedSum:
    """The losses.

    Args:
        ignore_index: train id of pixels that do not count.
        class_weights: ``(C,)``, from the train split.

    Raises:
        InputError: unknown loss or option, a loss of an output that the model does not have, or no loss for corrected
            labels or for the weights of classes that the settings ask for.
    """
    config = loss_config(settings, card)
    criterion = create_loss(config, ignore_index=ignore_index, class_weights=class_weights)
    for name, loss in criterion.losses.items():
        if loss.reads != "logits" and name not in card.losses:
            raise InputError(
                f"loss {name!r} reads the output {loss.reads!r}, which model {settings.model!r} does not have: choose"
                " another loss, or leave it out"
            )
    if settings.self_correction and not any(loss.accepts_soft_labels for loss in criterion.losses.values()):
        raise InputError(
            f"self_correction makes soft labels, and none of the losses {', '.join(config)} accepts them: add"
            " cross_entropy to train.loss"
        )
    if settings.class_weights != "none" and not any(_takes_class_weights(name, config[name]) for name in config):
        raise InputError(
            f"class_weights is {settings.class_weights!r}, which none of the losses {', '.join(config)} takes: set it"
            " to none, or add a loss that takes them, such as cross_entropy"
        )
    return criterion


def _takes_class_weights(name: str, value: Any) -> bool:
    """Whether a term is given the weights of the train split: it has the option, and does not set it itself."""
    own = value if isinstance(value, Mapping) else {}
    return "class_weights" in loss_options(name) and own.get("class_weights") is None


def loss_config(settings: TrainSettings, card: Card) -> dict[str, Any]:
    """The losses by name, as ``create_loss`` takes them: the user's, or else the paper's.

    The user's take the place of the paper's loss of logits; the paper's terms on further outputs of the model stay,
    unless the user weighs them, or the model was built without the output.
    """
    paper = dict(card.losses or DEFAULT_LOSS)
    if settings.loss is not None:
        own = {name: value for name, value in paper.items() if loss_class(name).reads != "logits"}
        paper = {**own, **settings.loss}
    if not _image_classes(settings):
        paper = {name: value for name, value in paper.items() if "image_label" not in loss_class(name).requires}
    return paper


def check_requirements(settings: TrainSettings, criterion: WeightedSum, *readers: ShardReader) -> None:
    """Compare what the losses require with what the shards have.

    Raises:
        InputError: a split lacks objects or image labels, or has image labels beyond the model's classes.
    """
    needs = {need: name for name, loss in criterion.losses.items() for need in loss.requires}
    for reader in readers:
        has = {"objects": reader.has_objects}
        if "image_label" in needs:  # they lie in the shards, which may be far away
            has["image_label"] = bool((reader.image_labels >= 0).all())
        if lacking := [need for need in needs if not has[need]]:
            missing = _missing_labels(reader) if lacking[0] == "image_label" else f"split {reader.split!r} has none"
            raise InputError(
                f"loss {needs[lacking[0]]!r} of model {settings.model!r} requires {REQUIRED[lacking[0]]}, but"
                f" {missing}: add them to the dataset, run ingest and preprocess again, or choose another model or loss"
            )
        if "image_label" in needs and reader.image_labels.max() >= (classes := _image_classes(settings)):
            raise InputError(
                f"split {reader.split!r} has the image label {reader.image_labels.max()}, expected 0 to {classes - 1}:"
                " set train.options.image_classes to the number of classes"
            )


def _missing_labels(reader: ShardReader) -> str:
    missing = int((reader.image_labels < 0).sum())
    return f"{missing} of the {len(reader)} images of split {reader.split!r} have no image label"


def _image_classes(settings: TrainSettings) -> int:
    """Classes of whole images that the model tells apart; 0 for most models."""
    return {**model_options(settings.model), **settings.options}.get("image_classes", 0)
