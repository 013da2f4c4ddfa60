"""The last step of a pipeline run and how it ended, for the notification.

Kubeflow Pipelines 2.17 tells an exit handler neither which step failed nor why (backend/src/v2/driver/resolve.go: the
error of the final status is empty). So each step writes a small object beside the checkpoints, ``runs/RUN/``, when it
starts and when it ends. A step that was killed leaves the record of its start. Parts of a step run side by side, so
each has an object of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from components.environment import environment
from components.kubeflow.termination_message import write_termination_message
from segmodels.errors import InputError, TransientError
from segmodels.files import parse_json, reading

LAST_STEP = "last_step.json"
PARTS = "parts_of_steps/"
"""Begins the names of the records of parts."""

IMPATIENT: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 15, "retries": {"total_max_attempts": 2}}
"""Settings of the store's client: a record is not worth a minute of every step if the store does not answer."""


@dataclass(frozen=True)
class LastStep:
    """The step that started last.

    Attributes:
        step: its name.
        ended: whether it ended without an error.
        error: the sentence that it ended with; empty while it runs, when it succeeded, and when it was killed.
    """

    step: str
    ended: bool = False
    error: str = ""


@contextmanager
def recorded(step: str, part: int | None = None) -> Iterator[None]:
    """Record that ``step`` (or one part of it) runs, and how it ends, in the object store and as the container's
    termination message.

    A store that does not answer does not fail the step.
    """
    name = LAST_STEP if part is None else f"{PARTS}{step}-{part}.json"
    step = step if part is None else f"{step} {part}"
    write_record(name, asdict(LastStep(step)))
    try:
        yield
    except BaseException as error:
        write_termination_message(error, _sentence(error))
        write_record(name, asdict(LastStep(step, error=_sentence(error))))
        raise
    write_record(name, asdict(LastStep(step, ended=True)))


def last_step() -> LastStep | None:
    """The last step of this pipeline run, or a part of a step that failed; None if none is known."""
    records = [read_record(name) for name in (*_names_of_parts(), LAST_STEP)]
    steps = [LastStep(**record) for record in records if record]
    failed = [step for step in steps if step.error] or [step for step in steps if not step.ended]
    return next(iter(failed or steps[-1:]), None)


def write_record(name: str, facts: dict[str, Any]) -> None:
    """Store ``facts`` under ``runs/RUN/name``. Does nothing without an object store of checkpoints; never fails."""
    from components.storage.s3 import s3_client, split_url, translate_errors

    if not (folder := _folder()):
        return
    bucket, prefix = split_url(folder)
    try:
        with translate_errors(folder, connected=True):
            s3_client(**IMPATIENT).put_object(Bucket=bucket, Key=prefix + name, Body=json.dumps(facts).encode())
    except (InputError, TransientError) as error:
        print(f"{name} cannot be stored ({error}): the notification will not know this step's end", flush=True)


def read_record(name: str) -> dict[str, Any]:
    """The record of this name that ``write_record`` stored; empty if there is none or the store does not answer."""
    from components.storage.s3 import s3_client, split_url, translate_errors

    if not (folder := _folder()):
        return {}
    bucket, prefix = split_url(folder)
    facts: dict[str, Any] = {}
    try:
        with translate_errors(folder, connected=True):
            client = s3_client(**IMPATIENT)
            with suppress(client.exceptions.NoSuchKey):
                content = client.get_object(Bucket=bucket, Key=prefix + name)["Body"].read()
                with reading(f"{folder}{name}", damaged="it is left out"):
                    facts = parse_json(content, {})
    except (InputError, TransientError) as error:
        print(f"{error}", flush=True)
    return facts


def _names_of_parts() -> list[str]:
    """Names of the records of parts; none if the store does not answer."""
    from components.storage.s3 import list_folder, s3_client, translate_errors

    if not (folder := _folder()):
        return []
    try:
        with translate_errors(folder, connected=True):
            return [PARTS + name for name, _ in list_folder(s3_client(**IMPATIENT), folder + PARTS)]
    except (InputError, TransientError):  # reading the other record says so
        return []


def _folder() -> str:
    """``s3://.../`` of this pipeline run's records; empty without an object store or outside of a pipeline run."""
    settings = environment()
    if not settings.pipeline_run or not settings.checkpoints.startswith("s3://"):
        return ""
    return f"{settings.checkpoints.rstrip('/')}/runs/{settings.pipeline_run}/"


def _sentence(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it was stopped (exit code {error.code})"
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError | TransientError) else f"{type(error).__name__}: {text}".rstrip(": ")
