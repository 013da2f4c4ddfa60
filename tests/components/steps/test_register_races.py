"""Several registrations at once: the best model is champion, and a model has one version. A real MLflow store."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from small_pipeline import use_local_store
from test_register import NAME, Workplace

from components.tracking import registry_turn
from components.tracking.model_registry import Registry, Version


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setattr("components.steps.register._export", lambda *_: "none")
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
    assert registry_turn.TAG not in tags["good"] | tags["poor"]
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
    workplace.client.set_model_version_tag(NAME, "1", registry_turn.TAG, "killed")
    monkeypatch.setattr(registry_turn, "STALE", 0.1)
    assert workplace.register("good")["alias"] == "champion"
    assert registry_turn.TAG not in workplace.client.get_model_version(NAME, "1").tags


def test_files_that_a_killed_process_left_unfinished_are_completed(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.models import Model

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr("components.tracking.saved_model.os.getpid", lambda: gone.pid)
        before.setattr(Model, "log", killed)
        with pytest.raises(KeyboardInterrupt):
            workplace.register("good")
    workplace.register("good")
    experiment = workplace.client.get_experiment_by_name("tests").experiment_id
    assert [one.status.name for one in workplace.client.search_logged_models([experiment])] == ["READY"]


@pytest.mark.slow
def test_the_best_is_champion_whoever_comes_first(workplace: Workplace) -> None:
    for name, seed in (("poor-1", 1), ("poor-2", 2)):
        workplace.train(name, "poor", seed)
    failures: list[BaseException] = []

    def register(name: str, start: threading.Barrier) -> None:
        try:
            start.wait()
            workplace.register(name)
        except BaseException as error:
            failures.append(error)

    for _ in range(8):
        names = ["poor", "good", "poor-1", "poor-2"]
        start = threading.Barrier(len(names))
        threads = [threading.Thread(target=register, args=[name, start]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        champion = workplace.client.get_model_version_by_alias(NAME, "champion")
        assert champion.run_id == workplace.runs["good"]
        assert len(workplace.versions()) == len(names)
        workplace.client.delete_registered_model(NAME)
