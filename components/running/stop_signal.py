"""SIGTERM and SIGINT as a flag that a loop polls."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn


class StopSignal:
    """Context manager: handles SIGTERM (a scheduler takes the machine back) and SIGINT for a process with a state.

    Until ``defer`` is called there is nothing to save, and SIGTERM ends the process at once. From then on a signal
    makes the object true; the loop that asks saves and leaves. A second signal ends the process at once.

    Attributes:
        exit_code: 128 + number of the signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        self._handle(signal.SIGTERM, self._leave)
        return self

    def defer(self) -> None:
        """Leave the answer to signals to the loop that asks, from now on."""
        self._handle(signal.SIGTERM, self._received)
        self._handle(signal.SIGINT, self._received)

    def __call__(self) -> bool:
        return self.exit_code != 0

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _leave(self, number: int, _frame: object) -> None:
        _end(b"stopped before training began: there is nothing to save\n", 128 + number)

    def _received(self, number: int, _frame: object) -> None:
        if self.exit_code:
            _end(b"stopped at once: the next run resumes from the state before\n", self.exit_code)
        self.exit_code = 128 + number

    def _handle(self, number: signal.Signals, handler: Any) -> None:
        try:
            before = signal.signal(number, handler)
        except ValueError:  # not the main thread: the caller owns the signals
            return
        self._before.setdefault(number, before)


def _end(sentence: bytes, code: int) -> NoReturn:
    """No exception: raised inside a library, logging say, it could leave a lock held that other threads wait for."""
    os.write(2, sentence)
    os._exit(code)
