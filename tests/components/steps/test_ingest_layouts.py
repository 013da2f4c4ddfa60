"""Ingest finds the layout of a folder, keeps the classes that the parameters ask for, and later steps read the same."""

import json
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from PIL import Image

from components.params.checking import checked
from components.params.schema import IngestParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.validate import validate
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError

THREE_TIMES = {"train": "train", "val": "train", "test": "train"}


def ingested(root: Path, **facts: object) -> Dataset:
    params = checked(IngestParams, {"source": "folder", "path": str(root), **facts})
    ingest(params, root.parent / "dataset", root.parent / "cache")
    return Dataset.open(root.parent / "dataset")


def test_the_layout_is_found_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = ingested(trees.voc2012(tmp_path / "set"), splits={"test": "val"})
    assert dataset.layout.name == "voc2012"
    assert "layout voc2012" in capsys.readouterr().out
    assert [sample.id for sample in dataset.samples("test")] == ["2007_000033"]
    assert "classes" not in json.loads((tmp_path / "dataset" / "dataset.json").read_text())


def test_pictures_of_kinds_that_are_not_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    for name in "abcd":
        trees.photo(root / "images" / f"{name}.jpg")
        trees.save(root / "masks" / f"{name}.png", trees.halves(0, 255))
    for name in ("images/e.heic", "images/f.HEIC", "images/g.avif", "images/._h.heic", "images/i.xml", "logo.svg"):
        trees.write_text(root / name, "none")
    ingested(root, split={"val": 0.25, "test": 0.25})
    assert "kinds that are not read are left out (1 .avif, 2 .heic): convert them" in capsys.readouterr().out


def test_groups_that_the_datasets_own_splits_tear_apart_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    rows = {"a": ("train", "p1"), "b": ("val", "p1"), "c": ("val", "p2"), "d": ("test", "p2"), "e": ("train", "p3")}
    for name in rows:
        trees.photo(root / "images" / f"{name}.jpg")
        trees.save(root / "masks" / f"{name}.png", trees.halves(0, 255))
    trees.write_text(root / "splits.csv", "id,split\n" + "".join(f"{id},{row[0]}\n" for id, row in rows.items()))
    ingested(root)
    assert "groups" not in capsys.readouterr().out
    trees.write_text(root / "groups.csv", "id,group\n" + "".join(f"{id},{row[1]}\n" for id, row in rows.items()))
    ingested(root)
    assert "groups have samples in train and others in val or test (p1): where" in capsys.readouterr().out
    ingested(root, splits=THREE_TIMES)
    assert "groups" not in capsys.readouterr().out


def test_merged_classes_are_what_every_later_step_reads(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path / "set")
    dataset = ingested(root, classes={"vehicle": ["car", "truck", "bus"], "ignore": ["sky"]})
    assert dataset.labels.classes[11:14] == ("rider", "vehicle", "train")
    annotation = dataset.layout.annotation(dataset.samples("train")[0])
    assert np.count_nonzero(annotation.classes == 12) == 48
    assert [segment.label for segment in annotation.segments] == [10, 12, 12]
    facts = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert facts["classes"] == {"vehicle": ["car", "truck", "bus"], "ignore": ["sky"]}


def test_files_without_their_other_half_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingested(trees.apsis(tmp_path / "set"), splits={"val": "test"})
    files = "images_mask/00002_mask.mat, images_mask/00004_mask.mat"
    expected = f"2 files without their other half or in no list of samples are left out ({files})"
    assert expected in capsys.readouterr().out


def test_pages_of_a_stack_and_slices_of_a_volume_are_no_duplicates(tmp_path: Path) -> None:
    root = trees.isbi2012_stacks(tmp_path / "set")
    for name in ("train-volume", "train-labels"):  # six pages, two for each split
        pages = [Image.fromarray(trees.RNG.integers(0, 2, trees.SIZE, dtype=np.uint8) * 255) for _ in range(6)]
        pages[0].save(root / f"{name}.tif", save_all=True, append_images=pages[1:])
    ingested(root, split={"val": 0.34, "test": 0.34})
    validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")
    report = json.loads((tmp_path / "validation" / "report.json").read_text())
    found = {entry["check"] for entry in report["warnings"]}
    assert found.isdisjoint({"images_distinct", "in_one_split", "unlike_other_splits"})


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, r"fits no layout, it holds nothing; correct ingest\.path"),
        ({"classes": {"a": "b"}}, r"classes"),
        ({"classes": ["a"]}, r"classes"),
    ],
)
def test_wrong_parameters_are_one_sentence(tmp_path: Path, facts: dict, sentence: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match=sentence):
        ingested(tmp_path / "set", **facts)


def test_the_last_line_says_whose_splits_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingested(trees.voc2012(tmp_path / "own" / "set"), splits={"test": "val"})
    assert "4 samples (train 2, val 1, test 1, as the dataset ships them) of dataset" in capsys.readouterr().out
    for name in "abcd":
        trees.photo(tmp_path / "drawn" / "set" / "images" / f"{name}.png")
        trees.save(tmp_path / "drawn" / "set" / "masks" / f"{name}.png", np.eye(*trees.SIZE, dtype=np.uint8))
    ingested(tmp_path / "drawn" / "set", split={"val": 0.25, "test": 0.25, "seed": 7})
    assert "4 samples (train 2, val 1, test 1, drawn with seed 7) of dataset" in capsys.readouterr().out


def test_images_of_yolo_without_a_text_file_are_annotated(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split in ("train", "val", "test"):
        for name in ("a", "b", "c"):
            trees.photo(root / "images" / split / f"{name}.jpg")
        for name in ("a", "b"):
            line = f"0 0.25 0.25 0.75 0.25 0.75 0.{75 if name == 'a' else 85}\n"
            trees.write_text(root / "labels" / split / f"{name}.txt", line)
    trees.write_text(root / "data.yaml", "names: [cat]\n")
    dataset = ingested(root)
    assert dataset.layout.name == "yolo"
    assert len(dataset.samples("train")) == 3
    validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")
    report = json.loads((tmp_path / "validation" / "report.json").read_text())
    assert report["success"]
