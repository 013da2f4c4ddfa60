"""Manifests: a dataset is opened as it was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_folder import IMAGE, folder

from segmodels.data.layouts import open_layout
from segmodels.data.manifest import Dataset, manifest_row, write_dataset
from segmodels.errors import InputError


def rows(samples):
    return [manifest_row(s, dict.fromkeys((s.image, *s.files), "0" * 32)) for s in samples]


def record(tmp_path: Path, samples, root="../source") -> Path:
    layout = open_layout("folder", tmp_path / "source")
    out = tmp_path / "dataset"
    out.mkdir(exist_ok=True)
    write_dataset(
        out,
        layout="folder",
        root=root,
        labels=layout.labels,
        source={"source": "folder"},
        revision=None,
        digest="1.dir",
        rows=rows(samples),
    )
    return out


def test_a_dataset_is_opened_as_it_was_written(tmp_path):
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    samples = tuple(open_layout("folder", tmp_path / "source").samples())
    dataset = Dataset.open(record(tmp_path, samples))
    assert dataset.samples() == samples
    assert dataset.samples() is dataset.samples(), "steps ask for every sample"
    assert dataset.samples("val") == (samples[1],)
    assert (dataset.digest, dataset.revision, dataset.source) == ("1.dir", None, {"source": "folder"})
    assert dataset.table.num_rows == 3
    assert json.loads((tmp_path / "dataset" / "dataset.json").read_text())["samples"] == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    np.testing.assert_array_equal(dataset.layout.read_image(samples[0]), IMAGE)
    absolute = Dataset.open(record(tmp_path, samples, root=tmp_path / "source"))
    assert absolute.layout.root == tmp_path / "source"


def test_a_dataset_with_an_empty_split_is_refused(tmp_path):
    folder(tmp_path / "source", names=("train/a", "test/c"))
    samples = list(open_layout("folder", tmp_path / "source").samples())
    with pytest.raises(InputError, match=r"split 'val' .* has no samples"):
        record(tmp_path, samples)


def test_a_dataset_with_an_id_twice_in_a_split_is_refused(tmp_path):
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    samples = list(open_layout("folder", tmp_path / "source").samples())
    with pytest.raises(InputError, match="same id: val/val/b"):
        record(tmp_path, [*samples, samples[1]])


def test_a_missing_or_broken_dataset_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json is not there: run the step ingest first"):
        Dataset.open(tmp_path)
    folder(tmp_path / "source", names=("train/a", "val/b", "test/c"))
    out = record(tmp_path, list(open_layout("folder", tmp_path / "source").samples()))
    data = (out / "manifest.parquet").read_bytes()
    (out / "manifest.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"manifest\.parquet is damaged \(.*\): run the step ingest again"):
        Dataset.open(out)
    other = json.loads((out / "dataset.json").read_text()) | {"digest": "2.dir"}
    (out / "manifest.parquet").write_bytes(data)
    (out / "dataset.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"manifest\.parquet of dataset 1\.dir and a dataset\.json of 2\.dir: run the"):
        Dataset.open(out)
    (out / "manifest.parquet").unlink()
    with pytest.raises(InputError, match=r"manifest\.parquet is not there"):
        Dataset.open(out)
