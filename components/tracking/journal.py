"""The journal of a training's metrics: what MLflow shall hold, written down before it is sent."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Metrics of one step.

    Attributes:
        step: for example the epoch, from 0.
        time: when they were logged, in milliseconds since 1970.
        metrics: name -> value.
    """

    step: int
    time: int
    metrics: dict[str, float]


def entry_now(metrics: Mapping[str, float], step: int) -> Entry:
    """An entry of this moment. Scores that are NaN, undefined, are left out; losses that are NaN show that a training
    diverged.
    """
    defined = {name: float(value) for name, value in metrics.items() if value == value or name.endswith("/loss")}
    return Entry(step, int(time.time() * 1000), defined)


class Journal:
    """A file of JSON lines, an entry each. A line is whole or, after a power loss, unreadable: then it is skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry) -> None:
        with self.path.open("ab") as file:
            file.write(self._separator() + json.dumps(asdict(entry)).encode() + b"\n")

    def entries(self) -> list[Entry]:
        """Empty where there is no file."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        entries = [entry for line in lines if (entry := _parsed(line))]
        if skipped := sum(bool(line.strip()) for line in lines) - len(entries):
            print(f"{self.path} is damaged: {skipped} of its {len(lines)} lines are skipped", flush=True)
        return entries

    def _separator(self) -> bytes:
        """Ends a line that a killed process did not finish."""
        if not self.path.stat().st_size:
            return b""
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return b"" if file.read(1) == b"\n" else b"\n"


def _parsed(line: bytes) -> Entry | None:
    try:
        content: Any = json.loads(line)
        metrics = {str(name): float(value) for name, value in content["metrics"].items()}
        return Entry(int(content["step"]), int(content["time"]), metrics)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
