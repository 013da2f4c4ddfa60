"""A training can be left anywhere and is resumed bit for bit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import StopAfter, new_fit, recorded

from segmodels.training.fit import Stopped


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.9, "accumulate": 2, "gradient_clip": 1.0},
        {"precision": "bf16-mixed"},
        {"auxiliary_decay": True},
        {"self_correction": (1, 1)},
        {"self_correction": (2, 1), "accumulate": 2, "precision": "bf16-mixed"},
    ],
    ids=["plain", "ema", "bf16", "decay", "self-correction", "self-correction with accumulation in bf16"],
)
def test_left_at_any_batch_and_taken_up_it_ends_with_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A poll comes after each optimiser step and each of 3 validation batches: stopping after every few of them, again
    and again.

    A cycle of self-correction ends with 5 more polls, and all of them must pass in one go.
    """
    whole = new_fit(tmp_path / "whole", **settings)
    expected_epochs = recorded(whole)
    expected = whole.run()
    epochs: list[tuple[int, dict[str, float]]] = []
    stops = 0
    while True:
        fit = new_fit(
            tmp_path / "parts", stop=StopAfter(1 + stops % (9 if "self_correction" in settings else 3)), **settings
        )
        fit.on_epoch = lambda epoch, metrics: epochs.append((epoch, metrics))
        try:
            best = fit.run()
            break
        except Stopped:
            stops += 1
            assert stops < 50
    assert stops > 5
    for name, value in expected.items():
        assert torch.equal(value, best[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, fit.model.state_dict()[name]), name
    assert [epoch for epoch, _ in epochs] == [0, 1, 2]
    for (_, mine), (_, theirs) in zip(epochs, expected_epochs, strict=True):
        assert {**mine, "images_per_second": 0} == {**theirs, "images_per_second": 0}


class Killed(BaseException):
    """As by SIGKILL: nothing is saved."""


@pytest.mark.parametrize(
    "settings", [{"accumulate": 2, "ema": 0.9}, {"precision": "bf16-mixed"}], ids=["accumulation and ema", "bf16"]
)
def test_killed_at_any_batch_it_ends_with_the_same_bits_wherever_it_was_saved(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = new_fit(tmp_path / "whole", **settings)
    expected_epochs = recorded(whole)
    expected = whole.run()
    epochs: list[tuple[int, dict[str, float]]] = []
    kills = 0
    while True:
        fit = new_fit(tmp_path / "parts", **settings)
        fit.on_epoch = lambda epoch, metrics: epochs.append((epoch, metrics))
        saves, batches = StopAfter(1 + kills % 2), StopAfter(3 + kills % 5)
        fit._save_is_due = saves  # from then on at every step: the last one is lost to the kill

        def on_batch(*_: Any, batches: StopAfter = batches) -> None:
            if batches():
                raise Killed

        fit.on_batch = on_batch
        try:
            best = fit.run()
            break
        except Killed:
            kills += 1
            assert kills < 50
    assert kills > 2
    for name, value in expected.items():
        assert torch.equal(value, best[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, fit.model.state_dict()[name]), name
    for epoch, metrics in epochs:  # some of them more than once
        assert {**metrics, "images_per_second": 0} == {**expected_epochs[epoch][1], "images_per_second": 0}


def test_states_are_saved_by_the_clock_and_at_the_end_and_a_finished_training_is_not_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = new_fit(tmp_path, save_minutes=10.0)
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(
        fit.checkpoints, "save", lambda state, _: saved.append((state["progress"]["epoch"], state["progress"]["batch"]))
    )
    clock = iter(range(0, 10**9, 200))  # seconds; two readings for a batch, two at a step, two for one of validation
    monkeypatch.setattr("segmodels.training.fit.time.monotonic", lambda: next(clock))
    fit.run()
    assert len(saved) > 3
    assert saved[-1] == (3, 0)
    monkeypatch.undo()
    for _ in range(2):
        new_fit(tmp_path / "again", save_minutes=10.0).run()
        assert [path.name.split("-")[0] for path in (tmp_path / "again").glob("*.ckpt")] == ["00000000"]


def test_saving_does_not_count_as_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = new_fit(tmp_path, epochs=1)
    monkeypatch.setattr(fit.checkpoints, "save", lambda *_: time.sleep(0.1))
    start = time.monotonic()
    fit.run()
    assert fit.progress.seconds < time.monotonic() - start - 0.45


def test_a_damaged_newest_state_costs_only_the_work_since_the_one_before(tmp_path: Path) -> None:
    expected = new_fit(tmp_path / "whole").run()
    with pytest.raises(Stopped):
        new_fit(tmp_path / "parts", stop=StopAfter(20)).run()
    newest = max((tmp_path / "parts").glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    fit = new_fit(tmp_path / "parts")
    fit.warn = said.append
    best = fit.run()
    assert "falling back" in said[0]
    for name, value in expected.items():
        assert torch.equal(value, best[name])
