"""Files of this project: what is missing or damaged is named, with the step to run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segmodels.errors import InputError
from segmodels.files import read_csv, read_json, read_parquet, read_text

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
