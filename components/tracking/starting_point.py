"""The start of a training, ``train.init``: a registered version, the folder of a trained model, a weights file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.params.schema import TrainParams
from components.tracking.model_registry import bundle_folder, is_registered, pinned
from segmodels.addresses import without_credentials
from segmodels.errors import InputError


@dataclass(frozen=True)
class StartingPoint:
    """Where it lies on this machine.

    Attributes:
        path: folder of a trained model, or weights file; None where the training starts from scratch.
        facts: for the lineage: ``init``, its address, and ``init_digest``, SHA-256 of its files.
    """

    path: Path | None = None
    facts: dict[str, str] = field(default_factory=dict)


@contextmanager
def starting_point(params: TrainParams) -> Iterator[StartingPoint]:
    """The files that ``params.init`` names, on this machine while the block lasts.

    Raises:
        InputError: there is no such version, folder or file, or its files are damaged.
        TransientError: the server or the store does not answer.
    """
    init = pinned(params.init)
    if init is None:
        yield StartingPoint()
        return
    if not is_registered(init) and not Path(init).is_dir():
        from segmodels.encoders.pretrained import resolved
        from segmodels.encoders.weights import local_file
        from segmodels.files import sha256

        try:
            file = local_file(resolved(init, params.model))
        except InputError as error:
            raise InputError(f"train.init: {error}") from None
        yield StartingPoint(file, _facts(init, sha256(file)))
        return
    from segmodels.inference.bundle import bundle_digest

    with bundle_folder(init) as folder:
        yield StartingPoint(folder, _facts(init, bundle_digest(folder)))


def _facts(init: str, digest: str) -> dict[str, str]:
    return {"init": without_credentials(init), "init_digest": digest}
