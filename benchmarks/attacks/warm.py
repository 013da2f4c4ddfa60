"""Commands of the product in one process after another: what is imported once serves many attacks.

``python -m benchmarks.attacks.warm`` reads one JSON line per command, [folder, arguments, variables], and answers with
one, [exit code, what it printed].
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

MOST_MEMORY = 8 << 30
"""Address space, bytes: an attack on memory ends here and not in the machine's last page."""


class Warm:
    """The process, started again when an attack has stopped it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def call(
        self, folder: Path, arguments: Sequence[str], variables: Mapping[str, str], seconds: float
    ) -> tuple[int | None, str]:
        """Exit code and text; None when the time was over."""
        if self._process is None:
            self._process = _start()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(folder), list(arguments), dict(variables)]).encode() + b"\n")
        self._process.stdin.flush()
        line = _line(self._process, time.monotonic() + seconds)
        if line.endswith(b"\n"):
            code, text = json.loads(line)
            return code, text
        hung = self._process.poll() is None and not line
        self.end()
        return (None, "") if hung else (-1, "the process died without a word")

    def end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    from benchmarks.attacks.ground import ROOT, environment

    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.attacks.warm"],
        cwd=ROOT,
        env=environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )


def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What the process answers until then; without a line's end, it did not."""
    assert process.stdout
    line = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not ready.select(max(deadline - time.monotonic(), 0)):
                return b""
            if not (part := os.read(process.stdout.fileno(), 1 << 20)):
                return line or b"died"
            line += part
    return line


def serve() -> None:
    answers = os.dup(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    from components.__main__ import main

    start = dict(os.environ)
    for line in sys.stdin:
        folder, arguments, variables = json.loads(line)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(start | variables)
        with tempfile.TemporaryFile("w+") as output:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            try:
                code = main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            output.seek(0)
            text = bytes(output.buffer.read()).decode(errors="replace")[-20_000:]
        os.write(answers, json.dumps([code, text]).encode() + b"\n")


if __name__ == "__main__":
    serve()
