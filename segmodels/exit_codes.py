"""Exit codes of all command lines, for shells, schedulers and Kubernetes.

0 done · 1 a bug of this project, with its traceback · 2 wrong parameters or data, or a machine that refuses: do not
retry · 3 the served images have drifted (``components drift``) · 75 transient: retry · 130 interrupted by Ctrl-C · 141
the reader of the output has ended (``... | head``) · 143 stopped by SIGTERM after saving a checkpoint. A process that
ends with 2 or 75 prints one sentence (``error: ...``) on stderr.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError
from segmodels.machine import refused_by_machine, set_home

BUG = 1
WRONG, DRIFTED, TRANSIENT, INTERRUPTED, UNREAD, STOPPED = 2, 3, 75, 130, 141, 143

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

    Raises:
        SystemExit: ``work`` does, as argparse after ``--help``, or a training that was stopped.
    """
    _look_for_cycles_less_often()
    try:
        return _exit_code(work)
    finally:
        _drop_unread()


def _look_for_cycles_less_often() -> None:
    """Importing torch and MLflow makes half a million objects that stay. Python would look through them for cycles
    again and again, and once more at its end: 1 to 3 seconds of a step.
    """
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def _exit_code(work: Callable[[], Any]) -> int:
    try:
        set_home()
        work()
        if sys.stdout:  # a refusal gets a sentence here, a traceback at the interpreter's end
            sys.stdout.flush()
    except InputError as error:
        return _fail(WRONG, str(error))
    except TransientError as error:
        return _fail(TRANSIENT, f"{error} {PASSING}")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich has met it
            return UNREAD
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and any(map(_has_no_reader, _outputs())):
            return UNREAD
        if sentence := refused_by_machine(error):
            return _fail(WRONG, sentence)
        _say(without_credentials(traceback.format_exc()) + REPORT_IT)
        return BUG
    return 0


def _outputs() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream]


def _has_no_reader(stream: TextIO) -> bool:
    """Whether it is a pipe or a connection whose other end is closed."""
    watch = select.poll()
    try:
        watch.register(stream, 0)
    except (OSError, ValueError):  # it is not of the operating system
        return False
    return bool(watch.poll(0))


def _drop_unread() -> None:
    """Drop what the outputs refuse: the interpreter would try to print it again at its end."""
    for stream in _outputs():
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(code: int, message: str) -> int:
    message = without_credentials(message)
    if len(message) > LONGEST_MESSAGE:  # it quotes something endless
        message = f"{message[: LONGEST_MESSAGE - 500]} … {message[-500:]}"
    _say(f"{ERROR}{message}")
    return code


def _say(text: str) -> None:
    with suppress(OSError):  # nobody reads stderr
        print(text, file=sys.stderr, flush=True)
