"""A step's pod on Kubeflow as processes: Argo's emissary, Kubeflow's launcher below it, the step below that.

The emissary hands SIGTERM to the launcher's whole process group and looks once a second whether the launcher is alive
(Argo 4.0.5, workflow/executor/osspecific/signal_linux.go). The launcher handles no signal, and the step's output is a
pipe that it reads (Kubeflow Pipelines 2.17.0, backend/src/v2/component/launcher_v2.go). The end of the emissary, the
container's first process, kills what is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LAUNCHER = """
import subprocess, sys
step = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
for line in step.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
sys.exit(1 if step.wait() else 0)
"""


class Pod:
    """A running pod; its log goes to ``log``."""

    def __init__(self, command: list[str], log: Path, **options: object) -> None:
        with log.open("w") as output:
            self.launcher = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, *command], stdout=output, start_new_session=True, **options
            )

    def delete(self) -> None:
        """As Kubernetes does, just after the emissary looked: the step has its longest time, a second."""
        os.killpg(self.launcher.pid, signal.SIGTERM)
        time.sleep(1)
        assert self.launcher.poll() == -signal.SIGTERM, "the launcher handles no signal"
        with suppress(ProcessLookupError):  # the step has ended by itself
            os.killpg(self.launcher.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        return self.launcher.wait(seconds)
