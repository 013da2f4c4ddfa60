"""Measure contenders side by side and write the outcome into a named section of benchmarks/RESULTS.md."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = (
    "# Benchmarks\n\nEach section was measured in one process, contenders in turn; read the ratios, not the"
    " milliseconds.\n"
)


def side_by_side(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = 9,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds of each contender's fastest round, run in turn: what disturbs the machine only ever adds time, and
    touches all alike. ``time.process_time`` as the clock leaves out what other processes take.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, run in contenders.items():
            start = clock()
            run()
            if turn >= warmup:
                times[name].append(1e3 * (clock() - start))
    return {name: min(values) for name, values in times.items()}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown: the first column to the left, the others (numbers) to the right; floats get three digits."""

    def text(cell: object) -> str:
        return (
            f"{cell:.3g}"
            if isinstance(cell, float) and abs(cell) < 100
            else f"{cell:.0f}"
            if isinstance(cell, float)
            else str(cell)
        )

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(text(cell) for cell in cells)} |"

    return "\n".join([line(header), line(["---", *["---:"] * (len(header) - 1)]), *(line(row) for row in rows)])


def machine(packages: Sequence[str] = ("numpy", "torch")) -> str:
    """One line: processor, cores, load, Python and the versions of ``packages``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{processor()}, {cores} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {versions}"
    )


def processor() -> str:
    """The processor's name as lscpu tells it, else the architecture."""
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return (
        f"{facts.get('Model name', platform.machine()).strip()} (family {facts.get('CPU family', '?').strip()} model"
        f" {facts.get('Model', '?').strip()})"
    )


def write_section(title: str, table: str, packages: Sequence[str] = ("numpy", "torch"), path: Path = RESULTS) -> None:
    """Print ``table`` (markdown, any number of lines) and write it as section ``title`` of ``path`` in place of an
    earlier one.

    Below the title stand the machine and the versions of ``packages``; other sections stay as they are.
    """
    print(f"{title}\n{table}")
    body = f"## {title}\n\n{machine(packages)}; {time.strftime('%Y-%m-%d')}.\n\n{table.strip()}\n"
    heading, *sections = (path.read_text() if path.exists() else HEADING).split("\n## ")
    by_title = {section.split("\n", 1)[0]: f"## {section.strip()}\n" for section in sections}
    by_title[title] = body
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join([heading.strip() + "\n", *by_title.values()]))
    temporary.replace(path)
