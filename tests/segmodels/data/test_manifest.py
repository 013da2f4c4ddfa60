"""Manifests: a dataset is opened as it was written, and groups stay whole when it is split."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_folder import IMAGE, folder

from segmodels.data.layouts import Sample, open_layout
from segmodels.data.manifest import Dataset, SplitSettings, manifest_row, split_by_group, write_dataset
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


def unsplit(count: int, per_group: int = 3) -> list[Sample]:
    return [Sample(f"s{i}", None, f"{i}.png", (), f"patient {i // per_group}") for i in range(count)]


def test_a_split_by_group_keeps_groups_whole_and_meets_the_shares():
    split = split_by_group(unsplit(300), SplitSettings(val=0.2, test=0.1, seed=4))
    assert [s.id for s in split] == [f"s{i}" for i in range(300)]
    assert {name: len({s.group for s in split if s.split == name}) for name in ("train", "val", "test")} == {
        "train": 70,
        "val": 20,
        "test": 10,
    }
    assert len({(s.group, s.split) for s in split}) == 100


def test_a_split_by_group_depends_on_the_seed_alone():
    samples = unsplit(60)
    first = split_by_group(samples, SplitSettings(0.25, 0.25, seed=1))
    assert split_by_group(samples[::-1], SplitSettings(0.25, 0.25, seed=1))[::-1] == first
    assert split_by_group(samples, SplitSettings(0.25, 0.25, seed=2)) != first


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(InputError, match=r"split 'val' would be empty: a share of 0\.1 of 2 groups"):
        split_by_group(unsplit(6), SplitSettings(val=0.1, test=0.4))
    with pytest.raises(InputError, match="split 'train' would be empty"):
        split_by_group(unsplit(6), SplitSettings(val=0.3, test=0.6))
