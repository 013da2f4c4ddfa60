"""Parameters given as JSON and single values, and retries, on the command line of the steps."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.params.overrides import assembled_params
from components.running.retries import retried
from segmodels.errors import InputError, TransientError


def params_file(folder: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text("train: {epochs: 20, options: {widths: [16, 32]}}\n")
    return path


def test_a_single_value_is_what_its_field_takes(tmp_path: Path) -> None:
    sets = [
        "train.epochs=3",
        "train.lr=1e-05",
        'train.loss={"dice": 1, "cross_entropy": 0.5}',
        "train.augment.flip=0.5",
        "train.augment.crop=[32, 64]",
        "train.options.in_channels=4",
        "train.compile=true",
        "train.ema=",
        "ingest.rev=1.0",  # a tag, no number
        "preprocess.longer_side=256",
        'evaluate.sliding_window={"size": [64, 64]}',
    ]
    params = assembled_params(params_file(tmp_path), sets)
    train = params.train
    assert (train.epochs, train.lr, train.loss, train.augment.flip, train.augment.crop) == (
        3,
        1e-5,
        {"dice": 1.0, "cross_entropy": 0.5},
        0.5,
        (32, 64),
    )
    assert train.options == {"widths": [16, 32], "in_channels": 4}
    assert (train.compile, train.ema, params.ingest.rev, params.preprocess.longer_side) == (True, None, "1.0", 256)
    assert params.evaluate.settings == {"sliding_window": {"size": [64, 64]}}


def test_json_takes_the_place_of_the_file() -> None:
    params = assembled_params(['{"train": {"epochs": 5}}', '{"register": {"name": "x"}}'], ["train.epochs=6"])
    assert (params.train.epochs, params.register.name) == (6, "x")


@pytest.mark.parametrize(
    ("source", "sets", "said"),
    [
        (None, ["train.epoch=3"], "unknown parameter 'train.epoch': did you mean 'train.epochs'"),
        (None, ["train.epochs=many"], "train.epochs is 'many'"),
        (None, ["train.epochs.first=3"], "train.epochs is a single value"),
        (None, ["train.epochs"], "expected section.key=value"),
        (None, ["train.loss=dice"], "train.loss is 'dice'"),
        (["{"], [], "--params-json '{' cannot be understood"),
        (["[1]"], [], "the content is [1], expected an object"),
        (None, ["train.options.widths.0=4"], "train.options.widths is [16, 32] and has no keys: set the whole of"),
        (['{"train": [1]}'], ["train.epochs=3"], "--set train.epochs: train is [1] and has no keys"),
        (['{"train": "text"}'], ["train.epochs=3"], "train is 'text' and has no keys"),
        (['{"train": ' + "[" * 9000], [], "nested too deeply"),
        (['{"train": {"lr": NaN}}'], [], "NaN is not a finite number"),
        (None, ["train.options.x=NaN"], "train.options.x is nan, expected a finite number"),
        (None, ["train.seed=" + "9" * 5000], "train.seed is '9999"),
        (['{"train": {"epochs": 0}}'], [], "--params-json: train.epochs is 0"),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    tmp_path: Path, source: list[str] | None, sets: list[str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        assembled_params(source or params_file(tmp_path), sets)
    assert said in str(caught.value)


def test_a_step_takes_its_section_from_the_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "components",
        "train",
        "--params-json",
        '{"train": {"epochs": 5}}',
        "--set",
        "train.epochs=0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "train.epochs is 0" in done.stderr


def test_what_fails_outside_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    outcomes = iter([TransientError("away"), TransientError("away"), None])

    def work() -> None:
        if outcome := next(outcomes):
            raise outcome

    retried(work, 4)
    assert pauses == [15, 30]


def test_wrong_data_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("no retry is expected"))
    with pytest.raises(InputError):
        retried(lambda: (_ for _ in ()).throw(InputError("wrong")), 4)


def test_retries_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise TransientError("away")

    with pytest.raises(TransientError):
        retried(work, 2)
    assert len(calls) == 3
