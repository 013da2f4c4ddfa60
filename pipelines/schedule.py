"""Scheduled runs. Kubeflow cannot change a recurring run, so a new one is made and then the old one of that name
deleted.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.cluster import Server, experiment_id, find_experiment, translate_errors
from pipelines.training import NAME
from segmodels.errors import InputError, TransientError

PAGE = 100

OWN_ACCOUNTS = ("pipeline-runner", "default-editor")
"""What Kubeflow puts in where a recurring run names no service account: by itself, and in a namespace of a user."""


@dataclass(frozen=True)
class Schedule:
    """When to run what.

    Attributes:
        name: of the recurring run.
        cron: six fields, or None.
        seconds: between two runs, or None.
        values: pipeline parameters that differ from the defaults.
        service_account: of the pods, None for Kubeflow's own.
    """

    name: str
    cron: str | None
    seconds: int | None
    values: Mapping[str, Any]
    service_account: str | None = None


def version_name(package: Path, code_revision: str) -> str:
    """Name of the pipeline version: the code's revision, and a digest of the compiled pipeline, as parameters and
    profile shape it, too.
    """
    dirty = "-dirty" if code_revision.endswith("-dirty") else ""
    return f"{code_revision[:12]}{dirty}-{hashlib.sha256(package.read_bytes()).hexdigest()[:8]}"


def apply(server: Server, schedule: Schedule, package: Path, code_revision: str, *, dry_run: bool = False) -> list[str]:
    """Make the recurring run of that name as ``schedule`` says; nothing where it is so already.

    Returns:
        What differed and what was done, in lines. With ``dry_run`` what would be.
    """
    version = version_name(package, code_revision)
    pipeline = _pipeline_id(server)
    version_id = _version_id(server, pipeline, version) if pipeline else None
    old = [run for run in recurring_runs(server) if run.display_name == schedule.name]
    difference = _difference(_existing(server, old[0]) if old else {}, _facts(schedule, version))
    superseded = old if difference else old[1:]
    if dry_run:
        doing = [f"would upload pipeline {NAME!r} version {version}"] if difference and not version_id else []
        doing += [f"would create schedule {schedule.name!r}"] if difference else []
        doing += [f"would delete its predecessor {run.recurring_run_id}" for run in superseded]
        return difference + (doing or [f"schedule {schedule.name!r} is up to date: version {version}"])
    done = list(difference)
    if difference:
        if not pipeline or not version_id:
            pipeline, version_id = _upload(server, pipeline, package, version)
        done.append(
            f"schedule {schedule.name!r} created: {_create(server, schedule, pipeline, version_id)}, version {version}"
        )
    for run in superseded:
        try:
            _delete(server, run)
        except (InputError, TransientError) as error:
            hint = "the schedule exists twice until it is deleted: run the command again"
            raise type(error)(
                f"the predecessor {run.recurring_run_id} of schedule {schedule.name!r} could not be deleted ({error});"
                f" {hint}"
            ) from None
        done.append(f"its predecessor {run.recurring_run_id} deleted")
    return done or [f"schedule {schedule.name!r} is up to date: version {version}"]


def remove(server: Server, name: str) -> list[str]:
    """Delete the recurring runs of that name.

    Raises:
        InputError: there is none.
    """
    runs = recurring_runs(server)
    chosen = [run for run in runs if run.display_name == name]
    if not chosen:
        known = ", ".join(sorted(run.display_name for run in runs)) or "none"
        raise InputError(f"there is no schedule {name!r}: `python -m pipelines schedules` lists them ({known})")
    for run in chosen:
        _delete(server, run)
    return [f"schedule {name!r} ({run.recurring_run_id}) deleted" for run in chosen]


def recurring_runs(server: Server) -> list[Any]:
    """The recurring runs of our experiment, newest first."""
    runs: list[Any] = []
    token = ""
    experiment = find_experiment(server)
    while experiment:
        with translate_errors(server):
            page = server.client.list_recurring_runs(
                page_token=token, page_size=PAGE, sort_by="created_at desc", experiment_id=experiment
            )
        runs += page.recurring_runs or []
        token = page.next_page_token
        if not token:
            break
    return runs


def describe(run: Any) -> str:
    """A recurring run in one line."""
    state = {"ENABLED": "", "DISABLED": "  (disabled)"}.get(str(run.status), f"  ({run.status})")
    return f"{run.display_name:<24} {_trigger(run):<24} {run.recurring_run_id}{state}"


def _trigger(run: Any) -> str:
    trigger = run.trigger
    if trigger.cron_schedule and trigger.cron_schedule.cron:
        return f"cron {trigger.cron_schedule.cron}"
    return f"every {trigger.periodic_schedule.interval_second} s" if trigger.periodic_schedule else "no trigger"


# --- what is there, what is wanted


def _facts(schedule: Schedule, version: str) -> dict[str, Any]:
    trigger = f"cron {schedule.cron}" if schedule.cron else f"every {schedule.seconds} s"
    account = "" if schedule.service_account in OWN_ACCOUNTS else schedule.service_account or ""
    return {
        "when": trigger,
        "version": version,
        "parameters": dict(schedule.values),
        "service account": account,
        "enabled": True,
    }


def _existing(server: Server, run: Any) -> dict[str, Any]:
    reference = run.pipeline_version_reference
    try:
        with translate_errors(server):
            version = server.client.get_pipeline_version(
                reference.pipeline_id, reference.pipeline_version_id
            ).display_name
    except InputError:
        version = "deleted"
    parameters = (run.runtime_config.parameters if run.runtime_config else None) or {}
    account = "" if run.service_account in OWN_ACCOUNTS else run.service_account or ""
    return {
        "when": _trigger(run),
        "version": version,
        "parameters": parameters,
        "service account": account,
        "enabled": str(run.status) == "ENABLED",
    }


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


def _pipeline_id(server: Server) -> str | None:
    named = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": NAME}]})
    with translate_errors(server):
        found = (
            server.client.list_pipelines(page_size=PAGE, filter=named, namespace=server.namespace or None).pipelines
            or []
        )
    return found[0].pipeline_id if found else None


def _version_id(server: Server, pipeline: str, name: str) -> str | None:
    named = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
    with translate_errors(server):
        found = server.client.list_pipeline_versions(pipeline, page_size=PAGE, filter=named).pipeline_versions or []
    return found[0].pipeline_version_id if found else None


def _upload(server: Server, pipeline: str | None, package: Path, version: str) -> tuple[str, str]:
    with translate_errors(server):
        if pipeline is None:
            pipeline = server.client.upload_pipeline(str(package), NAME, namespace=server.namespace or None).pipeline_id
        uploaded = server.client.upload_pipeline_version(str(package), version, pipeline_id=pipeline)
    return str(pipeline), uploaded.pipeline_version_id


def _create(server: Server, schedule: Schedule, pipeline: str, version: str) -> str:
    experiment = experiment_id(server)
    with translate_errors(server):
        return server.client.create_recurring_run(
            experiment,
            schedule.name,
            cron_expression=schedule.cron,
            interval_second=schedule.seconds,
            params=dict(schedule.values),
            pipeline_id=pipeline,
            version_id=version,
            no_catchup=True,
            max_concurrency=1,
            service_account=schedule.service_account,
        ).recurring_run_id


def _delete(server: Server, run: Any) -> None:
    with translate_errors(server):
        server.client.delete_recurring_run(run.recurring_run_id)
