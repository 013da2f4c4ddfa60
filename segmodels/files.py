"""The one reader of this project's files: a damaged or missing file becomes a sentence that says what to do.

``reading`` surrounds the lines that open a file and build something from its content:

>>> with reading(path, "preprocess"):
...     return LabelMap.from_dict(parse_json(path.read_bytes(), {"labels": object})["labels"])

Files that people write (lists, tables, classes, parameters) are read by ``read_plain_text``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmodels.checks import shown
from segmodels.errors import InputError, TransientError, on_one_line, refusal

if TYPE_CHECKING:
    import pyarrow as pa

DATASET, MANIFEST = "dataset.json", "manifest.parquet"
STATISTICS, SHARD_PART = "statistics.json", "part.json"
DESCRIPTION, WEIGHTS, REFERENCE = "model.json", "weights.safetensors", "reference.safetensors"
"""Files that the library writes: of a dataset on record, of shards and a part of them, of a trained model."""

LOG_SUFFIX = ".jsonl"
"""End of the names of a server's log files."""

LARGEST_TEXT = 2**28
"""Bytes of a text file that people write: 256 MB, some millions of samples."""


def cache_folder() -> Path:
    """Folder of copies of files that lie elsewhere, ``$SEGMODELS_CACHE`` or ``~/.cache/segmodels``; may be emptied at
    any time.
    """
    return Path(os.environ.get("SEGMODELS_CACHE") or Path.home() / ".cache" / "segmodels")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DamagedFileError(InputError):
    """A file of this project is there, but its content is not what the project writes."""


@contextmanager
def reading(path: str | Path, step: str = "", *, missing: str = "", damaged: str = "") -> Iterator[None]:
    """Turn whatever fails in the block, which reads ``path`` and builds something from it, into one sentence.

    Args:
        step: that writes the file; the advice is to run it first, or again.
        missing, damaged: other advice for a file that is not there, or whose content is wrong.

    Raises:
        DamagedFileError: the content is wrong: no JSON, Arrow, Parquet, safetensors or UTF-8, truncated, nested too
            deeply, or of other keys, types or values than the block takes.
        InputError: the file is not there, or the operating system does not let it be read. An InputError of the block
            is raised again with the file's name.
    """
    try:
        yield
    except (DamagedFileError, TransientError, ImportError, NameError, AssertionError, MemoryError):
        raise
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        advice = missing or (f"run the step {step} first" if step else "restore it or check the path")
        raise InputError(f"{path} is not there: {advice}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, UnicodeError):
            raise InputError(refusal(error, path)) from None
        advice = damaged or (f"run the step {step} again" if step else "restore it")
        raise DamagedFileError(f"{path} is damaged ({reason(error)}): {advice}") from None


def read_json(path: Path, step: str, shape: Any = object) -> Any:
    """The content of a JSON file.

    Args:
        step: that writes the file, for the advice in errors.
        shape: that the content must have, see ``parse_json``.

    Raises:
        InputError: as ``reading``.
    """
    with reading(path, step):
        return parse_json(path.read_bytes(), shape)


def read_text(path: Path, step: str) -> str:
    """The content of a UTF-8 text file; arguments and errors as ``read_json``."""
    with reading(path, step):
        return path.read_text(encoding="utf-8")


def read_csv(path: Path, step: str, columns: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; arguments and errors as ``read_json``.

    Args:
        columns: that the file must have.
    """
    with reading(path, step):
        return parse_csv(path.read_text(encoding="utf-8"), columns)


def read_json_lines(path: Path, shape: Any = object) -> list[Any]:
    """The values of a file with one JSON text per line, each of ``shape``; errors as ``read_json``. A last line without
    its end, which is still being written, is left out.
    """
    with reading(path, damaged="remove it"):
        lines = path.read_bytes().split(b"\n")[:-1]
        return [parse_json(line, shape) for line in lines]


def read_parquet(path: Path, step: str, schema: pa.Schema | None = None) -> pa.Table:
    """The table of a Parquet file, with the columns of ``schema`` if given; other arguments and errors as
    ``read_json``.
    """
    import pyarrow.parquet as pq

    with reading(path, step):
        table = pq.read_table(path)
        table = table if schema is None else table.select(schema.names).cast(schema)
        table.validate(full=True)
        return table


def parse_json(text: str | bytes, shape: Any = object) -> Any:
    """The content of JSON text in UTF-8, in bytes with or without a byte order mark.

    Args:
        shape: a type (``float`` takes whole numbers too, ``object`` takes anything); ``[shape]``, a list of such
            values; ``{"key": shape}``, an object with at least these keys; ``{str: shape}``, an object with any keys; a
            tuple of alternatives, None for null: ``{"names": [str], "share": (float, None)}``.

    Raises:
        ValueError: not UTF-8, not JSON, NaN or infinite numbers, nested too deeply, or another shape.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(reason(error)) from None
    check_shape(value, shape)
    return value


def parse_csv(text: str, columns: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of CSV text with a header.

    Raises:
        ValueError: not CSV, one of ``columns`` is missing, or a row has more or fewer fields than the header.
    """
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = list(table.fieldnames or ())
        for row in table:
            if None in row or None in row.values():
                raise ValueError(f"line {table.line_num} has another number of fields than its header")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"line {table.line_num}: {error}") from None
    if absent := [column for column in columns if column not in header]:
        raise ValueError(f"its columns are {shown(header)}, without {', '.join(absent)}")
    return rows


def read_plain_text(path: Path, *, missing: str = "", largest: int = LARGEST_TEXT) -> str:
    """The content of a text file that a person wrote, without a byte order mark.

    Args:
        missing: advice for a file that is not there.
        largest: number of bytes that the file may have.

    Raises:
        InputError: not there, not a regular file (a folder, a pipe, a device), larger than ``largest``, not UTF-8, or
            the operating system does not let it be read.
    """
    with reading(path, missing=missing or "check the path"):
        facts = path.stat()
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "" if stat.S_ISREG(facts.st_mode) else "a pipe or device"
        size, content = facts.st_size, b"" if kind or facts.st_size > largest else path.read_bytes()
    if kind:
        raise InputError(f"{path} is {kind}, expected a text file: check the path")
    if size > largest:
        raise InputError(f"{path} has {size:,} bytes, expected a text file of at most {largest:,}: check the path")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}): save the file as UTF-8"
        ) from None


def reason(error: BaseException) -> str:
    """Why a file could not be read, on one line of at most 200 characters."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} at position {error.start} is not UTF-8"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str | bytes | int):
        return f"{error.args[0]!r} is missing"
    return on_one_line(error) or type(error).__name__


_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}


def check_shape(value: Any, shape: Any, place: str = "") -> None:
    """Check that a value has a shape, as ``parse_json`` describes it.

    Args:
        place: where the value stands, for errors: ``shards.train``; empty for the whole content.

    Raises:
        ValueError: it has another; names the place.
    """

    def inside(key: object) -> str:
        return f"{place}.{key}" if place else str(key)

    if isinstance(shape, tuple):
        if not any(_is(value, one) for one in shape):
            _refuse(value, shape, place)
        for one in shape:
            if _is(value, one):
                check_shape(value, one, place)
    elif not _is(value, shape):
        _refuse(value, shape, place)
    elif isinstance(shape, list):
        for number, one in enumerate(value):
            check_shape(one, shape[0], inside(number))
    elif isinstance(shape, dict):
        for key, one in shape.items():
            if key is str:
                for name, member in value.items():
                    check_shape(member, one, inside(name))
            elif key not in value:
                raise ValueError(f"{inside(key)} is missing")
            else:
                check_shape(value[key], one, inside(key))


def _is(value: Any, shape: Any) -> bool:
    """Whether a value is of a shape's type, whatever is inside it."""
    if shape is None:
        return value is None
    if isinstance(shape, list | dict):
        return isinstance(value, type(shape))
    if shape in (int, float):
        return isinstance(value, int if shape is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, shape)


def _refuse(value: Any, shape: Any, place: str) -> None:
    names = [
        "a list" if isinstance(one, list) else "an object" if isinstance(one, dict) else _TYPES.get(one, "anything")
        for one in (shape if isinstance(shape, tuple) else (shape,))
    ]
    raise ValueError(f"{place or 'the content'} is {shown(value)}, expected {' or '.join(names)}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text)


def _not_finite(text: str) -> float:
    raise ValueError(f"{text[:20]} is not a finite number")
