"""An untrained model of two channels and two classes, of volumes or of their slices."""

from __future__ import annotations

from pathlib import Path

import torch

from segmodels.inference.bundle import save_bundle
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task

LABELS = LabelMap(("background", "lesion"), ((0, 0, 0), (255, 0, 0)), {0: 0, 1: 1})


def write_volume_model(folder: Path, spatial_dims: int = 3) -> Path:
    """A bundle; its images are float32 with about -300 and 0.5 in the two channels."""
    torch.manual_seed(0)
    options = {"in_channels": 2, "widths": [4, 8], "spatial_dims": spatial_dims}
    save_bundle(
        folder,
        create_model("vnet", num_classes=2, **options),
        name="vnet",
        options=options,
        task=create_task("semantic", LABELS),
        mean=(-300.0, 0.5),
        std=(200.0, 0.1),
        lineage={},
        dtype="float32",
        spatial_dims=spatial_dims,
    )
    return folder
