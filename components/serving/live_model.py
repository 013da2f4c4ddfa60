"""The served model, and its replacement by another version without interrupting requests."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic

import numpy as np

from components.running.wording import as_clause
from components.tracking.model_registry import REGISTERED, bundle_folder, is_registered, version_now
from segmodels.errors import TransientError
from segmodels.inference.bundle import bundle_digest, load_bundle
from segmodels.inference.description import DamagedBundleError
from segmodels.inference.predictor import Predictor, choose_device
from segmodels.inference.reference import Reference
from segmodels.labels import LabelMap
from segmodels.machine import refused_by_machine

FIRST_IMAGE = {2: (256, 256), 3: (32, 128, 128)}
"""Size of the blank image, or volume, that a version must predict before it is served, so that slow or failing first
calls happen before.
"""

DAMAGED_SECONDS = 600
"""Time after which a version is downloaded again whose files were not those that were registered."""


@dataclass(frozen=True)
class ServedModel:
    """One version, ready to predict.

    Attributes:
        name, version: of the registered model; of a folder its name and the first digits of its digest.
        labels: of the classes in the results.
        predictor: predicts with it, by the settings that the version was measured with.
        reference: statistics of images that it was trained on, to compare requests with; None of earlier versions.
    """

    name: str
    version: str
    labels: LabelMap
    predictor: Predictor
    reference: Reference | None = None


class ModelSource:
    """Where versions come from: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` in the registry, or the folder of a
    trained model.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.registered = is_registered(address)
        self.moves = self.registered and "@" in address
        self.name = (
            address.removeprefix(REGISTERED).split("@")[0].split("/")[0]
            if self.registered
            else Path(address).resolve().name
        )

    def version_now(self) -> str:
        """The version that the address stands for now; raises InputError and TransientError as
        ``registry.version_now``.
        """
        return version_now(self.address)[1] if self.registered else bundle_digest(self.address)[:12]

    def files(self, version: str) -> AbstractContextManager[Path]:
        """The bundle folder of a version while the block lasts; raises as ``model_registry.bundle_folder``."""
        return bundle_folder(f"{REGISTERED}{self.name}/{version}" if self.registered else self.address)

    def load(self, version: str, folder: Path) -> ServedModel:
        """The version, loaded from its files. Raises InputError where they are no model of this project."""
        bundle = load_bundle(folder)
        predictor = Predictor(bundle, choose_device())
        size = (*FIRST_IMAGE[bundle.spatial_dims], bundle.channels)
        predictor.results([np.zeros(size, dtype=bundle.dtype)])
        return ServedModel(self.name, version, predictor.labels, predictor, bundle.reference)


class LiveModel:
    """The version that is served now.

    Attributes:
        name: what requests call the model; known before any version is loaded.
        current: None until the first version is loaded. It is replaced by one assignment, so a reader always has a
            whole model.
    """

    def __init__(self, source: ModelSource) -> None:
        self.name = source.name
        self.current: ServedModel | None = None
        self._source = source
        self._refused: str | None = None  # a version that is not tried again before ``_until``
        self._until = 0.0

    def update(self) -> None:
        """Load the version that the address stands for now, beside the current one, and put it in its place.

        Raises:
            InputError: no such version, or it cannot be loaded; the current one stays.
            TransientError: the registry does not answer; the current one stays.
        """
        version = self._source.version_now()
        refused = version == self._refused and monotonic() < self._until
        if refused or (self.current and version == self.current.version):
            return
        fetched = False
        try:
            with self._source.files(version) as folder:  # what fails here may pass, as files that are away for a moment
                fetched = True
                model = self._source.load(version, folder)
        except Exception as error:
            if isinstance(error, DamagedBundleError):
                self._refused, self._until = version, monotonic() + DAMAGED_SECONDS
            elif fetched and not _may_pass(error):  # trying again does not help
                self._refused, self._until = version, math.inf
            raise
        self.current, self._refused = model, None
        print(
            f"{self.name} version {version} is served ({len(model.labels.classes)} classes, on"
            f" {model.predictor.device})",
            flush=True,
        )

    def follow(self, seconds: float, stop: Event) -> None:
        """Update every ``seconds`` until ``stop`` is set, while the current version keeps serving.

        An outage of the registry, its store or this machine is logged once, however its errors differ from poll to
        poll; other errors are logged when they change.
        """
        problem = ""
        while self._source.moves and not stop.wait(seconds):
            try:
                self.update()
                problem = ""
            except Exception as error:  # a new version may be broken in any way
                before, problem = problem, "outage" if _may_pass(error) else str(error)
                if problem != before:
                    current = self.current.version if self.current else "none"
                    print(f"{as_clause(error)}: {self.name} version {current} keeps serving", flush=True)


def _may_pass(error: Exception) -> bool:
    """Whether the cause lies outside the version: a server, a file system, memory that ran out."""
    return isinstance(error, TransientError | OSError) or bool(refused_by_machine(error))
