"""Checkpoints that survive being killed while they are written, and being damaged afterwards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

KEPT = 2
"""States: the newest, and the one before in case the newest is damaged."""

STATE, BEST, PARTIAL, DAMAGED = ".ckpt", ".best", ".partial", ".damaged"
"""Endings of the files."""

_UNREADABLE = (UnpicklingError, EOFError, FileNotFoundError, RuntimeError, LookupError, TypeError, ValueError)


class Checkpoints:
    """The last states of one training in one folder, written by a thread beside the training.

    The best weights so far are a file of their own, ``DIGEST.best``, written when they change. A state is
    ``NUMBER-BEST-DIGEST.ckpt``: a running number, the digest of its best weights (``none`` without any) and that of
    its content. Files are written under another name and renamed, so a file of such a name is whole; the digests find
    damage that came later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._best: tuple[dict[str, Tensor], str] = ({}, "none")  # those last written or read, and their digest

    def save(self, state: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Copy ``state`` and return; a thread writes the copy and ``best``, and removes all but the newest ``KEPT``
        states. Waits for an earlier save that is still being written.

        Args:
            state: tensors, numbers, strings, lists and dicts of them.
            best: weights on the CPU that nobody changes in place.

        Raises:
            OSError: the earlier save failed.
        """
        self.wait()
        copy, copied = _copy(state)

        def write() -> None:
            copied()
            self._write(copy, best)

        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise the OSError of a save that has failed."""
        if self._writing and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Return when the last save is on the disk; raises OSError if it failed."""
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def resume(self, restore: Callable[[dict[str, Any], dict[str, Tensor]], None], warn: Callable[[str], None]) -> bool:
        """Hand the newest sound state and its best weights, on the CPU, to ``restore``; False if there is none.

        A state whose bytes are damaged, or that ``restore`` cannot use, is reported through ``warn`` and renamed to
        ``*.damaged``.
        """
        for path in self.folder.glob(f"*{PARTIAL}"):
            path.unlink()
        states = self._newest_first()
        for path, older in zip_longest(states, states[1:]):
            try:
                restore(*self._read(path))
                return True
            except torch.OutOfMemoryError:
                raise
            except _UNREADABLE as error:
                reason = " ".join(str(error).split())[:200]
                rest = f"falling back to {older.name}" if older else "training starts anew"
                warn(f"checkpoint {path} is damaged ({type(error).__name__}: {reason}): {rest}")
                path.replace(path.with_suffix(DAMAGED))
        return False

    def _write(self, state: dict[str, Any], best: dict[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if best is not self._best[0]:
            digest = self._write_file(best, lambda digest: f"{digest}{BEST}")
            self._best = (best, digest)
        newest = next(iter(self._newest_first()), None)
        number = 0 if newest is None else int(newest.name.split("-")[0]) + 1
        self._write_file(state, lambda digest: f"{number:08d}-{self._best[1]}-{digest}{STATE}")
        states = self._newest_first()
        for old in states[KEPT:]:
            old.unlink(missing_ok=True)
        needed = {_best_of(path) for path in states[:KEPT]}
        for weights in self.folder.glob(f"*{BEST}"):
            if weights.stem not in needed:
                weights.unlink(missing_ok=True)

    def _write_file(self, content: dict[str, Any], name: Callable[[str], str]) -> str:
        """Write a file whose name contains its digest; the digest. A file that cannot be written, as on a full disk, is
        removed.
        """
        partial = self.folder / f"writing{PARTIAL}"
        try:
            with partial.open("wb") as file:
                hashing = _Hashing(file)
                hashing.save(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            partial.unlink(missing_ok=True)
            error.filename = error.filename or str(partial)
            raise
        digest: str = hashing.digest.hexdigest()
        partial.replace(self.folder / name(digest))
        return digest

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, digest = _load(path, path.stem.rsplit("-", 1)[-1]), _best_of(path)
        best = {} if digest == "none" else _load(self.folder / f"{digest}{BEST}", digest)
        self._best = (best, digest)
        return state, best

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"*-*-*{STATE}"), reverse=True)


def random_state() -> dict[str, Tensor]:
    """State of torch's random generators, for ``set_random_state``."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Continue with the random numbers that followed when ``random_state`` was called."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class _Hashing:
    """A file to write to that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, _hash()
        self._failure: OSError | None = None

    def save(self, content: dict[str, Any]) -> None:
        """Write ``content`` as torch does. Raises OSError where torch has one of its own in the place of the file's."""
        try:
            torch.save(content, self)  # type: ignore[arg-type]  # it needs no more of a file than this has
        except RuntimeError:
            if self._failure is None:
                raise
            raise self._failure from None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self._failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _hash() -> Any:
    return hashlib.blake2b(digest_size=12)


def _load(path: Path, digest: str) -> dict[str, Any]:
    with path.open("rb") as file:
        if hashlib.file_digest(file, _hash).hexdigest() != digest:
            raise ValueError(f"the content of {path.name} does not have the digest of its name")
    return torch.load(path, map_location="cpu", weights_only=True)


def _best_of(state: Path) -> str:
    return state.name.split("-")[1]


def _copy(state: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """A copy on the CPU, and a call that waits until it is complete.

    Tensors of a GPU go to pinned memory in the order of its work, so that neither the copy nor the training waits.
    """
    if not torch.cuda.is_available():
        return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), state), lambda: None

    def to_host(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor.detach().clone()
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor.detach(), non_blocking=True)

    copy = tree_map_only(Tensor, to_host, state)
    event = torch.cuda.Event()
    event.record()
    return copy, event.synchronize
