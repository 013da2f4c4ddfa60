"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield ``items`` and show on stderr how many of ``total`` (None: unknown) are done.

    Where stderr is not a terminal, a plain line is printed every ten seconds, so loops that end sooner print nothing.
    """
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    if console.is_terminal:
        yield from bar(items, description, total=total, console=console, transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            whole = "" if total is None else f" of {total}"
            print(f"{description}: {done}{whole}", file=console.file, flush=True)
