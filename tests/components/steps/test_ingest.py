"""Ingest: what is written down about a dataset, its digest, its splits, and what is wrong with it."""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from small_dataset import write_small_dataset

from components.params.checking import checked
from components.params.schema import IngestParams
from components.running import progress_bar
from components.running.digests import directory_digest, file_md5, folder_md5s
from components.steps.ingest import ingest
from segmodels.data.digits import DigitsSettings
from segmodels.data.group_split import SplitSettings
from segmodels.data.manifest import Dataset

SPLITS = ("train", "val", "test")
SMALL = {"train": 6, "val": 2, "test": 3}


def from_folder(path: Path | str, **facts: object) -> IngestParams:
    return checked(IngestParams, {"source": "folder", "path": str(path), **facts})


def ids(dataset: Path, split: str) -> list[str]:
    return [sample.id for sample in Dataset.open(dataset).samples(split)]


def test_a_folder_is_read_where_it_is_and_written_down_sample_by_sample(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set", SMALL)
    before = folder_md5s(root)
    ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "dataset")
    assert [len(dataset.samples(split)) for split in SPLITS] == [6, 2, 3]
    assert dataset.labels.classes == ("background", "object")
    assert dataset.source == {"kind": "folder", "path": str(root)}
    assert dataset.revision is None
    for row in dataset.table.to_pylist():
        assert row["id"].startswith(row["split"])
        assert row["image_md5"] == file_md5(root / row["image"])
        assert row["files"] == [row["image"].replace("images", "masks")]
        assert row["md5s"] == [file_md5(root / row["files"][0])]
    facts = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert facts["root"] == str(root)
    assert facts["samples"] == SMALL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "set"]
    assert folder_md5s(root) == before


def test_files_are_copied_beside_the_manifest_unless_they_lie_in_a_folder(tmp_path: Path) -> None:
    digits = IngestParams(digits=DigitsSettings(train=3, val=1, test=1, size=32))
    ingest(digits, tmp_path / "dataset", tmp_path / "cache", copy_files=True)
    (tmp_path / "cache").rename(tmp_path / "gone")
    (tmp_path / "dataset").rename(tmp_path / "moved")
    opened = Dataset.open(tmp_path / "moved")
    assert directory_digest(folder_md5s(tmp_path / "moved" / "files")) == opened.digest
    assert all((tmp_path / "moved" / "files" / sample.image).is_file() for sample in opened.samples())

    root = write_small_dataset(tmp_path / "set", SMALL)
    ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache", copy_files=True)
    assert Dataset.open(tmp_path / "dataset").layout.root == root


def test_a_relative_path_can_be_read_from_other_working_directories_and_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_dataset(tmp_path / "project" / "my" / "set", SMALL)
    monkeypatch.chdir(tmp_path / "project")
    ingest(from_folder("my/set"), Path("data/dataset"), Path("data/cache"))
    assert json.loads(Path("data/dataset/dataset.json").read_text())["root"] == "../../my/set"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename(tmp_path / "moved")
    dataset = Dataset.open("moved/data/dataset")
    sample = dataset.samples("val")[0]
    assert dataset.layout.read_image(sample).shape == (24, 32, 3)
    annotation = dataset.layout.annotation(sample)
    assert annotation is not None
    assert set(annotation.classes.flat) == {0, 1}


def test_a_relative_path_is_right_where_the_output_lies_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_dataset(tmp_path / "project" / "set", SMALL)
    (tmp_path / "large" / "disk").mkdir(parents=True)
    (tmp_path / "project" / "data").symlink_to(tmp_path / "large" / "disk")
    monkeypatch.chdir(tmp_path / "project")
    ingest(from_folder("set"), Path("data/dataset"), Path("data/cache"))
    assert Dataset.open("data/dataset").layout.root.samefile("set")


def test_the_digest_is_the_one_that_dvc_add_writes(tmp_path: Path) -> None:
    from dvc.repo import Repo

    root = write_small_dataset(tmp_path / "set", SMALL)
    (root / "empty").touch()
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / 'größe "ü" 名.txt').write_bytes(b"a\r\nb\r\n")
    (root / "deep-").write_text("sorts before deep/er")
    (root / "linked.txt").symlink_to("classes.txt")
    (root / ".hidden").write_text("counts")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("does not count")
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        (stage,) = repo.add(str(root))
    assert directory_digest(folder_md5s(root)) == stage.outs[0].hash_info.value
    ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache")
    assert Dataset.open(tmp_path / "dataset").digest == stage.outs[0].hash_info.value


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set", SMALL)
    ingest(from_folder(root), tmp_path / "before", tmp_path / "cache")
    (root / "images").rename(tmp_path / "photos")
    (root / "images").symlink_to("../photos")
    (root / "masks" / "val").rename(tmp_path / "val")
    (root / "masks" / "val").symlink_to(tmp_path / "val")
    ingest(from_folder(root), tmp_path / "after", tmp_path / "cache")
    before, after = Dataset.open(tmp_path / "before"), Dataset.open(tmp_path / "after")
    assert after.table == before.table
    assert after.digest == before.digest


def test_names_in_both_forms_of_unicode_are_one(tmp_path: Path) -> None:
    """As when images were written on macOS and masks elsewhere."""
    one, two = "caf\u00e9", "cafe\u0301"
    root = write_small_dataset(tmp_path / "set")
    for number, (image, mask) in enumerate([(one, two), (two + "2", one + "2")]):
        (root / "images" / f"{number:03d}.png").rename(root / "images" / f"{image}.png")
        (root / "masks" / f"{number:03d}.png").rename(root / "masks" / f"{mask}.png")
    (root / "splits").mkdir()
    for split, name in (("train", two), ("val", "003"), ("test", f"{two}2.png")):
        (root / "splits" / f"{split}.txt").write_text(f"{name}\n", encoding="utf-8")
    ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache")
    assert [ids(tmp_path / "dataset", split) for split in SPLITS] == [[one], ["003"], [one + "2"]]
    for sample in Dataset.open(tmp_path / "dataset").samples():
        assert all((root / file).is_file() for file in (sample.image, *sample.files))


def test_one_changed_byte_changes_the_digest_and_one_row(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set", SMALL)
    ingest(from_folder(root), tmp_path / "before", tmp_path / "cache")
    mask = root / "masks" / "val" / "001.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    ingest(from_folder(root), tmp_path / "after", tmp_path / "cache")
    before, after = Dataset.open(tmp_path / "before"), Dataset.open(tmp_path / "after")
    assert before.digest != after.digest
    changed = [
        new["files"] for old, new in zip(before.table.to_pylist(), after.table.to_pylist(), strict=True) if old != new
    ]
    assert changed == [["masks/val/001.png"]]


def test_splits_can_be_taken_from_other_splits_of_the_dataset(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set", {"train": 6, "val": 2})
    ingest(from_folder(root, splits={"test": "val"}), tmp_path / "dataset", tmp_path / "cache")
    assert ids(tmp_path / "dataset", "test") == ids(tmp_path / "dataset", "val") == ["val/000", "val/001"]
    assert len(ids(tmp_path / "dataset", "train")) == 6


@pytest.mark.parametrize(
    ("shipped", "sizes", "origin"),
    [
        ({"train": 10, "test": 3}, [8, 2, 3], "val drawn with seed 5 from train"),
        ({"train": 10}, [5, 2, 3], "val and test drawn with seed 5 from train"),
    ],
)
def test_val_is_drawn_from_train_where_the_dataset_ships_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shipped: dict[str, int], sizes: list[int], origin: str
) -> None:
    root = write_small_dataset(tmp_path / "set", shipped)
    (root / "splits").mkdir()
    for split in shipped:
        names = [f"{path.parent.name}/{path.stem}" for path in (root / "images" / split).iterdir()]
        (root / "splits" / f"{split}.txt").write_text("\n".join(names))
    ingest(from_folder(root, split={"val": 0.2, "test": 0.3, "seed": 5}), tmp_path / "dataset", tmp_path / "cache")
    parts = [ids(tmp_path / "dataset", split) for split in SPLITS]
    assert [len(part) for part in parts] == sizes
    assert len({name for part in parts for name in part}) == sum(shipped.values())
    assert sorted(parts[2]) == [f"test/{number:03d}" for number in range(3)] or "test" not in shipped
    assert f"samples (train {sizes[0]}, val {sizes[1]}, test {sizes[2]}, {origin}) of" in capsys.readouterr().out


def test_a_dataset_without_splits_is_split_by_group_and_seed(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set")
    (root / "groups.csv").write_text(
        "id,group\n" + "".join(f"{number:03d},patient{number // 2}\n" for number in range(12))
    )
    parts = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split = SplitSettings(val=0.34, test=0.34, seed=seed)
        ingest(from_folder(root, split=asdict(split)), tmp_path / name, tmp_path / "cache")
        parts[name] = [ids(tmp_path / name, split) for split in SPLITS]
    assert parts["a"] == parts["b"] != parts["c"]
    assert [len(part) for part in parts["a"]] == [4, 4, 4]
    groups = [{int(sample) // 2 for sample in part} for part in parts["a"]]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 6


def test_folders_that_drawn_splits_tear_apart_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, drawn = tmp_path / "set", {"val": 0.34, "test": 0.34}
    write_small_dataset(root, {"p1": 6, "p2": 6})
    sentence = "samples of one folder are in several splits (p1, p2): if such folders are patients, videos or places,"
    ingest(from_folder(root, split=drawn), tmp_path / "a", tmp_path / "cache")
    assert f"{sentence} write groups.csv with the header id,group" in capsys.readouterr().out
    (root / "groups.csv").write_text("id,group\n" + "".join(f"p{p}/{n:03d},{p}{n}\n" for p in (1, 2) for n in range(6)))
    ingest(from_folder(root, split=drawn), tmp_path / "b", tmp_path / "cache")
    assert "several splits" not in capsys.readouterr().out
    write_small_dataset(tmp_path / "shipped", {"train/p1": 4, "val/p1": 2, "test/p1": 2})
    ingest(from_folder(tmp_path / "shipped"), tmp_path / "c", tmp_path / "cache")
    for name, folders in (("half", {"train": 9, "test": 3}), ("single", {"tiles": 12})):
        write_small_dataset(tmp_path / name, folders)
        ingest(from_folder(tmp_path / name), tmp_path / "d" / name, tmp_path / "cache")
    assert "several splits" not in capsys.readouterr().out


def test_camvid_uses_val_as_test(shared_data: Path, tmp_path: Path) -> None:
    ingest(
        from_folder(shared_data / "camvid", layout="camvid", splits={"test": "val"}),
        tmp_path / "dataset",
        tmp_path / "cache",
    )
    dataset = Dataset.open(tmp_path / "dataset")
    assert [len(dataset.samples(split)) for split in SPLITS] == [367, 101, 101]
    assert dataset.labels.num_classes == 11
    assert dataset.layout.name == "camvid"


def test_digits_are_generated_once_into_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file() and path.name != ".lock"}

    params = IngestParams(digits=DigitsSettings(train=6, val=3, test=2, size=32, seed=1))
    ingest(params, tmp_path / "dataset", cache)
    dataset, generated = Dataset.open(tmp_path / "dataset"), files()
    assert [len(dataset.samples(split)) for split in SPLITS] == [6, 3, 2]
    assert dataset.source == {"kind": "digits", "train": 6, "val": 3, "test": 2, "size": 32, "seed": 1}
    assert directory_digest(folder_md5s(dataset.layout.root)) == dataset.digest
    ingest(params, tmp_path / "again", cache)
    assert files() == generated
    ingest(IngestParams(digits=DigitsSettings(train=6, val=3, test=2, size=32, seed=2)), tmp_path / "other", cache)
    assert len(files()) == 2 * len(generated)
    assert Dataset.open(tmp_path / "other").digest != dataset.digest == Dataset.open(tmp_path / "again").digest


def test_digits_are_generated_once_by_experiments_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmodels.data import digits

    complete, calls = digits.write_digits, []

    def counted(root: Path, settings: DigitsSettings) -> None:
        calls.append(root)
        complete(root, settings)

    monkeypatch.setattr(digits, "write_digits", counted)
    params = IngestParams(digits=DigitsSettings(train=6, val=3, test=2, size=32))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: ingest(params, tmp_path / name, tmp_path / "cache"), "abcd"))
    assert len(calls) == 1
    assert len({Dataset.open(tmp_path / name).digest for name in "abcd"}) == 1


def test_digits_that_were_interrupted_are_generated_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmodels.data import digits

    params = IngestParams(digits=DigitsSettings(train=6, val=3, test=2, size=32))
    complete, written = digits._save, []

    def fail_half_way(path: Path, picture: object, **options: object) -> None:
        complete(path, picture, **options)
        written.append(path)
        if len(written) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_save", fail_half_way)
    with pytest.raises(KeyboardInterrupt):
        ingest(params, tmp_path / "dataset", tmp_path / "cache")
    monkeypatch.setattr(digits, "_save", complete)
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    assert [len(ids(tmp_path / "dataset", split)) for split in SPLITS] == [6, 3, 2]


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress_bar.track(range(3), "counting", 3)) == [0, 1, 2]
    assert log.getvalue() == ""
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 0)
    assert list(progress_bar.track(range(3), "counting", 3)) == [0, 1, 2]
    assert log.getvalue() == "counting: 1 of 3\ncounting: 2 of 3\ncounting: 3 of 3\n"
