"""Scheduled runs (Kubeflow's recurring runs).

Kubeflow cannot change a recurring run. To change a schedule, ``apply`` creates a new recurring run and then deletes the
old one of that name. If the schedule's time comes in the second between the two, both start a run.

A scheduled run belongs to its schedule: Kubernetes deletes its pods with the schedule unless the request asks to leave
them (``ORPHAN``; Kubeflow Pipelines 2.16, api/v2beta1/recurring_run.proto). Older servers ignore that, so there a
schedule with a run in progress is disabled, not deleted. Either way its run in progress continues, and the first run of
the new schedule may start beside it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipelines.cluster import Server, experiment_id, find_experiment
from pipelines.server_errors import UnknownIdError, translate_errors
from pipelines.versions import compiled_facts, find_version, pipeline_name, upload_version, version_name
from segmodels.errors import InputError, TransientError

PAGE = 100

LEAVES_RUNS = (2, 16)
"""The first release of Kubeflow Pipelines that can delete a schedule without its runs in progress."""

IN_PROGRESS = ("PENDING", "RUNNING", "PAUSED", "CANCELING")


@dataclass(frozen=True)
class Schedule:
    """When to run the pipeline, and with which parameters.

    Attributes:
        name: of the recurring run.
        cron: six fields, or None.
        seconds: between two runs, or None.
        values: pipeline parameters that differ from the defaults.
        service_account: of the pods; None leaves it to the installation.
    """

    name: str
    cron: str | None
    seconds: int | None
    values: Mapping[str, Any]
    service_account: str | None = None


def apply(server: Server, schedule: Schedule, package: Path, code_revision: str, *, dry_run: bool = False) -> list[str]:
    """Create or replace the recurring run of that name; do nothing if it is up to date.

    Returns:
        The differences and what was done, in lines; with ``dry_run`` what would be done.
    """
    version = version_name(package, code_revision)
    old = [run for run in recurring_runs(server) if run.display_name == schedule.name]
    wanted = _wanted(schedule, version, package)
    differences = [_difference(_existing(server, run, schedule), wanted) for run in old]
    # not simply the newest: two that were created in the same second have no order
    kept = next((run for run, difference in zip(old, differences, strict=True) if not difference), None)
    difference = [] if kept else (differences or [_difference({}, wanted)])[0]
    superseded = [run for run in old if run is not kept]
    if dry_run:
        missing = difference and not find_version(server, package, version)
        doing = [f"would upload pipeline {pipeline_name(package)!r} version {version}"] if missing else []
        doing += [f"would create schedule {schedule.name!r}"] if difference else []
        doing += [f"would delete its predecessor {run.recurring_run_id}" for run in superseded]
        return difference + (doing or [f"schedule {schedule.name!r} is up to date: version {version}"])
    done = list(difference)
    if difference:
        pipeline, version_id = find_version(server, package, version) or upload_version(server, package, version)
        start = _phase(old[0], schedule) if old else None
        created = _create(server, schedule, pipeline, version_id, start)
        done.append(f"schedule {schedule.name!r} created: {created}, version {version}")
    for run in superseded:
        try:
            done.append(f"its predecessor {run.recurring_run_id} {_delete(server, run)}")
        except (InputError, TransientError) as error:
            hint = "the schedule exists twice until it is deleted: run the command again"
            raise type(error)(
                f"the predecessor {run.recurring_run_id} of schedule {schedule.name!r} could not be deleted ({error});"
                f" {hint}"
            ) from None
    return done or [f"schedule {schedule.name!r} is up to date: version {version}"]


def remove(server: Server, name: str) -> list[str]:
    """Delete the recurring runs of that name. Runs in progress continue.

    Raises:
        InputError: there is none.
    """
    runs = recurring_runs(server)
    chosen = [run for run in runs if run.display_name == name]
    if not chosen:
        known = ", ".join(sorted(run.display_name for run in runs)) or "none"
        raise InputError(f"there is no schedule {name!r}: `python -m pipelines schedules` lists them ({known})")
    return [f"schedule {name!r} ({run.recurring_run_id}) {_delete(server, run)}" for run in chosen]


def recurring_runs(server: Server) -> list[Any]:
    """The recurring runs of our experiment, newest first."""
    runs: list[Any] = []
    place = ""  # in the list
    experiment = find_experiment(server)
    while experiment:
        with translate_errors(server):
            page = server.client.list_recurring_runs(
                page_token=place, page_size=PAGE, sort_by="created_at desc", experiment_id=experiment
            )
        runs += page.recurring_runs or []
        place = page.next_page_token
        if not place:
            break
    return runs


def describe(run: Any) -> str:
    """A recurring run in one line."""
    state = {"ENABLED": "", "DISABLED": "  (disabled)"}.get(str(run.status), f"  ({run.status})")
    return f"{run.display_name:<24} {_trigger(run):<24} {run.recurring_run_id}{state}"


def _trigger(run: Any) -> str:
    cron, periodic = (run.trigger.cron_schedule, run.trigger.periodic_schedule) if run.trigger else (None, None)
    if cron and cron.cron:
        return f"cron {cron.cron}"
    return f"every {periodic.interval_second} s" if periodic else "no trigger"


# --- differences


def _wanted(schedule: Schedule, version: str, package: Path) -> dict[str, Any]:
    trigger = f"cron {schedule.cron}" if schedule.cron else f"every {schedule.seconds} s"
    return {
        "when": trigger,
        "version": version,
        **compiled_facts(next(yaml.load_all(package.read_bytes(), yaml.CSafeLoader))),
        "parameters": dict(schedule.values),
        "service account": schedule.service_account or "",
        "enabled": True,
    }


def _existing(server: Server, run: Any, schedule: Schedule) -> dict[str, Any]:
    name, spec = _version_of(server, run)
    parameters = (run.runtime_config.parameters if run.runtime_config else None) or {}
    return {
        "when": _trigger(run),
        "version": name,
        **compiled_facts(spec.get("pipeline_spec", spec)),
        "parameters": parameters,
        # without one in the profile the installation names its own, which no API tells
        "service account": (run.service_account or "") if schedule.service_account else "",
        "enabled": str(run.status) == "ENABLED",
    }


def _version_of(server: Server, run: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and compiled pipeline of the version that a recurring run runs."""
    reference = run.pipeline_version_reference
    if not reference or not reference.pipeline_version_id:  # made by hand: a pipeline of its own, or always the latest
        return "not fixed", run.pipeline_spec or {}
    try:
        with translate_errors(server):
            version = server.client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
    except UnknownIdError:
        return "deleted", {}
    return version.display_name, version.pipeline_spec or {}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines with - and +."""

    def lines(facts: Mapping[str, Any]) -> list[str]:
        plain = json.loads(
            json.dumps(facts), parse_float=lambda text: int(float(text)) if float(text).is_integer() else float(text)
        )  # 3 comes back as 3.0
        return yaml.safe_dump(plain, sort_keys=True).splitlines() if facts else []

    return [
        line
        for line in difflib.unified_diff(lines(old), lines(new), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]


# --- changes


def _create(server: Server, schedule: Schedule, pipeline: str, version: str, start: datetime | None) -> str:
    experiment = experiment_id(server)
    with translate_errors(server):
        return str(
            server.client.create_recurring_run(
                experiment,
                schedule.name,
                start_time=f"{start:%Y-%m-%dT%H:%M:%SZ}" if start else None,
                cron_expression=schedule.cron,
                interval_second=schedule.seconds,
                params=dict(schedule.values),
                pipeline_id=pipeline,
                version_id=version,
                no_catchup=True,
                max_concurrency=1,
                service_account=schedule.service_account,
            ).recurring_run_id
        )


def _phase(old: Any, schedule: Schedule) -> datetime | None:
    """The last time of a periodic schedule before now, for a successor with the same period to count from; None if
    there is none. Kubeflow would count from the successor's creation, so one that is replaced daily and runs daily
    would never run. (A start further back would start a run at once: GetNextScheduledEpochNoCatchup in
    backend/src/crd/controller/scheduledworkflow/util/periodic_schedule.go.)
    """
    periodic = old.trigger.periodic_schedule if old.trigger else None
    if not schedule.seconds or not periodic or int(periodic.interval_second) != schedule.seconds:
        return None
    start = periodic.start_time or old.created_at
    passed = (datetime.now(UTC) - start) // timedelta(seconds=schedule.seconds)
    return start + max(passed, 0) * timedelta(seconds=schedule.seconds)


def _delete(server: Server, run: Any) -> str:
    """Delete a recurring run, but not its runs in progress. Where the server cannot, disable it.

    Returns:
        What was done, as the end of a sentence.
    """
    key = run.recurring_run_id
    leaves_runs = server.version is not None and server.version >= LEAVES_RUNS
    running = _runs_in_progress(server, key)
    if running and not leaves_runs:
        with translate_errors(server):
            server.client.disable_recurring_run(key)
        return (
            "disabled, not deleted, because this Kubeflow would end its run in progress with it"
            f" ({', '.join(running)}): run the command again when the run has ended"
        )
    with suppress(UnknownIdError), translate_errors(server):  # another process may have deleted it
        # kfp's own method has no argument for the policy
        server.client._recurring_run_api.recurring_run_service_delete_recurring_run(
            recurring_run_id=key, propagation_policy="ORPHAN"
        )
    return f"deleted; its run in progress continues: {', '.join(running)}" if running else "deleted"


def _runs_in_progress(server: Server, recurring_run: str) -> list[str]:
    """Their ids, of the newest runs."""
    with translate_errors(server):
        runs = server.client.list_runs(
            page_size=PAGE, sort_by="created_at desc", experiment_id=find_experiment(server)
        ).runs
    return [run.run_id for run in runs or [] if run.recurring_run_id == recurring_run and str(run.state) in IN_PROGRESS]
