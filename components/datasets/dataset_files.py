"""The files of an ingested dataset, wherever its manifest is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.artifacts import DATASET
from components.datasets.sources import fetch
from components.params.schema import IngestParams
from components.running.digests import directory_digest
from components.running.project import project_root
from segmodels.data.digits import DigitsSettings
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError
from segmodels.files import reading

CACHE = Path("data") / "cache"
"""Folder of the project where dvc.yaml lets ingest keep downloads and generated data."""


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder that ingest wrote, and find its files.

    The manifest names the place of the files relative to itself. In a fresh clone, in a copy of the project that DVC
    made for an experiment, in a folder of ``configurations/`` and after the cache was removed they are not there. Then
    the project's own cache is looked into, missing files are downloaded or generated again, and the digest of all is
    compared.

    Raises:
        InputError: the manifest is missing or broken; the files are not there and cannot be fetched again, or they have
            changed since ingest.
        TransientError: the network or a server failed for now.
    """
    facts = DATASET.read(folder)
    if (folder / facts["root"]).is_dir():
        return Dataset.open(folder)
    with reading(DATASET.path(folder), DATASET.step):
        params = _params(facts)
    files = fetch(params, project_root() / CACHE)
    if (found := directory_digest(files.md5s)) != facts["digest"]:
        raise InputError(
            f"the files of dataset {files.root} have changed since they were ingested (digest {found}, expected"
            f" {facts['digest']}): run the step ingest again (dvc repro --force ingest)"
        )
    return Dataset.open(folder, files.root)


def _params(facts: dict[str, Any]) -> IngestParams:
    """Parameters of the same source at the same revision."""
    source = dict(facts["source"])
    kind = source.pop("kind")
    if kind == "digits":
        return IngestParams(source=kind, digits=DigitsSettings(**source))
    if kind == "dvc":
        source["rev"] = facts["revision"]
    return IngestParams(source=kind, layout=facts["layout"], classes=facts.get("classes", {}), **source)
