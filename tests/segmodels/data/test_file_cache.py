"""Copies of files that threads and processes share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segmodels.data.file_cache import LOCK, FileCache


def test_a_copy_that_gets_its_name_while_another_makes_room_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing of the folder and the sizes of what was listed."""
    cache = FileCache(tmp_path, limit=100)
    cache.open("old", 30, lambda _copy: None).close()
    begun, ready, named = threading.Event(), threading.Event(), threading.Event()

    def begin(_copy: object) -> None:
        begun.set()
        ready.wait(10)

    def first() -> None:
        cache.open("first", 40, begin).close()
        named.set()

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(10)
    listed = Path.iterdir

    def slow(folder: Path) -> Iterator[Path]:
        found = list(listed(folder))
        ready.set()
        named.wait(0.5)  # for what must not happen
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", slow)
    cache.open("second", 40, lambda _copy: None).close()
    thread.join(10)
    assert {path.name for path in listed(tmp_path)} == {LOCK, "first", "second"}
