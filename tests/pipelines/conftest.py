"""One place to run the pipeline in, for all tests of a process, and a Kubeflow server to talk to."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp.dsl.pipeline_task
import pytest
from kfp_here import Cluster, cluster_here
from kfp_server import Server, kfp_server

from pipelines import __main__ as command_line
from pipelines import commands
from pipelines.images import Image
from pipelines.profile import Profile

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _callers_by_name_alone() -> Iterator[None]:
    """kfp asks for the name of a caller and gets file, module and source lines of every frame too. In a process with
    all modules of the tests, under pytest's deep stack, that is most of the time of a compilation.
    """

    def stack() -> list[tuple[None, None, None, str]]:
        return [(None, None, None, sys._getframe(depth).f_code.co_name) for depth in (1, 2)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kfp.dsl.pipeline_task, "inspect", SimpleNamespace(stack=stack))
        yield


@pytest.fixture(scope="session")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def cluster(_place: Cluster) -> Iterator[Cluster]:
    with cluster_here(_place):
        yield _place
    _place.unavailable = set()


@pytest.fixture(scope="session")
def _compiled() -> dict[str, str]:
    """Pipelines that have been compiled: that takes a second under pytest."""
    return {}


@pytest.fixture
def server(_compiled: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A double of Kubeflow's API server, which the commands find by KF_PIPELINES_ENDPOINT."""
    compile_ = commands._compile

    def remembered(name: str, default: dict[str, Any], profile: Profile, image: Image, path: Path) -> Path:
        key = repr((name, default, profile, image))
        if key not in _compiled:
            _compiled[key] = compile_(name, default, profile, image, path).read_text()
        path.write_text(_compiled[key])
        return path

    monkeypatch.setattr(commands, "_compile", remembered)
    for name in ("ENDPOINT", "NAMESPACE", "TOKEN", "COOKIE", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("SEGMODELS_CODE_REVISION", "a" * 40)
    monkeypatch.chdir(REPOSITORY)
    with kfp_server() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        yield server


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit code of a command, and what it printed."""

    def command(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = command_line.main(arguments)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        if code:
            assert captured.err.startswith("error: ")
            assert captured.err.count("\n") == 1
        return code, captured.out + captured.err

    return command
