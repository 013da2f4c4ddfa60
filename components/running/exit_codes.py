"""Exit codes of all command lines, for shells, schedulers and Kubernetes.

0 done · 2 wrong parameters or data: do not retry · 75 transient: retry · 130 interrupted by Ctrl-C · 143 stopped by
SIGTERM after saving a checkpoint. A process that ends with 2 or 75 prints one sentence (``error: ...``) on stderr.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from typing import Any

from segmodels.errors import InputError, TransientError

WRONG, TRANSIENT, INTERRUPTED, STOPPED = 2, 75, 130, 143

FIRST_PAUSE, LONGEST_PAUSE = 15, 300
"""Seconds before the first retry, doubled each time, and the longest."""

ERROR = "error: "
PASSING = "(this may pass: try again)"
"""How the line of an error starts and that of a transient one ends. A TrainJob's step reads both in a pod's log."""


def guarded(work: Callable[[], Any]) -> int:
    """Run ``work``; the exit code. Errors that a user can act on become one sentence on stderr, others pass."""
    try:
        work()
    except InputError as error:
        return _fail(WRONG, str(error))
    except TransientError as error:
        return _fail(TRANSIENT, f"{error} {PASSING}")
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            where = f" ({error.filename})" if error.filename else ""
            advice = "free some space and run the step again, nothing half-written is kept"
            return _fail(WRONG, f"the disk is full{where}: {advice}")
        raise
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def retried(work: Callable[[], Any], retries: int) -> None:
    """Do ``work``; after a transient error again, up to ``retries`` times, with a growing pause."""
    for attempt in range(retries):
        try:
            return work()
        except TransientError as error:
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            print(f"{error}: trying again in {pause} s ({attempt + 1} of {retries})", file=sys.stderr, flush=True)
            time.sleep(pause)
    return work()


def _fail(code: int, message: str) -> int:
    print(f"{ERROR}{message}", file=sys.stderr, flush=True)
    return code
