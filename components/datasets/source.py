"""The state of the place that a dataset comes from, in a small file: `dvc repro` ingests again when the file changes.

DVC has no dependencies that exist for some values of a parameter only, so dvc.yaml cannot name the dataset itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import check_replaceable
from components.datasets.revision import digits_digest, hashed, listing_digest, sizes_and_times
from components.datasets.sources import place_of
from components.params.schema import IngestParams, PipelineParams
from components.params.yaml_files import dvc_stages
from components.running.digests import directory_digest, folder_md5s
from components.tracking.starting_point import starting_point
from segmodels.addresses import without_credentials
from segmodels.files import parse_json


def source(params: PipelineParams, source: Path, start: Path, cache: Path) -> None:
    """Write the dataset's place and a digest of what lies there now; and what the training starts from.

    The digest is that of the contents of a folder, of the listing of an S3 prefix, of the code that draws the built-in
    digits. A dataset in a DVC repository is named by ``repo``, ``rev`` and ``path`` alone: `dvc repro --force ingest`
    looks for a newer commit of a branch. A folder's files are read again only when their sizes or times changed.

    Args:
        source: file to write.
        start: file to write with the version and digest of what ``train.init`` names: training runs again when the
            alias moves to another version.
        cache: folder for what is known of the files of a folder, kept between runs.

    Raises:
        InputError: the folder or the bucket is not there, or what ``train.init`` names; or the folder of a stage's
            output holds something else, which DVC would delete before the stage runs.
        TransientError: the object store, or MLflow's server, does not answer.
    """
    for stage, output in _outputs():
        check_replaceable(stage, output)
    ingest = params.ingest
    state = {
        "source": ingest.source,
        "place": without_credentials(ingest.path or "") or None,
        "digest": _digest(ingest, cache),
    }
    with starting_point(params.train) as found:
        _write(start, found.facts)
    _write(source, state)


def _outputs() -> list[tuple[str, Path]]:
    """Stages of the project and their folders, as dvc.yaml names them."""
    return [(name, Path(out)) for name, stage in dvc_stages().items() for out in stage["outs"] if isinstance(out, str)]


def _write(file: Path, state: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _digest(params: IngestParams, cache: Path) -> str:
    if params.source == "folder":
        return _folder_digest(place_of(params), cache)
    if params.source == "s3":
        return listing_digest(str(params.path))
    return digits_digest() if params.source == "digits" else ""


def _folder_digest(root: Path, cache: Path) -> str:
    """Digest of the contents; kept in ``cache`` with the sizes and times that the files had."""
    seen = hashed(sizes_and_times(root))
    note = cache / "sources" / f"{hashed([str(root.absolute())])}.json"
    try:
        known = parse_json(note.read_bytes(), {"seen": str, "digest": str})
    except (OSError, ValueError):  # none, or a damaged one: the files are read again
        known = {}
    if known.get("seen") != seen:
        known = {"seen": seen, "digest": directory_digest(folder_md5s(root))}
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known), encoding="utf-8")
    return known["digest"]
