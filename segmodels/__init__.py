"""Segmentation models, losses, metrics and dataset layouts of the literature.

>>> from segmodels import create_model, create_loss, ConfusionMatrix
>>> model = create_model("pspnet_r50_d8", num_classes=19)
>>> output = model(images)  # output.logits: (B, 19, H, W)

Names are loaded when they are first used: importing the package costs nothing.
"""

import importlib
from typing import Any

_PUBLIC = {
    "segmodels.annotations": ("Annotation", "Segment"),
    "segmodels.data.layouts": ("list_layouts", "open_layout"),
    "segmodels.encoders.body": ("Body",),
    "segmodels.encoders.registry": ("create_encoder", "list_encoders"),
    "segmodels.errors": ("InputError", "TransientError"),
    "segmodels.labels": ("LabelMap",),
    "segmodels.losses": ("create_loss", "list_losses"),
    "segmodels.metrics.confusion": ("ConfusionMatrix",),
    "segmodels.models.registry": ("create_model", "list_models"),
    "segmodels.outputs": ("DetectionOutput", "PixelOutput", "QueryOutput"),
    "segmodels.tasks.registry": ("create_task",),
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segmodels' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
