"""What the machine has: memory that may still be taken, in a container as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from segmodels.machine import free_memory

MEMINFO = "MemTotal: 16000 kB\nMemAvailable:    8000 kB\nSwapFree: 1000 kB\nHugePages_Total:       0\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = {"memory.current": "3000000", "memory.stat": "anon 1000000\ninactive_file 500000\n"}
VERSION_1 = {"memory.usage_in_bytes": "3000000", "memory.stat": "inactive_file 1\ntotal_inactive_file 500000\n"}
NO_LIMIT_1 = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 9000 * 1024),
        ({f"sys/fs/cgroup/{name}": text for name, text in VERSION_2.items()}, 9000 * 1024),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 9000 * 1024),
        ({"sys/fs/cgroup/memory.max": "4000000\n"}, 1_500_000),
        ({"sys/fs/cgroup/memory.max": "2000000\n"}, 0),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000\n"}, 1_500_000),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_1}, 9000 * 1024),
    ],
)
def test_memory_is_free_within_the_machine_and_the_limit_of_a_container(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    version = 1 if any("cgroup/memory/" in name for name in files) else 2
    folder, others = ("sys/fs/cgroup/memory", VERSION_1) if version == 1 else ("sys/fs/cgroup", VERSION_2)
    root = machine(tmp_path, {f"{folder}/{name}": text for name, text in others.items()} | files)
    assert free_memory(root) == expected


def test_a_system_without_such_files_says_nothing(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    assert free_memory(machine(tmp_path, {"proc/meminfo": "MemTotal: 16000 kB\n"})) is None
