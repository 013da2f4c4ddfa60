"""A thread that sends metrics and files to MLflow beside a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING

from components.running.wording import as_clause
from segmodels.errors import InputError, TransientError

if TYPE_CHECKING:
    from components.tracking.journal import Entry
    from components.tracking.run import Run

PAUSE = 60.0
"""Seconds between attempts while MLflow does not answer."""

PATIENCE, PATIENCE_AWAY = 10.0, 3.0
"""Seconds to wait for an answer: of a server that answered the last time, and of one that did not."""

SECONDS_TO_FINISH, SECONDS_TO_STOP = 60.0, 5.0
"""How long ``finish`` waits: after a whole training, and after a signal, when the machine is about to be taken away."""


class MetricSender:
    """Sends entries in their order, then files, and the run's end after the last. Nobody ever waits for the server,
    except ``finish``, which waits a little.

    While the server is away entries and files stay; the thread tries again once a minute.
    """

    def __init__(self, run: Run, waiting: Sequence[Entry]) -> None:
        self._run = run
        self._waiting = list(waiting)
        self._files: list[Callable[[], None]] = []
        self._status: str | None = None
        self._away = False
        self._file_refused = False
        self._next_attempt = 0.0
        self._changed = Condition()
        self._ended = False
        self._thread = Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        with self._changed:
            self._waiting.append(entry)
            self._changed.notify()

    def upload(self, send: Callable[[], None]) -> None:
        """Call ``send``, which sends a file, when all entries are sent; again later if it raises TransientError."""
        with self._changed:
            self._files.append(send)
            self._changed.notify()

    def finish(self, status: str, seconds: float) -> int:
        """Send what waits and end the run, within ``seconds``; if that fails the run stays unfinished. Never raises.

        Returns:
            The number of entries that MLflow does not have; -1 where it lacks only the end of the run.
        """
        with self._changed:
            self._status = status
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            return 0 if self._ended else len(self._waiting) or -1

    def _work(self) -> None:
        while not self._ended:
            with self._changed:
                while self._status is None and (pause := self._pause()) != 0:
                    self._changed.wait(pause)
                batch, files, status = list(self._waiting), list(self._files[:1]), self._status
            seconds = PATIENCE_AWAY if self._away else PATIENCE
            try:
                if batch:
                    self._run.send(batch, seconds)
                if status is not None:
                    self._run.end(status, seconds)
                elif files and not batch:
                    self._upload(files[0])
            except Exception as error:  # whatever fails, the training continues: the journal keeps the metrics
                self._note(error)
                if status is not None:
                    return
            else:
                with self._changed:
                    del self._waiting[: len(batch)]
                    self._away, self._ended = False, status is not None
        if self._status == "FINISHED":
            with suppress(TransientError):
                while self._files:
                    self._upload(self._files[0])

    def _upload(self, send: Callable[[], None]) -> None:
        """A file that MLflow refuses is given up. Raises TransientError: it is to be sent again."""
        try:
            send()
        except TransientError:
            raise
        except Exception as error:
            if not self._file_refused:  # what refuses one file, an expired token say, may refuse all
                print(f"a file cannot be sent to MLflow ({as_clause(error)}): the training continues", flush=True)
            self._file_refused = True
        with self._changed:
            self._files.remove(send)

    def _pause(self) -> float | None:
        """Seconds until something is to be done; None: until something changes."""
        if not self._waiting and not self._files:
            return None
        return max(self._next_attempt - time.monotonic(), 0.0) if self._away else 0.0

    def _note(self, error: Exception) -> None:
        if not self._away:
            known = isinstance(error, InputError | TransientError)
            what = as_clause(error) if known else f"metrics cannot be sent ({type(error).__name__}: {as_clause(error)})"
            print(f"{what}: metrics wait in the journal, the training continues", flush=True)
        self._away = True
        self._next_attempt = time.monotonic() + PAUSE
