"""Segmentation models, losses, metrics and dataset layouts of the literature.

>>> from segmodels import create_model, list_models, create_loss, ConfusionMatrix, open_layout

Names are loaded when they are first used: importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmodels.data.layouts import list_layouts, open_layout
    from segmodels.errors import InputError, TransientError
    from segmodels.labels import LabelMap
    from segmodels.losses import create_loss, list_losses
    from segmodels.metrics.confusion import ConfusionMatrix
    from segmodels.models.registry import create_model, list_models
    from segmodels.outputs import PixelOutput

_HOMES = {
    "ConfusionMatrix": "segmodels.metrics.confusion",
    "InputError": "segmodels.errors",
    "LabelMap": "segmodels.labels",
    "PixelOutput": "segmodels.outputs",
    "TransientError": "segmodels.errors",
    "create_loss": "segmodels.losses",
    "create_model": "segmodels.models.registry",
    "list_layouts": "segmodels.data.layouts",
    "list_losses": "segmodels.losses",
    "list_models": "segmodels.models.registry",
    "open_layout": "segmodels.data.layouts",
}

__all__ = [
    "ConfusionMatrix",
    "InputError",
    "LabelMap",
    "PixelOutput",
    "TransientError",
    "create_loss",
    "create_model",
    "list_layouts",
    "list_losses",
    "list_models",
    "open_layout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segmodels' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
