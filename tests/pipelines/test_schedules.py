"""Schedules against a double of Kubeflow's API server."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from kfp_json import Refusal
from kfp_server import Server

from pipelines import commands
from pipelines.cron import Cron
from pipelines.images import Image
from pipelines.profile import Profile

Said = Callable[..., tuple[int, str]]

IMAGE = "registry.example/segmodels@sha256:" + "0" * 64


def schedule(said: Said, *more: str) -> tuple[int, str]:
    return said("schedule", "nightly", "--image", IMAGE, *more)


def test_a_schedule_is_created_once_and_says_when_it_comes(server: Server, said: Said) -> None:
    code, text = schedule(said, "--cron", "0 0 3 * * *")
    assert code == 0
    assert "next times, if the time zone of this Kubeflow is UTC:" in text
    assert text.count("03:00:00") == 3
    (recurring,) = server.recurring_runs.values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == "1"
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
        "POST /apis/v2beta1/recurringruns",
        f"DELETE /apis/v2beta1/recurringruns/{old}",
    ], "no version is uploaded twice, and the old one goes last"


def test_the_monitoring_is_scheduled_as_a_pipeline_of_its_own(server: Server, said: Said) -> None:
    watch = ("--every", "1h", "--pipeline", "monitoring", "--set", "drift_psi=0.3")
    text = schedule(said, *watch, "--dry-run")[1]
    assert "would upload pipeline 'segmentation-monitoring'" in text
    assert "+  drift_psi: 0.3" in text
    assert schedule(said, *watch)[0] == 0
    assert [one["display_name"] for one in server.pipelines.values()] == ["segmentation-monitoring"]
    assert "up to date" in schedule(said, *watch)[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("drift_psi=-1", "drift_psi is -1.0, expected more than 0"),
        ("drift_psi=nan", "--set drift_psi=nan: expected a finite number"),
        ("drift_hours=0", "drift_hours is 0.0, expected more than 0 and at most 876,000 (a century)"),
        ("served_log=", "served_log is empty, expected the folder where a volume of the profile has the server's log"),
        ("minimum_score=2", "the pipeline's parameters: register.minimum is 2.0, expected a number from 0 to 1"),
        ("learning_rate=1e999", "--set learning_rate=1e999: expected a finite number"),
        (f"gpu_count=1{'0' * 400}", f"--set gpu_count=1{'0' * 400}: expected a whole number"),
    ],
)
def test_what_the_first_pod_would_refuse_is_refused_before_it(
    server: Server, said: Said, given: str, sentence: str
) -> None:
    code, text = schedule(said, "--every", "1h", "--pipeline", "monitoring", "--set", given)
    assert (code, text) == (2, f"error: {sentence}\n")
    assert server.writes == []


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
        server.recurring_runs[f"id-{number}"] = {
            **one,
            "recurring_run_id": f"id-{number}",
            "display_name": f"other {number}",
        }
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
        (("--cron", "0 3 * * *"), "Kubeflow reads the first as seconds: write '0 0 3 * * *'"),
        (("--cron", "0 0 25 * * *"), "values from 0 to 23"),
        (("--cron", "0 0 0 31 2 *"), "matches no date"),
        (("--cron", ""), "has 0 fields, expected 6"),
        (("--every", "often"), "as 30m, 6h or 1d"),
        (("--every", ""), "as 30m, 6h or 1d"),
        (("--every", "0d"), "as 30m, 6h or 1d"),
        (("--every", "99999999999d"), "up to 3660d"),
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


def test_a_schedule_needs_a_name_of_which_kubernetes_can_make_one(server: Server, said: Said) -> None:
    for name, hint in ((" ", "a name"), ("夜-train", "'-train', which must not begin with a hyphen")):
        code, text = said("schedule", name, "--every", "1d", "--image", IMAGE)
        assert code == 2
        assert hint in text
    assert server.writes == []
    assert said("schedule", "nächtlich um drei", "--every", "1d", "--image", IMAGE)[0] == 0
    assert [one["display_name"] for one in server.recurring_runs.values()] == ["nächtlich um drei"]


@pytest.mark.parametrize("change", [("schedule", "--every", "1d", "--image", IMAGE), ("unschedule",)])
@pytest.mark.parametrize("version", ["2.17.0", "2.15.2", "unknown"])
def test_a_run_in_progress_outlives_its_schedule(
    server: Server, said: Said, version: str, change: tuple[str, ...]
) -> None:
    """Kubernetes deletes a Workflow with the schedule that owns it, unless asked to leave it as an orphan."""
    server.version = version
    command, *options = change
    schedule(said, "--cron", "0 0 3 * * *")
    (old,) = server.recurring_runs
    run = server.start_scheduled_run(old)
    code, text = said(command, "nightly", *options)
    assert code == 0
    assert run["run_id"] in text
    assert server.killed == []
    if version == "2.17.0":
        assert "its run in progress continues" in text
        assert old not in server.recurring_runs
        return
    assert "disabled, not deleted" in text
    assert server.recurring_runs[old]["status"] == "DISABLED"
    run["state"] = "SUCCEEDED"
    assert said(command, "nightly", *options)[0] == 0
    assert old not in server.recurring_runs


def test_the_installations_own_service_account_is_no_difference(server: Server, said: Said) -> None:
    server.default_account = "our-runner"
    schedule(said, "--every", "1d")
    assert "up to date" in schedule(said, "--every", "1d")[1]
    server.default_account = "another-runner"
    assert "up to date" in schedule(said, "--every", "1d")[1]


def test_a_periodic_schedule_keeps_its_phase(server: Server, said: Said) -> None:
    """Kubeflow counts from start_time, and starts a run at once if two periods have passed since."""
    schedule(said, "--every", "1d")
    (first,) = server.recurring_runs.values()
    for number in (1, 2):
        (old,) = server.recurring_runs.values()
        schedule(said, "--every", "1d", "--set", f"seed={number}")
        (new,) = server.recurring_runs.values()
        assert new != old
        start = datetime.fromisoformat(new["trigger"]["periodic_schedule"]["start_time"])
        passed = start - datetime.fromisoformat(first["created_at"])
        assert passed % timedelta(days=1) == timedelta(0), "the time of day at which the first one was created"
        assert timedelta(0) <= datetime.now(UTC) - start < timedelta(days=1)
    schedule(said, "--every", "6h")
    (new,) = server.recurring_runs.values()
    assert "start_time" not in new["trigger"]["periodic_schedule"], "another period counts from its creation"


@pytest.mark.parametrize("newest", [0, 1])
def test_of_two_made_in_the_same_second_the_right_one_stays(server: Server, said: Said, newest: int) -> None:
    schedule(said, "--every", "1d")
    (one,) = server.recurring_runs.values()
    other = {**one, "recurring_run_id": "other", "trigger": {"cron_schedule": {"cron": "0 0 3 * * *"}}}
    both = [one, other][:: -1 if newest else 1]
    server.recurring_runs = {run["recurring_run_id"]: run for run in both}
    text = schedule(said, "--every", "1d")[1]
    assert "its predecessor other deleted" in text
    assert list(server.recurring_runs) == [one["recurring_run_id"]]


@pytest.mark.usefixtures("server")
def test_what_made_the_version_another_is_shown(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule runs the image, and the format of the kfp release, that it was compiled with."""
    schedule(said, "--every", "1d")
    compile_ = commands._compile

    def newer(name: str, default: dict[str, Any], profile: Profile, image: Image, path: Path) -> Path:
        compile_(name, default, profile, image, path)
        text = path.read_text().replace("sdkVersion: kfp-2.", "sdkVersion: kfp-9.")
        path.write_text(text.replace(IMAGE, IMAGE.replace("0", "1")))
        return path

    monkeypatch.setattr(commands, "_compile", newer)
    code, text = schedule(said, "--every", "1d", "--dry-run")
    assert code == 0
    assert f"-image: {IMAGE}" in text
    assert "+compiled by: kfp-9." in text


@pytest.mark.parametrize(("status", "code"), [(403, 2), (500, 75)])
def test_a_version_that_cannot_be_read_is_not_a_deleted_one(server: Server, said: Said, status: int, code: int) -> None:
    schedule(said, "--every", "1d")
    server.fail, server.failure = ("GET", "/versions/"), Refusal(status, "PermissionDenied: no")
    server.writes.clear()
    assert schedule(said, "--every", "1d")[0] == code
    assert server.writes == []
    server.fail = None
    server.versions.clear()
    assert "-version: deleted" in schedule(said, "--every", "1d")[1]


@pytest.mark.parametrize("source", [{}, {"pipeline_version_reference": {"pipeline_id": "p"}}])
def test_a_schedule_made_by_hand_without_a_version_is_replaced(
    server: Server, said: Said, source: dict[str, Any]
) -> None:
    schedule(said, "--every", "1d")
    (run,) = server.recurring_runs.values()
    del run["pipeline_version_reference"], run["trigger"]
    run.update(source)
    assert "no trigger" in said("schedules")[1]
    text = schedule(said, "--every", "1d")[1]
    assert "-version: not fixed" in text
    assert f"its predecessor {run['recurring_run_id']} deleted" in text


def test_next_times_are_those_of_the_installations_time_zone(server: Server, said: Said) -> None:
    text = schedule(said, "--cron", "0 0 3 * * *", "--time-zone", "Europe/Berlin", "--dry-run")[1]
    assert "is Europe/Berlin: " in text
    assert text.count("03:00:00") == 3
    code, text = schedule(said, "--cron", "0 0 3 * * *", "--time-zone", "Mars/Phobos")
    assert code == 2
    assert "expected a name such as UTC or Europe/Berlin" in text
    assert server.writes == []


@pytest.mark.parametrize(
    ("cron", "days"),
    [("0 30 2 * * *", [28, 30, 31]), ("0 0 0 1 * *", [1, 1, 1]), ("0 0 0 1,* * MON", [30, 6, 13])],
)
def test_cron_in_a_time_zone(cron: str, days: list[int]) -> None:
    """02:30 does not exist on 29 March 2026 in Berlin; a ``*`` in a list still means any day, as in robfig/cron 1.2."""
    after = datetime(2026, 3, 27, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert [time.day for time in Cron.parse(cron).next_times(after, 3)] == days
