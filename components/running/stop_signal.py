"""SIGTERM and SIGINT as a question that a loop asks."""

from __future__ import annotations

import signal


class StopSignal:
    """True once SIGTERM (a scheduler takes the machine back) or SIGINT came; the loop then saves and leaves.

    Attributes:
        exit_code: 128 + number of the signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        try:
            signal.signal(signal.SIGTERM, self._received)
            signal.signal(signal.SIGINT, self._received)
        except ValueError:  # not the main thread: the caller owns the signals
            pass

    def _received(self, number: int, _frame: object) -> None:
        if self.exit_code:  # asked twice: at once
            raise KeyboardInterrupt
        self.exit_code = 128 + number

    def __call__(self) -> bool:
        return self.exit_code != 0
