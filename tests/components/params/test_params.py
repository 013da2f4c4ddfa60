"""params.yaml is checked before any work: every mistake is named with its key."""

from pathlib import Path

import pytest
import yaml

from components.params.reading import changed_from_defaults, checked_params, load_params, plain
from components.params.reference import parameters_page
from components.params.schema import PipelineParams
from components.params.tasks import task_settings
from segmodels.data.augment import Augment
from segmodels.errors import InputError
from segmodels.tasks.registry import task_class


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_the_shipped_parameter_files_are_valid() -> None:
    root = Path(__file__).parents[3]
    shipped = sorted(root.glob("params*.yaml"))
    assert shipped
    for path in shipped:
        assert isinstance(load_params(path), PipelineParams)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epoch: 3}", ["train.epoch", "did you mean 'epochs'"]),
        ("trian: {}", ["'trian'", "'train'"]),
        ("train: {epochs: '3'}", ["train.epochs", "'3'", "integer"]),
        ("train: {lr: -1.0}", ["train.lr", "-1.0", "greater than 0"]),
        ("train: {augment: {crop: [-32, 32]}}", ["train.augment.crop.0", "-32", "greater than 0"]),
        ("train: {augment: {scale: [2.0, 1.0]}}", ["scale", "low <= high"]),
        ("train: {precision: float16, accelerator: cpu}", ["float16", "needs a GPU"]),
        ("train: {loss: {}}", ["loss is empty"]),
        (
            "train: {epochs: 15, self_correction: {start_epoch: 10, cycle_epochs: 2}}",
            ["epochs is 15", "10", "whole cycles of 2"],
        ),
        (
            "train: {epochs: 20, warmup: 0.5, self_correction: {start_epoch: 10, cycle_epochs: 2}}",
            ["warmup takes 10 epochs"],
        ),
        ("train: {loss: {dice: 1.0}, self_correction: {start_epoch: 10, cycle_epochs: 2}}", ["cross_entropy"]),
        ("train: {ema: 0.99, self_correction: {start_epoch: 10, cycle_epochs: 2}}", ["ema is 0.99"]),
        ("train: {deep_supervision: {weights: [-1.0]}}", ["train.deep_supervision.weights.0", "-1.0"]),
        ("ingest: {source: s3, path: bucket/prefix}", ["'bucket/prefix'", "s3://bucket/prefix"]),
        ("ingest: {source: dvc, path: data}", ["needs repo"]),
        (
            "ingest: {source: folder, path: images, watch: images}",
            ["ingest.watch is no longer a key", "'images'", "remove it"],
        ),
        ("ingest: {split: {val: 0.6, test: 0.6}}", ["1.2", "less than 1"]),
        ("preprocess: {longer_side: 0}", ["preprocess.longer_side", "0", "greater than 0"]),
        ("evaluate: {sliding_window: {size: [64, 64], overlap: 1.0}}", ["overlap", "1.0"]),
        ("evaluate: {sliding_window: {size: [64, 64]}, crf: {}}", ["crf and sliding_window", "expected one"]),
        ("evaluate: {crf: {color_sigma: 0}}", ["evaluate.crf.color_sigma", "greater than 0"]),
        ("evaluate: {flips: true}", ["evaluate.flips", "did you mean 'flip'"]),
        ("evaluate: {scales: [1.0, 0]}", ["evaluate.scales.1 is 0.0", "greater than 0"]),
        ("evaluate: {batchsize: 3}", ["evaluate.batchsize", "did you mean 'batch_size'"]),
        ("train: {lr: .nan}", ["train.lr is nan", "finite"]),
        ("train: {minutes: .inf}", ["train.minutes is inf", "finite"]),
        ("evaluate: {crf: {color_sigma: .inf}}", ["evaluate.crf.color_sigma is inf", "finite"]),
        ("train: {loss: {dice: [1]}}", ["train.loss.dice is [1]", "number", "object"]),
        ("train: {batch_size: true}", ["train.batch_size is true", "integer"]),
        ("train: {early_stopping: {}}", ["train.early_stopping.patience is missing"]),
        ("train: {task: semantics}", ["train.task", "did you mean 'semantic'"]),
        ("register: {metric: mean_iuo}", ["register.metric", "did you mean 'mean_iou'"]),
        ("register: {name: a/b}", ["register.name", "'a/b'"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_params(write(tmp_path, text))
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.lr.*evaluate\.batch_size|evaluate\.batch_size.*train\.lr"):
        load_params(write(tmp_path, "train: {lr: 0.0}\nevaluate: {batch_size: 0}"))


def test_parameters_survive_being_written_and_read_again() -> None:
    text = "{train: {augment: {crop: [64, 64]}, early_stopping: {patience: 3}}, evaluate: {flip: true, scales: [1, 2]}}"
    params = checked_params(yaml.safe_load(text), "test")
    assert params.train.augment == Augment(crop=(64, 64))
    assert checked_params(plain(params), "test") == params
    changed = changed_from_defaults(params)
    assert changed["train"] == {
        "augment": {"crop": [64, 64]},
        "early_stopping": {"patience": 3, "min_delta": 0.0},
    }
    assert checked_params(changed, "test") == params
    settings = task_settings(params.evaluate, task_class("semantic").Settings)
    assert (settings.flip, settings.scales) == (True, (1.0, 2.0))


def test_every_parameter_is_described() -> None:
    lines = parameters_page().splitlines()
    assert [line for line in lines if line.startswith("| `") and len(line.split(" | ")[-1]) < 8] == []
    assert any(line.startswith("| `augment.crop` | list of whole numbers or null |") for line in lines)


def test_a_missing_file_and_a_file_that_is_not_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml is not there"):
        load_params(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="is not YAML"):
        load_params(write(tmp_path, "train: [1, 2"))
