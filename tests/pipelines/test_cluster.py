"""``submit``, ``status`` and the schedules against a double of Kubeflow's API server."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_server import Server, kfp_server

from pipelines import __main__ as command_line
from pipelines.__main__ import main
from pipelines.profile import Image, Profile

Said = Callable[..., tuple[int, str]]

IMAGE = "registry.example/segmodels@sha256:" + "0" * 64
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _compiled_once() -> Iterator[None]:
    """Compiling takes a second under pytest: what was compiled is kept."""
    compiled: dict[str, str] = {}
    compile_ = command_line._compile

    def remembered(default: dict[str, Any], profile: Profile, image: Image, path: Path) -> Path:
        key = repr((default, profile, image))
        if key not in compiled:
            compiled[key] = compile_(default, profile, image, path).read_text()
        path.write_text(compiled[key])
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "_compile", remembered)
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("ENDPOINT", "NAMESPACE", "TOKEN", "COOKIE", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("SEGMODELS_CODE_REVISION", "a" * 40)
    monkeypatch.chdir(REPOSITORY)
    with kfp_server() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        yield server


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """What a command printed, and its exit code."""

    def command(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        if code:
            assert captured.err.startswith("error: ")
            assert captured.err.count("\n") == 1
        return code, captured.out + captured.err

    return command


# --- runs


def test_submit_starts_a_run_with_its_parameters_and_status_follows_it(server: Server, said: Said) -> None:
    code, text = said("submit", "--image", IMAGE, "--set", "epochs=3", "--set", "model=segnet")
    assert code == 0
    (run,) = server.runs.values()
    assert run["run_id"] in text
    assert run["runtime_config"]["parameters"]["epochs"] == 3
    assert run["runtime_config"]["parameters"]["model"] == "segnet"
    assert set(run["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}, "the settings for Kubernetes go with it"
    run |= {"state": "FAILED", "run_details": {"task_details": nodes_of_a_failed_run()}}
    code, text = said("status", run["run_id"])
    assert code == 0
    assert "FAILED" in text.splitlines()[0]
    assert [" ".join(line.split()) for line in text.splitlines()[1:]] == [
        "ingest SUCCEEDED",
        "validate FAILED: main: Error (exit code 2)",
    ]


def nodes_of_a_failed_run() -> list[dict]:
    """Nodes of the Argo workflow as Kubeflow reports them: only the pods, which are all called executor, know why they
    failed.
    """

    def node(name: str, state: str, message: str | None = None, below: tuple[str, ...] = (), key: str = "") -> dict:
        told = {"error": {"message": message}} if message else {}
        children = [{"pod_name": child} for child in below]
        return {
            "display_name": name,
            "state": state,
            "start_time": "2026-01-01T00:00:00Z",
            "pod_name": key or name,
            "child_tasks": children,
            **told,
        }

    return [
        node("segmentation-training-x7k2p", "FAILED", below=("root-driver",)),
        node("root-driver", "SUCCEEDED"),
        node("exit-handler-1", "FAILED"),
        node("ingest-driver", "SUCCEEDED", below=("ingest",)),
        node("ingest", "SUCCEEDED", below=("pod-1",)),
        node("executor", "SUCCEEDED", key="pod-1"),
        node("validate", "FAILED", below=("pod-2",)),
        node("executor", "FAILED", "No more retries left", ("pod-3", "pod-4"), "pod-2"),
        node("executor(0)", "FAILED", "main: Error (exit code 75)", key="pod-3"),
        node("executor(1)", "FAILED", "main: Error (exit code 2)", key="pod-4"),
    ]


def test_wrong_parameters_are_refused_before_anything_is_asked_of_the_server(server: Server, said: Said) -> None:
    for assignment, hint in {
        "epoch=3": "did you mean 'epochs'",
        "epochs=many": "a whole number",
        "loss=dice": "train.loss",
        "epochs": "expected parameter=value",
    }.items():
        code, text = said("submit", "--image", IMAGE, "--set", assignment)
        assert code == 2
        assert hint in text
    assert server.writes == []


# --- schedules


def schedule(said: Said, *more: str) -> tuple[int, str]:
    return said("schedule", "nightly", "--image", IMAGE, *more)


def test_a_schedule_is_created_once_and_says_when_it_comes(server: Server, said: Said) -> None:
    code, text = schedule(said, "--cron", "0 0 3 * * *")
    assert code == 0
    assert "next times (UTC):" in text
    assert text.count("03:00:00") == 3
    (recurring,) = server.recurring_runs.values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] in (1, "1")
    (version,) = [version for version in server.versions.values() if version["display_name"].startswith("a" * 12)]
    assert recurring["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]

    server.writes.clear()
    assert "up to date" in schedule(said, "--cron", "0 0 3 * * *")[1]
    assert server.writes == []


def test_a_dry_run_prints_the_difference_and_changes_nothing(server: Server, said: Said) -> None:
    assert "would create" in schedule(said, "--cron", "0 0 3 * * *", "--dry-run")[1]
    assert server.writes == []
    schedule(said, "--cron", "0 0 3 * * *")
    server.writes.clear()
    text = schedule(said, "--every", "6h", "--set", "epochs=40", "--dry-run")[1]
    assert "-when: cron 0 0 3 * * *" in text
    assert "+when: every 21600 s" in text
    assert "+  epochs: 40" in text
    assert "would delete its predecessor" in text
    assert server.writes == []


def test_a_changed_schedule_replaces_the_old_one_only_when_the_new_one_is_there(server: Server, said: Said) -> None:
    schedule(said, "--cron", "0 0 3 * * *")
    (old,) = server.recurring_runs
    server.writes.clear()
    assert schedule(said, "--every", "1d")[0] == 0
    (new,) = server.recurring_runs
    assert new != old
    assert server.writes == [
        "POST /recurringruns",
        f"DELETE /recurringruns/{old}",
    ], "no version is uploaded twice, and the old one goes last"


def test_a_schedule_that_cannot_be_created_leaves_the_old_one(server: Server, said: Said) -> None:
    schedule(said, "--cron", "0 0 3 * * *")
    old = dict(server.recurring_runs)
    server.fail = ("POST", "recurringruns")
    code, text = schedule(said, "--every", "1d")
    assert code == 75
    assert "the database is away" in text
    assert server.recurring_runs == old


def test_a_predecessor_that_cannot_be_deleted_is_named_and_deleted_the_next_time(server: Server, said: Said) -> None:
    schedule(said, "--cron", "0 0 3 * * *")
    (old,) = server.recurring_runs
    server.fail = ("DELETE", "recurringruns")
    code, text = schedule(said, "--every", "1d")
    assert code == 75
    assert old in text
    assert len(server.recurring_runs) == 2
    server.fail = None
    assert schedule(said, "--every", "1d")[0] == 0
    (left,) = server.recurring_runs.values()
    assert left["recurring_run_id"] != old
    assert "up to date" in schedule(said, "--every", "1d")[1]


def test_schedules_are_listed_over_pages_and_deleted_by_name(server: Server, said: Said) -> None:
    schedule(said, "--cron", "0 0 3 * * *")
    (one,) = server.recurring_runs.values()
    for number in range(120):
        server.add(
            server.recurring_runs,
            "recurring_run_id",
            **{**one, "recurring_run_id": f"id-{number}", "display_name": f"other {number}"},
        )
    code, text = said("schedules")
    assert code == 0
    assert len(text.splitlines()) == 121
    assert said("unschedule", "nightly")[0] == 0
    assert len(server.recurring_runs) == 120
    code, text = said("unschedule", "nightly")
    assert code == 2
    assert "there is no schedule 'nightly'" in text


@pytest.mark.parametrize(
    ("when", "hint"),
    [
        (("--cron", "0 3 * * *"), "has 5 fields, Kubeflow wants 6"),
        (("--cron", "0 0 25 * * *"), "values from 0 to 23"),
        (("--cron", "0 0 0 31 2 *"), "never comes"),
        (("--every", "often"), "as 30m, 6h or 1d"),
    ],
)
def test_impossible_times_are_refused(server: Server, said: Said, when: tuple[str, str], hint: str) -> None:
    code, text = schedule(said, *when)
    assert code == 2
    assert hint in text
    assert server.writes == []


def test_an_image_by_tag_is_refused(server: Server, said: Said) -> None:
    code, text = said("schedule", "nightly", "--cron", "0 0 3 * * *", "--image", "registry.example/segmodels:latest")
    assert code == 2
    assert "named by a tag" in text
    assert server.writes == []


def test_a_schedule_needs_a_name(server: Server, said: Said) -> None:
    code, text = said("schedule", " ", "--every", "1d", "--image", IMAGE)
    assert code == 2
    assert "a name" in text
    assert server.writes == []


# --- users and what goes wrong


def test_a_namespace_is_needed_where_users_are_kept_apart(server: Server, said: Said, tmp_path: Path) -> None:
    server.namespace, server.token = "jane", "secret"
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert "give --namespace" in said("schedules", "--token-file", str(token))[1]
    code, text = said("schedules", "--token-file", str(token), "--namespace", "joe")
    assert code == 2
    assert "in namespace 'joe'" in text
    assert said("schedules", "--token-file", str(token), "--namespace", "jane") == (0, "no schedules\n")
    assert schedule(said, "--every", "1d", "--token-file", str(token), "--namespace", "jane")[0] == 0
    assert next(iter(server.pipelines.values()))["namespace"] == "jane"
    server.writes.clear()
    assert "up to date" in schedule(said, "--every", "1d", "--token-file", str(token), "--namespace", "jane")[1]
    assert server.writes == []


def test_a_namespace_is_refused_where_users_are_not_kept_apart(server: Server, said: Said) -> None:
    code, text = said("schedules", "--namespace", "jane")
    assert code == 2
    assert "has no namespaces of users" in text
    assert server.writes == []


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ("page", "answers with text/html, HTTP 200"),
        ("redirect", "asks to log in (HTTP 302)"),
        ("401", "asks to log in (HTTP 401)"),
    ],
)
def test_a_login_page_is_recognised(server: Server, said: Said, login: str, hint: str) -> None:
    server.token, server.login = "secret", login
    code, text = schedule(said, "--every", "1d")
    assert code == 2
    assert hint in text
    assert "KF_PIPELINES_TOKEN" in text
    assert server.writes == []


def test_a_server_that_is_not_there_is_said(said: Said, server: Server) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert said("status", "x", "--host", address)[0] == 75
    code, text = said("status", "x", "--host", "http://no-such-host.invalid")
    assert code == 2
    assert "there is no host" in text
    code, text = said("status", "x", "--host", f"{server.url}/somewhere")
    assert code == 2
    assert "not Kubeflow's API" in text
    code, text = said("status", "unknown")
    assert code == 2
    assert "does not know that" in text


@pytest.mark.usefixtures("server")
def test_no_address_is_said(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert "give --host or set KF_PIPELINES_ENDPOINT" in said("schedules")[1]
