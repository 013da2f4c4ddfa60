"""Several registrations at once: the best model is champion, and a model has one version. A real MLflow store."""

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from forked import PROCESSES, process
from postgresql import postgresql
from registry_workplace import NAME, Workplace
from small_pipeline import use_local_store, write_run

import components.steps.register as register_step
from components.params.schema import RegisterParams
from components.tracking import registry_turn
from components.tracking.client import tracking_uri
from components.tracking.model_registry import Registry, Version
from components.tracking.saved_model import WRITER


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setattr("components.steps.register._export", lambda *_: "none")
    monkeypatch.setattr("mlflow.pyfunc.model._validate_infer_and_copy_code_paths", lambda *_: None)  # 300 files
    monkeypatch.setattr(registry_turn, "POLL", 0.02)
    use_local_store(tmp_path, monkeypatch)
    workplace = Workplace(tmp_path)
    workplace.train("poor", "poor")
    workplace.train("good", "good")
    return workplace


def once(monkeypatch: pytest.MonkeyPatch, method: str, meanwhile: Callable[[], object]) -> None:
    """Do something at the end of the first call of a method of the registry."""
    original, to_do = getattr(Registry, method), [meanwhile]

    def called(registry: Registry, *arguments: object, **further: object) -> object:
        result = original(registry, *arguments, **further)
        if to_do:
            to_do.pop()()
        return result

    monkeypatch.setattr(Registry, method, called)


@pytest.mark.parametrize(("moment", "first", "other"), [("champion", "poor", "good"), ("add", "good", "poor")])
def test_a_champion_made_meanwhile_is_compared_with(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, moment: str, first: str, other: str
) -> None:
    once(monkeypatch, moment, lambda: workplace.register(other))
    facts = workplace.register(first)
    numbers = {first: facts["version"], other: "2" if facts["version"] == "1" else "1"}
    assert workplace.aliases()["champion"] == numbers["good"]
    assert facts["alias"] == ("champion" if first == "good" else "challenger")
    assert facts["champion_before"] == numbers[other]
    tags = {name: workplace.client.get_model_version(NAME, number).tags for name, number in numbers.items()}
    assert tags["good"]["decision"] == "champion"
    assert not workplace.client.get_registered_model(NAME).tags
    if first == "good":
        assert workplace.aliases()["previous"] == numbers["poor"]


def test_while_one_moves_the_alias_another_waits(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    original, inside, go = Registry.make_champion, threading.Event(), threading.Event()

    def slowly(registry: Registry, version: Version, predecessor: Version | None) -> None:
        inside.set()
        go.wait(20)
        original(registry, version, predecessor)

    monkeypatch.setattr(Registry, "make_champion", slowly)
    poor = threading.Thread(target=workplace.register, args=["poor"])
    poor.start()
    assert inside.wait(20)  # it has read that there is no champion, and is about to become one
    good = threading.Thread(target=workplace.register, args=["good"])
    good.start()
    good.join(1)
    assert good.is_alive()
    go.set()
    for thread in (poor, good):
        thread.join(30)
    assert workplace.aliases() == {"champion": "2", "previous": "1"}


def test_a_model_that_is_registered_twice_at_once_has_one_version(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, "find", lambda: workplace.register("good"))
    facts = workplace.register("good")
    assert (facts["version"], workplace.versions(), workplace.aliases()) == ("1", ["1"], {"champion": "1"})
    experiment = workplace.client.get_experiment_by_name("tests").experiment_id
    saved = workplace.client.search_logged_models([experiment])
    assert [one.model_id for one in saved] == [
        workplace.client.get_model_version(NAME, "1").source.removeprefix("models:/")
    ]


def test_the_turn_of_a_killed_process_passes(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace.register("poor")
    workplace.client.set_registered_model_tag(NAME, f"{registry_turn.TAG}000000001.killed", "once")
    monkeypatch.setattr(registry_turn, "STALE", 0.1)
    assert workplace.register("good")["alias"] == "champion"
    assert not workplace.client.get_registered_model(NAME).tags


def test_registrations_have_the_turn_one_after_another_also_of_one_version(workplace: Workplace) -> None:
    workplace.register("poor")
    inside, most = [], []

    def decide(number: str) -> None:
        for _ in range(3):
            with registry_turn.turn(workplace.client, NAME, number):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.02)
                inside.remove(number)

    deciding = [threading.Thread(target=decide, args=[number]) for number in ("1", "1", "2")]
    for one in deciding:
        one.start()
    for one in deciding:
        one.join(30)
    assert most == [1] * 9


@pytest.mark.parametrize(
    "moment",
    [
        "mlflow.models.Model.log",
        "mlflow.MlflowClient.log_model_artifacts",
        "mlflow.MlflowClient.create_model_version",
    ],
)
def test_files_that_a_killed_process_left_are_completed_and_made_a_version(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr("components.tracking.saved_model.os.getpid", lambda: gone.pid)
        before.setattr(moment, killed)
        with pytest.raises(KeyboardInterrupt):
            workplace.register("good")
    workplace.register("good")
    experiment = workplace.client.get_experiment_by_name("tests").experiment_id
    (saved,) = workplace.client.search_logged_models([experiment])
    assert saved.status.name == "READY"
    assert workplace.client.get_model_version(NAME, "1").source == saved.model_uri
    assert WRITER not in saved.tags, "without the version they would not be taken again: they may be why it is deleted"


ROUNDS = 2
MODELS = ["good", "good", "poor", "another"]  # one is registered by two processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_register_at_once_agree_on_the_best_and_lose_no_version(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    workplace.train("another", "poor", seed=1)
    with postgresql(workplace.folder) if kind == "postgresql" else nullcontext() as database:
        uri = database.uri if database else tracking_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        runs = {name: write_run(workplace.folder / name, workplace.folder / f"{name}-state") for name in set(MODELS)}
        for number in range(ROUNDS):
            start = PROCESSES.Barrier(len(MODELS))
            registrations = [
                process(register_at_once, f"round-{number}", workplace.folder, name, f"out-{number}-{place}", start)
                for place, name in enumerate(MODELS)
            ]
            for one in registrations:
                one.start()
            for one in registrations:
                one.join()
            assert [file.read_text() for file in workplace.folder.glob("*.traceback")] == []
            assert [one.exitcode for one in registrations] == [0] * len(MODELS)
            versions = workplace.client.search_model_versions(f"name = 'round-{number}'")
            assert sorted(one.run_id for one in versions) == sorted(runs.values())
            assert all("decision" in one.tags for one in versions)
            assert not workplace.client.get_registered_model(f"round-{number}").tags
            champion = workplace.client.get_model_version_by_alias(f"round-{number}", "champion")
            assert champion.run_id == runs["good"]


def register_at_once(registered: str, folder: Path, name: str, output: str, start: Barrier) -> None:
    """In a process of its own."""
    os.chdir(folder)
    registry_turn.POLL = 0.02
    register_step._export = lambda *_: "none"
    params = RegisterParams(name=registered)
    start.wait(120)
    try:
        register_step.register(params, folder / "shards", folder / name, folder / f"{name}-evaluation", folder / output)
    except BaseException:
        (folder / f"{output}.traceback").write_text(traceback.format_exc())
        raise
