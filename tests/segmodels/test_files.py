"""Files of this project: what is missing or damaged is named, with the step to run."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segmodels.checks import shown
from segmodels.errors import InputError, TransientError
from segmodels.files import (
    DamagedFileError,
    parse_csv,
    parse_json,
    read_csv,
    read_json,
    read_parquet,
    read_plain_text,
    read_text,
    reading,
)

READERS = {"a.json": read_json, "a.txt": read_text, "a.csv": read_csv, "a.parquet": read_parquet}


@pytest.mark.parametrize(("name", "read"), READERS.items())
def test_a_missing_file_is_named_with_the_step_that_writes_it(
    tmp_path: Path, name: str, read: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match=rf"{name} is not there: run the step train first$"):
        read(tmp_path / name, "train")


@pytest.mark.parametrize(("name", "read"), READERS.items())
def test_a_damaged_file_is_named_with_the_step_to_run_again(
    tmp_path: Path, name: str, read: Callable[..., Any]
) -> None:
    (tmp_path / name).write_bytes(b'{"a": \xff "')
    with pytest.raises(InputError, match=rf"{name} is damaged \(.+\): run the step train again$") as caught:
        read(tmp_path / name, "train")
    assert "\n" not in str(caught.value)


def test_whole_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    (tmp_path / "a.csv").write_text('class,iou\n"a, b",0.5\n', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "train") == {"a": [1, "é"]}
    assert read_text(tmp_path / "a.json", "train") == '{"a": [1, "é"]}'
    assert read_csv(tmp_path / "a.csv", "train") == [{"class": "a, b", "iou": "0.5"}]


def test_columns_of_a_table_are_read_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"b": ["x"], "a": [1]}), tmp_path / "a.parquet")
    wanted = pa.schema([pa.field("a", pa.int32())])
    assert read_parquet(tmp_path / "a.parquet", "validate", wanted) == pa.table({"a": [1]}, schema=wanted)
    with pytest.raises(InputError, match=r"a\.parquet is damaged"):
        read_parquet(tmp_path / "a.parquet", "validate", pa.schema([pa.field("c", pa.int32())]))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"\xff\xfe{\0}\0", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}']
)
def test_json_of_every_kind_of_damage_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.json is damaged \(.+\): run the step train again$") as caught:
        read_json(tmp_path / "a.json", "train")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


SHAPE = {"name": str, "scores": {str: (float, None)}, "shards": [{"samples": int}], "passed": bool}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("null", "the content is null, expected an object"),
        ("[]", r"the content is \[\], expected an object"),
        ('{"name": 3}', "name is 3, expected text"),
        ('{"name": "a"}', "scores is missing"),
        ('{"name": "a", "scores": {"x": "1"}}', "scores.x is '1', expected a number or null"),
        ('{"name": "a", "scores": {"x": true}}', "scores.x is true, expected a number or null"),
        ('{"name": "a", "scores": {}, "shards": [{"samples": 1.5}]}', "shards.0.samples is 1.5, expected a whole"),
        ('{"name": "a", "scores": {}, "shards": [], "passed": 1}', "passed is 1, expected true or false"),
    ],
)
def test_a_key_of_another_type_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text, SHAPE)
    whole = {"name": "a", "scores": {"x": 1, "y": None}, "shards": [{"samples": 2, "more": 3}], "passed": True}
    assert parse_json(str(whole).replace("'", '"').replace("None", "null").replace("True", "true"), SHAPE) == whole


@pytest.mark.parametrize(
    "error",
    [KeyError("digest"), TypeError("no"), struct.error("short"), IndexError(), RuntimeError("a\nb"), RecursionError()],
)
def test_whatever_fails_while_a_file_is_read_names_the_file(error: Exception) -> None:
    with (
        pytest.raises(DamagedFileError, match=r"^x\.json is damaged \(.+\): copy it again$"),
        reading("x.json", damaged="copy it again"),
    ):
        raise error


def test_errors_that_say_more_are_kept() -> None:
    with pytest.raises(TransientError), reading("x.json"):
        raise TransientError("the store does not answer")
    with pytest.raises(InputError, match=r"^x\.json: two classes, expected one$"), reading("x.json"):
        raise InputError("two classes, expected one")
    with pytest.raises(DamagedFileError, match=r"^y\.json is damaged"), reading("x.json"), reading("y.json"):
        raise ValueError("no")
    with pytest.raises(InputError, match=r"^x\.json cannot be used \(permission denied\): change"), reading("x.json"):
        raise PermissionError(13, "Permission denied", "x.json")


def test_tables_have_their_columns_and_whole_rows() -> None:
    assert parse_csv("id,group\na,1\n", ("group",)) == [{"id": "a", "group": "1"}]
    for text in ("id\na\n", "id,group\na\n", "id,group\na,b,c\n", 'id,group\n"a,b', "id,group\n" + "a" * 200_000):
        with pytest.raises(ValueError, match=r"line \d|columns"):
            parse_csv(text, ("id", "group"))


def test_text_that_people_write_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(b"\xef\xbb\xbfid,group\n")
    assert read_plain_text(path) == "id,group\n"
    path.write_bytes("id,group\n1,Müller\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"groups\.csv line 2 is not UTF-8 text \(byte 0xfc\): save the file as UTF-8"):
        read_plain_text(path)
    with pytest.raises(InputError, match="is a folder, expected a text file"):
        read_plain_text(tmp_path)
    with pytest.raises(InputError, match="at most 3: check the path"):
        read_plain_text(path, largest=3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or device"):
        read_plain_text(tmp_path / "pipe")


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, [["x" * 99] * 99] * 99, 10**5000, {"a": "x" * 1000}],
    ids=["text", "lists", "number", "object"],
)
def test_long_values_are_cut_where_they_are_shown(value: object) -> None:
    assert len(shown(value)) <= 100
