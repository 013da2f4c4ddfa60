"""What a GPU makes of this library: ``python -m benchmarks.gpu [PART ...] [--minutes 8] [--rehearse]``.

The parts run in order, each in a process of its own and under its own time limit. Every row is written to
benchmarks/gpu.json as soon as it is measured, and rows that are there are not measured again: call it until nothing is
left. benchmarks/RESULTS-GPU.md is made of gpu.json at the end of each call. ``--rehearse`` does the same with small
models and images on the CPU and writes nowhere but to the terminal: it shows that the parts work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import correctness, counters, detectors, loop, precision, prediction, steps
from benchmarks.gpu.setting import Setting
from benchmarks.report import markdown_table

ROWS, RESULTS = Path(__file__).parents[1] / "gpu.json", Path(__file__).parents[1] / "RESULTS-GPU.md"

Part = Callable[[Setting, set[str]], Iterator[tuple[str, dict[str, Any]]]]
PARTS: dict[str, tuple[Part, int]] = {  # in the order of what is asked first; seconds
    "loop": (loop.loop, 120),
    "saves": (loop.saves, 90),
    "counters": (counters.counters, 60),
    "steps": (steps.beside_torchvision, 120),
    "deterministic": (loop.deterministic, 120),
    "detectors": (detectors.detectors, 120),
    "resume": (loop.resume, 120),
    "correctness": (correctness.correctness, 240),
    "precision": (precision.precision, 300),
    "compile": (steps.compiled, 180),
    "prediction": (prediction.prediction, 90),
    "workers": (loop.workers, 120),
    "host": (loop.host, 60),
    "utilisation": (steps.utilisation, 90),
    "processes": (loop.processes, 120),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all, in this order")
    parser.add_argument("--minutes", type=float, default=8, help="of this call (8)")
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU")
    parser.add_argument("--measure", metavar="PART", help=argparse.SUPPRESS)  # the process of one part
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"{unknown[0]!r} is not a part, expected {', '.join(PARTS)}")
    if not (arguments.rehearse or torch.cuda.is_available()):
        print("torch sees no GPU: run this where there is one, or rehearse it on the CPU with --rehearse")
        return 2
    if arguments.measure:
        part, _ = PARTS[arguments.measure]
        for name, row in part(Setting.of(rehearse=arguments.rehearse), set(json.loads(sys.stdin.read()))):
            print(f"\x1e{json.dumps({name: row})}", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch, "gpu.json") if arguments.rehearse else ROWS
        finished = measure_all(arguments.parts or list(PARTS), rows, 60 * arguments.minutes, arguments.rehearse)
        report = write_report(json.loads(rows.read_text()) if rows.exists() else {})
    print(report)
    if not arguments.rehearse:
        RESULTS.write_text(report)
    return 0 if finished else 1


def measure_all(parts: list[str], rows: Path, seconds: float, rehearse: bool) -> bool:
    """Whether every part came to its end."""
    end, whole = time.monotonic() + seconds, True
    for name in parts:
        limit = min(PARTS[name][1], end - time.monotonic())
        if limit < 15:
            print(f"{name}: no time left in this call")
            whole = False
        else:
            whole &= measure(name, rows, limit, rehearse)
    return whole


def measure(name: str, rows: Path, limit: float, rehearse: bool) -> bool:
    """Run one part until its end or its time limit, adding its rows to the file one by one."""
    known = json.loads(rows.read_text()) if rows.exists() else {}
    command = [sys.executable, "-m", "benchmarks.gpu", "--measure", name, *(["--rehearse"] if rehearse else [])]
    process = subprocess.Popen(
        ["timeout", "--kill-after=5", f"{limit:.0f}", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(sorted(known.get(name, {}))))
    process.stdin.close()
    for line in process.stdout:
        if not line.startswith("\x1e"):
            print(line, end="")
            continue
        row = json.loads(line[1:])
        known.setdefault(name, {}).update(row)
        known["machine"] = machine()
        rows.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{name}: {row}", flush=True)
    if status := process.wait():
        print(f"{name}: " + ("out of its time" if status in (124, 137) else f"ended with exit code {status}"))
    return not status


def machine() -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def write_report(known: dict[str, Any]) -> str:
    """A table per part."""
    lines = ["# Benchmarks on a GPU", "", known.get("machine", "Nothing was measured yet."), ""]
    for name, (part, _) in PARTS.items():
        if rows := known.get(name):
            columns = list(dict.fromkeys(key for row in rows.values() for key in row))
            table = [[row_name, *(row.get(column, "") for column in columns)] for row_name, row in rows.items()]
            about = " ".join((part.__doc__ or "").split())
            lines += [f"## {name}", "", about, "", markdown_table(["", *columns], table), ""]
    return "\n".join(lines)
