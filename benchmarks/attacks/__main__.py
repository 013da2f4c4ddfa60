"""Attack the system as users, disks, networks and kills do: ``python -m benchmarks.attacks [KIND ...]``.

Every kind runs for its share of ``--minutes`` on a tiny workspace in a temporary folder, at least once, and prints what
was tried and what failed: a traceback, a hang, half an output, a wrong result, or a leak. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.attacks import addresses, disks, inputs, kills, outages, server
from benchmarks.attacks.ground import Ground, Trials
from benchmarks.report import markdown_table

KINDS: dict[str, tuple[Callable[[Ground], Trials], int]] = {
    "kill -9 of dvc repro": (kills.repro, 4),
    "kill -9 of a first training": (kills.first_training, 4),
    "tracking outages": (outages.tracking, 6),
    "two registers at once": (outages.registers, 2),
    "full disk": (disks.full, 4),
    "limited size of files": (disks.limited_files, 3),
    "kill in DVC's lock file": (kills.dvc_files, 1),
    "read-only folders": (disks.read_only, 2),
    "bad parameters": (inputs.parameters, 2),
    "bad files": (inputs.files, 2),
    "S3 keys and addresses": (addresses.s3, 1),
    "secrets in addresses": (addresses.secrets, 2),
    "server fuzz": (server.fuzz, 1),
}
"""Kind -> its attacks, and its share of the time. Those whose single attacks take long come first: what one of them
takes too much, the later ones get less.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}, or the start of one (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything together (default 9.5)")
    parser.add_argument("--verbose", action="store_true", help="print every attack")
    options = parser.parse_args()
    chosen = [kind for kind in KINDS if not options.kinds or any(kind.startswith(start) for start in options.kinds)]
    if not chosen:
        parser.error(f"no kind starts with {options.kinds}")
    deadline, rows = time.monotonic() + 60 * options.minutes, []
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        ground = Ground(Path(folder) / "ground")
        try:
            for number, kind in enumerate(chosen):
                attack, share = KINDS[kind]
                seconds = (deadline - time.monotonic()) * share / sum(KINDS[later][1] for later in chosen[number:])
                rows.append([kind, *tried(kind, attack(ground), seconds, options.verbose)])
        finally:
            ground.end()
    print(markdown_table(["kind", "tried", "failed", "seconds"], rows))
    return int(any(failed for _, _, failed, _ in rows))


def tried(kind: str, attack: Trials, seconds: float, verbose: bool) -> tuple[int, int, int]:
    """Attacks until the time is over, at least one: how many, how many failed, the seconds."""
    begun, count, failed = time.monotonic(), 0, 0
    try:
        while (not count or time.monotonic() - begun < seconds) and (trial := next(attack, None)):
            name, fault = trial
            count, failed = count + 1, failed + bool(fault)
            if fault or verbose:
                print(f"{kind}: {name}: {fault or 'held'}", flush=True)
    except RuntimeError as error:
        print(f"{kind}: not tried any more: {error}", flush=True)
        failed += not count
    attack.close()
    return count, failed, round(time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
