"""Pretrained weights: fetched from a path or URI, read without running code, put into a module key by key."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segmodels.addresses import check_address
from segmodels.download import download, shown_progress
from segmodels.encoders.flax_names import read_npz
from segmodels.errors import InputError, TransientError, refusal
from segmodels.files import cache_folder, parse_json, reason, sha256

log = logging.getLogger(__name__)
# Names under which trainers keep the body's weights in a checkpoint of a whole model.
PREFIXES = (
    *("", "module.", "backbone.", "encoder.", "module.backbone.", "module.encoder."),
    *("image_encoder.", "vision_encoder."),  # Segment Anything: the authors', transformers
)
COUNTER = "num_batches_tracked"  # of a batch norm: old files have none, and no result depends on it


class LoadReport(NamedTuple):
    """The module's keys, sorted by what ``load_weights`` did with them."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the module, not in the file
    unexpected: tuple[str, ...]  # in the file, not of the module
    mismatched: tuple[str, ...]  # in both, of different shapes


def load_weights(
    module: nn.Module,
    source: str | Path,
    *,
    translate: Callable[[str], str] = str,
    ignore: tuple[str, ...] = (),
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    advice: Callable[[Collection[str]], str] | None = None,
    strict: bool = True,
) -> LoadReport:
    """Copy the tensors of a weights file into ``module`` by their names.

    Args:
        source: local path, or a URI that fsspec knows (``s3://``, ``https://``, ...), which is cached, see ``fetch``.
            The file is safetensors, ``.npz`` of Flax (``flax_names``), or a torch file that holds tensors only (it is
            read with ``weights_only=True``).
        translate: our name of a tensor, from the file's.
        ignore: prefixes of keys (after translation) that are left out, such as the classifier.
        adapt: makes the tensors that are left fit the module's shapes, see ``Encoder.adapt``.
        advice: what to do about tensors of these names that do not fit, see ``Encoder.advice``.
        strict: raise where anything differs; False loads what fits and reports the rest.

    A prefix that trainers add (``module.``, ``backbone.``, ``encoder.``) is taken off; then keys without it, the rest
    of the model, are left out, and a warning says so.

    Raises:
        InputError: no such file, not a weights file, a wrong checksum, or (strict) weights of another architecture,
            with the keys that differ.
        TransientError: the store does not answer.
    """
    own = module.state_dict()
    file = read_state_dict(source)
    given = _best_prefix(file, own, translate)
    rest = len(file) - len(given)
    given = {key: value for key, value in given.items() if not key.startswith(ignore)} if ignore else given
    given = adapt(given)
    report = compared(given, own)
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise foreign(source, type(module).__name__, report, given, own, advice(given) if advice else "")
    copy_tensors(given, own, report.loaded)
    if rest:
        log.warning(
            "weights %s are of a whole model: its body was loaded, %d tensors of its heads were not; to load them too,"
            " give the file as the model's option weights, not encoder_weights",
            source,
            rest,
        )
    return report


def compared(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> LoadReport:
    """Which of a module's tensors are given, in the right shape. Counters of batch norms may be missing."""
    return LoadReport(
        loaded=tuple(key for key in own if key in given and given[key].shape == own[key].shape),
        missing=tuple(key for key in own if key not in given and not key.endswith(COUNTER)),
        unexpected=tuple(sorted(key for key in given if key not in own and not key.endswith(COUNTER))),
        mismatched=tuple(key for key in own if key in given and given[key].shape != own[key].shape),
    )


def foreign(
    source: str | Path,
    kind: str,
    report: LoadReport,
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    advice: str = "",
) -> InputError:
    """The error for weights of another architecture than the module of type ``kind`` has."""
    shapes = [f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}" for key in report.mismatched]
    differences = [("missing", report.missing), ("unexpected", report.unexpected), ("of another shape", shapes)]
    listed = "; ".join(f"{len(keys)} {difference}: {_few(keys)}" for difference, keys in differences if keys)
    return InputError(
        f"weights {source} are not of this {kind}: of {len(own)} tensors {len(report.loaded)} fit, {listed};"
        f" {advice or 'give weights of the same architecture'}"
    )


def copy_tensors(given: Mapping[str, Tensor], own: Mapping[str, Tensor], keys: Sequence[str]) -> None:
    """Copy the tensors of these names from ``given`` into the module whose ``state_dict`` is ``own``."""
    with torch.no_grad():
        for key in keys:
            own[key].copy_(given[key])


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """The weight of a first convolution, ``(out, channels, k, k)`` or of volumes, for another number of input channels.

    The response to equal channels stays the same: a grey image gives what its RGB copy gave. For more channels the
    given ones are repeated in turn, each divided by the number of its copies; for fewer they are added up in turn (one
    channel has the sum of all, two have red plus blue, and green).
    """
    channels = weight.shape[1]
    if in_channels == channels:
        return weight
    if in_channels < channels:
        return torch.stack([weight[:, i::in_channels].sum(dim=1) for i in range(in_channels)], dim=1)
    places = torch.arange(in_channels) % channels
    return weight[:, places] / places.bincount()[places].reshape(-1, *[1] * (weight.dim() - 2))


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """All tensors of a weights file by their names; raises as ``load_weights``."""
    path = local_file(source)
    try:
        data = _read(path)
    except pickle.UnpicklingError:
        raise InputError(
            f"weights file {path} holds more than tensors (pickled code, which is not run), or is not a torch file:"
            " save only the state_dict, best as safetensors"
        ) from None
    except Exception as error:  # torch's reader raises all kinds
        raise InputError(
            f"weights file {path} cannot be read ({reason(error)}): it is damaged or of another format"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    tensors = (
        {key: value for key, value in data.items() if isinstance(value, Tensor)} if isinstance(data, Mapping) else {}
    )
    if not tensors:
        raise InputError(f"weights file {path} holds no named tensors: expected a state_dict")
    return tensors


def local_file(source: str | Path) -> Path:
    """A weights file on this machine, fetched if it lies elsewhere; raises as ``load_weights``."""
    path = fetch(str(source)) if "://" in str(source) else Path(source)
    if not path.is_file():
        raise InputError(
            f"weights file {path} is not there: give the path of a .safetensors, .npz or torch file, or a URI"
        )
    return path


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        return read_npz(path)
    with warnings.catch_warnings(action="ignore"):  # torch warns of a plain pickle, which it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def fetch(uri: str, cache: Path | None = None) -> Path:
    """A local copy of the file behind a URI.

    ``#sha256=<hex>`` at the end of the URI pins the content. Without it, eight or more hex digits before the suffix of
    the name (as torchvision and timm name their files: ``resnet50-0676ba61.pth``) are the beginning of the SHA-256,
    unless all are decimal, which may be a date. A copy of pinned content is used without asking the store; otherwise
    the store is asked for the file's version where it has one (S3's ETag). A damaged copy is fetched again. fsspec
    finds the credentials: environment, profile or configuration file.

    Args:
        cache: folder of the copies, by default ``files.cache_folder()``; nothing is ever removed from it, it may be
            emptied at any time.

    Raises:
        InputError: no such file, no right to read it, a package for that kind of store is missing, or another checksum
            than pinned.
        TransientError: the store does not answer.
    """
    import fsspec

    uri, _, checksum = uri.partition("#sha256=")
    check_address(uri, "the address of weights")
    name = uri.rsplit("/", 1)[-1]
    named = re.search(r"-([0-9a-f]{8,64})\.[a-z.]+$", name)
    pinned = checksum.lower() or (named.group(1) if named and not named.group(1).isdecimal() else "")
    folder = cache or cache_folder()
    copy = folder / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-{name}"
    note = copy.with_name(copy.name + ".json")
    try:
        known = parse_json(note.read_bytes(), {"sha256": str}) if copy.is_file() else None
    except (OSError, ValueError):  # none, or a damaged one: the file is fetched again
        known = None
    if known and sha256(copy) != known["sha256"]:
        known = None
    if known and pinned and known["sha256"].startswith(pinned):
        return copy

    try:
        store, path = fsspec.core.url_to_fs(uri)
        version = store.ukey(path)
        if known and known.get("version") == version and not pinned:
            return copy
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            fetched = Path(temporary) / name
            if _is_http(uri):
                fetched = copy  # a part of it stays, for the next try
                copy.unlink(missing_ok=True)
                with shown_progress(name) as progress:
                    download(uri, copy, sha256=pinned or None, progress=progress)
            else:
                store.get_file(path, str(fetched))
            digest = sha256(fetched)
            if not digest.startswith(pinned):
                raise InputError(
                    f"the SHA-256 of {uri} is {digest}, expected {pinned}: the file was changed or damaged on the way"
                )
            facts = Path(temporary) / "facts.json"
            facts.write_text(json.dumps({"uri": uri, "sha256": digest, "version": version}), encoding="utf-8")
            fetched.replace(copy)
            facts.replace(note)
    except (InputError, TransientError):
        raise
    except FileNotFoundError:
        raise InputError(f"weights {uri} are not there: check the address") from None
    except (PermissionError, ImportError, ValueError) as error:
        raise InputError(f"weights {uri} cannot be fetched: {error}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise InputError(refusal(error, folder)) from None
        if type(error).__name__ == "NoCredentialsError":
            raise InputError(f"weights {uri} cannot be fetched: no credentials for that store are configured") from None
        raise TransientError(f"weights {uri} cannot be fetched now ({type(error).__name__}: {error})") from error
    return copy


def _is_http(uri: str) -> bool:
    """Whether ``download`` takes the address: fsspec alone logs in with a name and password."""
    parts = urlsplit(uri)
    return parts.scheme in ("http", "https") and "@" not in parts.netloc


def _best_prefix(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], translate: Callable[[str], str]
) -> dict[str, Tensor]:
    """The tensors under the prefix that gives most keys of the module, without the prefix and with our names."""
    candidates = [
        {translate(key.removeprefix(prefix)): value for key, value in given.items() if key.startswith(prefix)}
        for prefix in PREFIXES
    ]
    return max(candidates, key=lambda tensors: len(tensors.keys() & own.keys()))


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
