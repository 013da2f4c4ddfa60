"""params.yaml is checked before any work: every mistake is named with its key."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.params.overrides import assembled_params
from components.params.reading import changed_from_defaults, checked_params, load_params, plain
from components.params.reference import parameters_page
from components.params.schema import PipelineParams
from components.params.tasks import task_settings
from segmodels.data.augment import Augment
from segmodels.errors import InputError
from segmodels.models.registry import create_model
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


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefgh")
)
"""Nine million million values in 300 characters."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epoch: 3}", ["train.epoch", "did you mean 'epochs'"]),
        ("trian: {}", ["'trian'", "'train'"]),
        ("train: {epochs: '3'}", ["train.epochs is '3', expected a whole number: leave out the quotes"]),
        ("train: {lr: -1.0}", ["train.lr", "-1.0", "greater than 0"]),
        ("train: {model: {name: unet, widths: [8]}}", ["expected the name alone, 'unet'", "options", "a key"]),
        ("train: {model: [unet]}", ["train.model is ['unet'], expected text"]),
        ("train: {loss: dice}", ["train.loss is 'dice', expected a mapping, such as {name: value}"]),
        ("train: {loss: {dice: high}}", ["train.loss.dice is 'high', expected a number or a mapping"]),
        ("train: {augment: null}", ["train.augment is null, expected a mapping with keys such as crop, scale"]),
        ("train: {augment: {crop: 256}}", ["train.augment.crop is 256, expected a list"]),
        ("train: {channels_last: 'true'}", ["'true', expected true or false: leave out the quotes"]),
        ("train: {lr: 'high'}", ["train.lr is 'high', expected a number"]),
        ("[]", ["the file is [], expected a mapping with keys such as ingest"]),
        ("train: {augment: {crop: [-32, 32]}}", ["train.augment.crop.0 is -32", "from 1 to 32767"]),
        ("train: {augment: {scale: [1.0]}}", ["train.augment.scale.1 is missing"]),
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
        ("ingest: {source: dvc, path: data, repo: 'https://[::1/x.git'}", ["repo is 'https://[::1/x.git'"]),
        (
            "ingest: {source: folder, path: images, watch: images}",
            ["ingest.watch is no longer a key", "'images'", "remove it"],
        ),
        ("ingest: {split: {val: 0.6, test: 0.6}}", ["1.2", "less than 1"]),
        ("preprocess: {longer_side: 0}", ["preprocess.longer_side is 0", "from 1 to 32767, or null"]),
        ("evaluate: {sliding_window: {size: [64, 64], overlap: 1.0}}", ["overlap", "1.0"]),
        ("evaluate: {sliding_window: {size: [64, 64]}, crf: {}}", ["crf and sliding_window", "expected one"]),
        ("evaluate: {crf: {color_sigma: 0}}", ["evaluate.crf.color_sigma is 0.0", "from 0.001 to 1000000"]),
        ("evaluate: {flips: true}", ["evaluate.flips", "did you mean 'flip'"]),
        ("evaluate: {scales: [1.0, 0]}", ["evaluate.scales.1 is 0.0", "greater than 0"]),
        ("evaluate: {batchsize: 3}", ["evaluate.batchsize", "did you mean 'batch_size'"]),
        ("train: {lr: .nan}", ["train.lr is nan", "finite"]),
        ("train: {minutes: .inf}", ["train.minutes is inf", "finite"]),
        ("evaluate: {crf: {color_sigma: .inf}}", ["evaluate.crf.color_sigma is inf", "finite"]),
        ("train: {loss: {dice: [1]}}", ["train.loss.dice is [1], expected a number or a mapping"]),
        ("train: {batch_size: true}", ["train.batch_size is true", "expected a whole number"]),
        ("train: {early_stopping: {}}", ["train.early_stopping.patience is missing"]),
        ("train: {task: semantics}", [", section train: unknown task 'semantics': did you mean 'semantic'?"]),
        ("train: {model: unett}", [", section train: unknown model 'unett': did you mean 'unet'?"]),
        ("train: {loss: {dicee: 1.0}}", [", section train: unknown loss 'dicee': did you mean 'dice'?"]),
        ("train: {optimizer: adam}", ["train.optimizer is 'adam', expected 'sgd' or 'adamw'"]),
        ("ingest: {layout: foldr}", ["ingest.layout: unknown layout 'foldr': did you mean 'folder'?"]),
        ("register: {metric: mean_iuo}", ["register.metric", "did you mean 'mean_iou'"]),
        ("train: {model: unet}\nregister: {metric: pq}", ["register.metric: unknown score 'pq': choose one of"]),
        ("train: {model: unet}\nevaluate: {stuff_area: 9}", ["unknown key 'evaluate.stuff_area'"]),
        ("register: {name: a/b}", ["register.name", "'a/b'", "without / and :"]),
        ('register: {name: "team\'s"}', ["register.name is", "without / and : and '"]),
        ("register: {name: '  '}", ["register.name is '  '", "not only blanks"]),
        ("train: {experiment: ''}", ["train.experiment is ''"]),
        (f"train: {{experiment: {'x' * 300}}}", ["train.experiment is 'xxx", "…, expected a name of 1 to 250"]),
        ("ingest: {source: folder, path: ' '}", ["needs path"]),
        ("train: {lr: 1.0e+300}", ["train.lr is 1e+300", "at most 1000"]),
        ("train: {lr: 1e999}", ["train.lr is inf", "finite"]),
        ("train: {weight_decay: .inf}", ["train.weight_decay is inf", "finite"]),
        ("train: {power: .inf}", ["train.power is inf", "finite"]),
        ("train: {options: {dropout: .nan}}", ["train.options.dropout is nan", "finite"]),
        ("train: {loss: {focal: {gamma: .inf}}}", ["train.loss.focal.gamma is inf", "finite"]),
        ("train: {deep_supervision: {weights: [.inf]}}", ["train.deep_supervision.weights.0 is inf", "finite"]),
        ("train: {augment: {scale: [1, .inf]}}", ["train.augment.scale.1 is inf", "finite"]),
        ("train: {augment: {crop: [100000, 32]}}", ["train.augment.crop.0 is 100000", "32767"]),
        ("train: {seed: 1000000000000000000000000000000}", ["train.seed", "from 0 to 4294967295"]),
        ("train: {workers: 10000}", ["train.workers is 10000", "from 0 to 256"]),
        ("evaluate: {scales: [1000000.0]}", ["evaluate.scales.0 is 1000000.0", "at most 16"]),
        ("evaluate: {scales: [.nan]}", ["evaluate.scales.0 is nan", "finite"]),
        ("evaluate: {sliding_window: {size: [1000000000, 64]}}", ["evaluate.sliding_window.size.0", "32767"]),
        ("evaluate: {crf: {color_sigma: 1.0e-300}}", ["evaluate.crf.color_sigma is 1e-300"]),
        ("preprocess: {longer_side: 100000}", ["preprocess.longer_side is 100000"]),
        ("ingest: {digits: {size: 100000}}", ["ingest.digits.size is 100000"]),
        ("train: {epochs: " + "9" * 5000 + "}", ["line 1 is not YAML", "4300 digits"]),
        ("train: {epochs: 2001-99-99}", ["line 1 is not YAML", "month must be in 1..12"]),
        ("train: {lr: 0.1}\ntrain: {lr: 0.2}", ["line 2 is not YAML", 'duplicate key "train"']),
        ("train: {model: " + "x" * 5000 + ", lr: x}", ["train.lr is 'x'"]),
        ("train: {lr: " + "x" * 5000 + "}", ["train.lr is 'xxxx"]),
        ("[" * 5000, ["nested too deeply"]),
        ("train: !!python/object:os.system {}", ["line 1 is not YAML", "python/object:os.system"]),
        ("train: {options: &a {x: *a}}", ["aliases (*name) stand for more than 50,000 values"]),
        (LAUGHS, ["aliases (*name) stand for more than 50,000 values"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_params(write(tmp_path, text))
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


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


def test_a_step_that_has_its_own_section_alone_takes_the_settings_of_any_task() -> None:
    fragments = ['{"evaluate": {"stuff_area": 9}}', '{"register": {"metric": "pq"}}']
    params = assembled_params(fragments)
    assert (params.evaluate.settings, params.register.metric) == ({"stuff_area": 9}, "pq")


def test_every_parameter_is_described() -> None:
    lines = parameters_page().splitlines()
    assert [line for line in lines if line.startswith("| `") and len(line.split(" | ")[-1]) < 8] == []
    assert any(line.startswith("| `augment.crop` | list of whole numbers or null |") for line in lines)


def test_a_missing_file_and_a_file_that_is_not_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml is not there"):
        load_params(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="is not YAML"):
        load_params(write(tmp_path, "train: [1, 2"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-05", 1e-5), ("1e-3", 1e-3), (".5", 0.5), ("1_000.0", 1000.0), ("+1.5e2", 150.0), ("012", 12.0), ("3", 3.0)],
)
def test_numbers_are_read_as_dvc_writes_and_reads_them(tmp_path: Path, text: str, value: float) -> None:
    from dvc.utils.serialize import parse_yaml  # type: ignore[attr-defined]

    path = write(tmp_path, f"train: {{lr: {text}}}")
    assert load_params(path).train.lr == value == parse_yaml(path.read_text(), path)["train"]["lr"]


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "12:30", "null x", "0x1G", "2024-01-15"])
def test_text_is_text_in_the_dialect_of_dvc(tmp_path: Path, text: str) -> None:
    params = load_params(write(tmp_path, f"train: {{experiment: '{text}'}}\ningest: {{rev: {text}}}"))
    assert (params.train.experiment, params.ingest.rev) == (text, text)


def test_anchors_and_comments_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "# ours\ntrain: {augment: &weak {flip: 0.5}}\nregister: {minimum: 0.5} # low\n")
    assert load_params(path).train.augment.flip == 0.5
    twice = write(tmp_path, "train: {loss: {dice: &a {weight: 1}, iou: *a, tversky: {<<: *a, smooth: 2}}}")
    assert load_params(twice).train.loss == {
        "dice": {"weight": 1},
        "iou": {"weight": 1},
        "tversky": {"weight": 1, "smooth": 2},
    }


def test_only_a_regular_file_of_sensible_size_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, expected a text file"):
        load_params(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or device"):
        load_params(tmp_path / "pipe")
    with pytest.raises(InputError, match="/dev/zero is a pipe or device"):
        load_params(Path("/dev/zero"))
    with pytest.raises(InputError, match="expected a text file of at most 262,144"):
        load_params(write(tmp_path, "#" * 300_000))
    (tmp_path / "params.yaml").write_bytes("train:\n  experiment: Müller".encode("latin-1"))
    with pytest.raises(InputError, match=r"params\.yaml line 2 is not UTF-8 text \(byte 0xfc\): save the file"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("unet", {"widths": "abc"}, "option 'widths' of model 'unet' is 'abc', expected a list of whole numbers"),
        ("unet", {"widths": None}, "is null, expected a list of whole numbers"),
        ("unet", {"widths": [10**6, 10**7]}, "model 'unet' cannot be built with widths"),
        ("unet", {"widths": [10**30, 2]}, "model 'unet' cannot be built with widths"),
        ("pspnet_r50_d8", {"encoder": []}, "option 'encoder' of model 'pspnet_r50_d8' is [], expected text or null"),
        ("pspnet_r50_d8", {"encoder_weights": 3}, "is 3, expected text or null"),
        ("pspnet_r50_d8", {"encoder_options": {"deep_stem": "yes"}}, "of encoder 'resnet50' is 'yes', expected true"),
        ("pspnet_r50_d8", {"auxiliary": "yes"}, "is 'yes', expected true or false"),
    ],
)
def test_options_of_a_model_have_the_types_of_its_builder(model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        create_model(model, 3, **options)
    assert said in str(caught.value)
