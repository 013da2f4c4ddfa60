"""Checkpoints that survive being killed while they are written, and being damaged afterwards."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEPT = 2
"""States: the newest, and the one before in case the newest is damaged."""


class Checkpoints:
    """The last states of one training in one folder.

    A file's name carries a running number and a digest of its content: ``00000120-1f0c….ckpt``. It is written under
    another name and renamed, so a file of that name is whole; the digest finds damage that came later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any]) -> Path:
        """Write ``state`` (tensors, numbers, strings, lists and dicts of them) and forget all but the newest
        ``KEPT``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        newest = next(iter(self._newest_first()), None)
        number = 0 if newest is None else int(newest.stem.split("-")[0]) + 1
        path = self.folder / f"{number:08d}-{_digest(content)}.ckpt"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def load_newest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest state that is not damaged, on the CPU; None when there is none. Says through ``warn`` what it
        passed over.
        """
        for path in self._newest_first():
            content = path.read_bytes()
            if _digest(content) == path.stem.rsplit("-", 1)[-1]:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            warn(f"checkpoint {path} is damaged, falling back to the one before it")
            path.unlink()
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.ckpt"), reverse=True)


def random_state() -> dict[str, torch.Tensor]:
    """Of torch's generators, as ``set_random_state`` takes it."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
