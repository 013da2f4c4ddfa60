"""The configurations in params/: each names a layout, a model that fits its classes, and a file's own experiment."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from components.params.reading import load_params
from segmodels.data.layouts import LAYOUTS, Layout
from segmodels.models.registry import MODELS

FILES = sorted((Path(__file__).parents[3] / "params").glob("*.yaml"))
OBJECTS = {
    "coco_instances": ("instance", "mask_ap"),
    "digits_instances": ("instance", "mask_ap"),
    "digits_panoptic": ("panoptic", "pq"),
    "digits_prompts": ("promptable", "object_iou"),
    "dsb2018_instances": ("instance", "mask_ap"),
}
"""Task and metric of the configurations for objects."""

CHANNELS = {"brats_slices": 4}
"""Of images that are not RGB."""

DATASETS = [path for path in FILES if path.stem not in OBJECTS]


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_configuration_is_of_one_dataset_and_its_model_has_the_datasets_classes(path: Path) -> None:
    params = load_params(path)
    assert f"make run PARAMS=params/{path.name}" in path.read_text() or f"make {path.stem}" in path.read_text()
    assert params.ingest.layout == path.stem == params.train.experiment
    assert params.register.name == f"{path.stem}-segmentation"
    layout = cast("type[Layout]", LAYOUTS[params.ingest.layout].build)
    labels = layout.published()
    assert labels is not None
    with torch.device("meta"):
        channels = CHANNELS.get(path.stem, 3)
        options = {**params.train.options, "in_channels": channels}
        model = MODELS.built(params.train.model, options, num_classes=labels.num_classes)
        crop = params.train.augment.crop
        assert crop is not None
        params.train.augment.check(channels, np.dtype(np.uint8), 2)
        output = model.eval()(torch.empty(2, channels, *crop))
    assert output.logits.shape == (2, labels.num_classes, *crop)


def test_all_promised_datasets_have_one() -> None:
    assert {path.stem for path in DATASETS} == {
        "ade20k",
        "brats_slices",
        "camvid",
        "cityscapes",
        "dsb2018",
        "isbi2012",
        "ph2",
        "voc2012",
    }


@pytest.mark.parametrize("path", [path for path in FILES if path.stem in OBJECTS], ids=lambda path: path.stem)
def test_configurations_for_objects_have_a_model_for_their_task(path: Path) -> None:
    params, (task, metric) = load_params(path), OBJECTS[path.stem]
    assert f"make run PARAMS=params/{path.name}" in path.read_text()
    assert params.train.experiment == path.stem.replace("_", "-")
    assert params.ingest.source == "digits" or path.stem.startswith(params.ingest.layout)
    assert MODELS[params.train.model].card.tasks == (task,)
    assert params.register.metric == metric
