"""SIGTERM and SIGINT as a question that a loop asks."""

from __future__ import annotations

import os
import signal


class StopSignal:
    """Handles SIGTERM (a scheduler takes the machine back) and SIGINT for a process that has a state to save.

    Until ``defer`` is called there is nothing to save, and SIGTERM ends the process at once. From then on the object
    is true once a signal has come; the loop that asks saves and leaves. A second signal ends the loop at once.

    Attributes:
        exit_code: 128 + number of the signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._handle(signal.SIGTERM, self._leave)

    def defer(self) -> None:
        """From now on signals are answered by the loop that asks."""
        self._handle(signal.SIGTERM, self._received)
        self._handle(signal.SIGINT, self._received)

    def __call__(self) -> bool:
        return self.exit_code != 0

    def _leave(self, number: int, _frame: object) -> None:
        # no exception: raised inside a library, logging say, it could leave a lock held that other threads wait for
        os.write(2, b"stopped before training began: there is nothing to save\n")
        os._exit(128 + number)

    def _received(self, number: int, _frame: object) -> None:
        if self.exit_code:
            raise KeyboardInterrupt
        self.exit_code = 128 + number

    def _handle(self, number: signal.Signals, handler: object) -> None:
        try:
            signal.signal(number, handler)  # type: ignore[arg-type]
        except ValueError:  # not the main thread: the caller owns the signals
            pass
