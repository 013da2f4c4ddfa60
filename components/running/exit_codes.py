"""Exit codes of all command lines, for shells, schedulers and Kubernetes.

0 done · 1 a bug of this project, with its traceback · 2 wrong parameters or data, or a machine that refuses: do not
retry · 75 transient: retry · 130 interrupted by Ctrl-C · 143 stopped by SIGTERM after saving a checkpoint. A process
that ends with 2 or 75 prints one sentence (``error: ...``) on stderr.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from components.running.machine import refused_by_machine, set_home
from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError

BUG = 1
WRONG, TRANSIENT, INTERRUPTED, STOPPED = 2, 75, 130, 143

FIRST_PAUSE, LONGEST_PAUSE = 15, 300
"""Seconds before the first retry, doubled each time, and the longest."""

ERROR = "error: "
PASSING = "(this may pass: try again)"
"""How the line of an error starts and that of a transient one ends. A TrainJob's step reads both in a pod's log."""

LONGEST_MESSAGE = 4000
"""Characters. Of longer messages the start and the end are printed."""

REPORT_IT = (
    "this is a bug of segmodels, not a mistake of yours: please open an issue with the lines above, the command and"
    " params.yaml"
)


def guarded(work: Callable[[], Any]) -> int:
    """Run ``work``; returns the exit code. Errors that a user can act on become one sentence on stderr. Of any other
    error the traceback is printed, with a line that says what to send.
    """
    try:
        set_home()
        work()
    except InputError as error:
        return _fail(WRONG, str(error))
    except TransientError as error:
        return _fail(TRANSIENT, f"{error} {PASSING}")
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if sentence := refused_by_machine(error):
            return _fail(WRONG, sentence)
        print(without_credentials(traceback.format_exc()) + REPORT_IT, file=sys.stderr, flush=True)
        return BUG
    return 0


def retried(work: Callable[[], Any], retries: int) -> None:
    """Do ``work``; after a transient error again, up to ``retries`` times, with a growing pause."""
    for attempt in range(retries):
        try:
            return work()
        except TransientError as error:
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            reason = without_credentials(str(error))
            print(f"{reason}: trying again in {pause} s ({attempt + 1} of {retries})", file=sys.stderr, flush=True)
            time.sleep(pause)
    return work()


def _fail(code: int, message: str) -> int:
    message = without_credentials(message)
    if len(message) > LONGEST_MESSAGE:  # it quotes something endless
        message = f"{message[: LONGEST_MESSAGE - 500]} … {message[-500:]}"
    print(f"{ERROR}{message}", file=sys.stderr, flush=True)
    return code
