"""Follows a TrainJob until it is complete: prints its state and the first pod's log, and turns its failure into one
sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from segmodels.errors import InputError, TransientError
from segmodels.exit_codes import ERROR, PASSING

POLL_SECONDS = 5.0
START_MINUTES = 60
"""How long pods may wait for their place in the cluster."""
AWAY_MINUTES = 10
"""How long Kubernetes may fail to answer while the pods train."""


def follow(client: Any, name: str, nodes: int, check: Callable[[], None]) -> None:
    """Return when the TrainJob is complete.

    Args:
        check: called several times a second; what it raises ends the following.

    Raises:
        InputError: it failed (with the error message of the first pod's log), or it was removed.
        TransientError: it failed with a transient error, its pods are not scheduled, or Kubernetes does not answer.
    """
    log, said = _Log(client, name), ""
    waiting_since = answered = time.monotonic()
    while True:
        check()
        try:
            job = client.get_job(name)
        except (RuntimeError, TimeoutError) as error:
            if is_missing(error):
                raise InputError(
                    f"TrainJob {name} is gone: somebody removed it; run the step again, it resumes from the last"
                    " checkpoint"
                ) from None
            if time.monotonic() - answered > AWAY_MINUTES * 60:
                raise TransientError(
                    f"Kubernetes has not answered about TrainJob {name} for {AWAY_MINUTES} minutes"
                    f" ({error.__cause__ or error})"
                ) from None
            pause(POLL_SECONDS, check)
            continue
        answered = time.monotonic()
        running = sum(step.status in ("Running", "Succeeded", "Complete") for step in job.steps)
        if (saying := f"TrainJob {name}: {job.status.lower()}, {running} of {nodes} pods run") != said:
            print(said := saying, flush=True)
        if running == nodes:
            waiting_since = answered
        log.follow(job)
        if job.status == "Complete":
            log.finish()
            return
        if job.status == "Failed":
            log.finish()
            raise _failure(name, log)
        if answered - waiting_since > START_MINUTES * 60:
            reason = _why_waiting(client, name)
            raise TransientError(
                f"the pods of TrainJob {name} have found no place in the cluster for {START_MINUTES} minutes{reason}"
            )
        pause(POLL_SECONDS, check)


def pause(seconds: float, check: Callable[[], None]) -> None:
    """Wait, and call ``check`` every tenth of a second. A pod that is deleted on a Kubeflow cluster has a second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.1))


def _failure(name: str, log: _Log) -> Exception:
    if not log.error:
        return InputError(
            f"TrainJob {name} failed repeatedly without an error message of its own (out of memory, or a lost node?):"
            " see the log above"
        )
    if log.error.endswith(PASSING):
        return TransientError(f"TrainJob {name} failed: {log.error.removesuffix(PASSING).rstrip()}")
    return InputError(f"TrainJob {name} failed: {log.error}")


def _why_waiting(client: Any, name: str) -> str:
    try:
        warnings = [
            event.message
            for event in client.get_job_events(name)
            if event.reason in ("FailedScheduling", "FailedCreate", "FailedMount", "Failed")  # the last: no image
        ]
    except (RuntimeError, TimeoutError, AttributeError):  # events may not be readable for the step
        return ""
    return f": {' '.join(warnings[-1].split())}" if warnings else ""


class _Log:
    """Copies the log of the first pod into this one's, line by line. Reconnects when the connection breaks, and starts
    over when the pod is replaced.

    Attributes:
        error: the last error message in the log.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name, self.error = client, name, ""
        self._pod, self._lines = "", 0
        self._reader: Thread | None = None

    def follow(self, job: Any) -> None:
        """Read in the background, unless a reader is running."""
        pod = next((step.pod_name for step in job.steps if step.name == "node-0" and step.status != "Pending"), "")
        if not pod or (self._reader and self._reader.is_alive()):
            return
        if pod != self._pod:
            self._pod, self._lines = pod, 0
        self._reader = Thread(target=self._read, args=(True,), daemon=True)
        self._reader.start()

    def finish(self) -> None:
        """Read the rest of the log of a pod that has ended."""
        if self._reader:
            self._reader.join(timeout=30)
        self._read(False)

    def _read(self, follow: bool) -> None:
        try:
            for number, line in enumerate(self.client.get_job_logs(self.name, follow=follow)):
                if number < self._lines:
                    continue
                self._lines = number + 1
                print(line, flush=True)
                if line.startswith(ERROR):
                    self.error = line.removeprefix(ERROR).strip()
        except (RuntimeError, TimeoutError):  # the pod is gone or the connection broke: the next look reads on
            pass


# --- what goes wrong between here and Kubernetes


def is_missing(error: BaseException) -> bool:
    return getattr(error.__cause__, "status", None) == 404


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Translate errors of the SDK and of Kubernetes into InputError and TransientError."""
    try:
        yield
    except TimeoutError as error:
        raise TransientError(f"Kubernetes does not answer ({error})") from None
    except TransientError:
        raise
    except RuntimeError as error:
        cause: Any = error.__cause__ or error
        status, text = (
            getattr(cause, "status", None),
            " ".join(str(getattr(cause, "reason", None) or cause).split())[:300],
        )
        if status in (401, 403):
            raise InputError(
                f"the step may not use TrainJobs ({text}): apply infra/kustomize/runs to its namespace"
            ) from None
        if status == 404:
            raise InputError(
                f"Kubernetes knows no TrainJobs or no runtime for them ({text}): install Kubeflow Trainer 2.2 and"
                " infra/kustomize/runs"
            ) from None
        if status is not None and 400 <= status < 500 and status != 429:
            raise InputError(
                f"Kubernetes refuses TrainJob {name} ({status} {text}): check the profile's resources, node_selector"
                " and tolerations"
            ) from None
        raise TransientError(f"Kubernetes did not accept TrainJob {name} ({text})") from None
