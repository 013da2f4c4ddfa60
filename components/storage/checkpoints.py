"""Training states in an object store, so that a training stopped in one pod resumes in another."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from components.environment import environment, variable
from components.storage.s3 import SCHEME, list_folder, s3_client, split_url, translate_errors
from segmodels.errors import InputError, TransientError
from segmodels.training.checkpoints import BEST, PARTIAL, STATE, Checkpoints


def open_checkpoints(state: Path) -> Checkpoints:
    """The states in the folder ``state``. With ``SEGMODELS_CHECKPOINTS`` set to ``s3://bucket/prefix`` they are kept
    there, too.

    One process of each machine first downloads what the store holds of this training, whose key is the folder's name.

    Raises:
        InputError: the store refuses or is not there.
        TransientError: the store does not answer.
    """
    url = environment().checkpoints
    if not url:
        return Checkpoints(state)
    if not url.startswith(SCHEME):
        raise InputError(f"{variable('checkpoints')} is {url!r}, expected s3://bucket/prefix")
    mirrored = MirroredCheckpoints(state, f"{url.rstrip('/')}/{state.name}")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        mirrored.fetch()
    return mirrored


class MirroredCheckpoints(Checkpoints):
    """Checkpoints whose folder (states, best weights, name of the MLflow run, journal of metrics) is copied to an
    object store after every save.
    """

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url
        self.bucket, self.prefix = split_url(url)
        self._away = False

    @cached_property
    def client(self) -> Any:
        return s3_client()

    def fetch(self) -> None:
        """Download what the store has, unless this folder has a later state."""
        with translate_errors(self.url, connected=False):
            stored = self._stored()
        mine = max((path.name for path in self.folder.glob(f"*{STATE}")), default="")
        if not stored or mine > max((name for name in stored if name.endswith(STATE)), default=""):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with translate_errors(self.url, connected=True):
            for name in sorted(stored, key=lambda name: (name.endswith(STATE), name)):
                partial = self.folder / f"{name}{PARTIAL}"
                self.client.download_file(self.bucket, self.prefix + name, str(partial))
                partial.replace(self.folder / name)
        print(f"this training's states came from {self.url}", flush=True)

    def _write(self, state: dict[str, Any], best: dict[str, Tensor]) -> None:
        """As ``Checkpoints``. A store that is away does not stop a training: the next save brings it up to date."""
        super()._write(state, best)
        try:
            with translate_errors(self.url, connected=True, access="stored"):
                self._send()
            self._away = False
        except (TransientError, InputError) as error:
            if not self._away:
                print(
                    f"{error}: training continues, its states are in {self.folder} only until the store is back",
                    flush=True,
                )
            self._away = True

    def _send(self) -> None:
        """Newest state last, old states removed only then: the store can be resumed from at any moment."""
        stored = self._stored()
        here = sorted(path for path in self.folder.iterdir() if path.suffix in (STATE, BEST, ".json", ".jsonl"))
        for path in sorted(here, key=lambda path: (path.suffix == STATE, path.name)):
            if path.suffix not in (STATE, BEST) or path.name not in stored:  # their names hold their digests
                self.client.upload_file(str(path), self.bucket, self.prefix + path.name)
        for name in stored - {path.name for path in here}:
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def _stored(self) -> set[str]:
        return {name for name, _ in list_folder(self.client, self.url)}
