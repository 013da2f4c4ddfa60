"""The configurations in params/: each names a layout, a model that fits its classes, and a file's own experiment."""

from pathlib import Path
from typing import cast

import pytest
import torch

from components.params.reading import load_params
from segmodels.data.layouts import LAYOUTS, Layout
from segmodels.models.registry import MODELS

FILES = sorted((Path(__file__).parents[3] / "params").glob("*.yaml"))
DATASETS = [path for path in FILES if load_params(path).ingest.source != "digits"]


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
        model = MODELS.built(params.train.model, params.train.options, num_classes=labels.num_classes)
        crop = params.train.augment.crop
        assert crop is not None
        output = model.eval()(torch.empty(2, 3, *crop))
    assert output.logits.shape == (2, labels.num_classes, *crop)


def test_all_promised_datasets_have_one() -> None:
    assert {path.stem for path in DATASETS} == {
        "ade20k",
        "camvid",
        "cityscapes",
        "dsb2018",
        "isbi2012",
        "ph2",
        "voc2012",
    }


@pytest.mark.parametrize(
    ("name", "task", "metric"),
    [("digits_instances", "instance", "mask_ap"), ("digits_prompts", "promptable", "object_iou")],
)
def test_the_digits_as_objects_have_a_model_for_each_task(name: str, task: str, metric: str) -> None:
    (path,) = (path for path in set(FILES) - set(DATASETS) if path.stem == name)
    params = load_params(path)
    assert f"make run PARAMS=params/{path.name}" in path.read_text()
    assert MODELS[params.train.model].card.tasks == (task,)
    assert params.register.metric == metric
