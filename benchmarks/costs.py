"""What a command costs: CPU time and memory of all its processes, Linux only."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """Of a command and all processes that it started.

    Attributes:
        seconds: until the command ended.
        cpu: seconds of all cores together: what other work on the machine hardly changes.
        megabytes: the most that the largest process held.
    """

    seconds: float
    cpu: float
    megabytes: float


def cost_of(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command in ``folder`` and wait for its last process.

    Raises:
        RuntimeError: the command failed.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # processes that it leaves behind come to this one
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment})
    seconds, cpu, kilobytes, status = 0.0, 0.0, 0, 0
    while True:
        try:
            pid, ended, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        if pid == process.pid:
            seconds, status = time.perf_counter() - start, ended
            process.returncode = os.waitstatus_to_exitcode(ended)
        cpu += usage.ru_utime + usage.ru_stime
        kilobytes = max(kilobytes, usage.ru_maxrss)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(seconds, cpu, kilobytes / 1024)
