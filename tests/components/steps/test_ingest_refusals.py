"""Ingest: what is wrong with a dataset, or with the parameters, is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_dataset import write, write_small_dataset

from components.params.checking import checked
from components.params.schema import IngestParams
from components.running.digests import folder_md5s
from components.steps.ingest import ingest
from segmodels.errors import InputError

SPLITS = ("train", "val", "test")
SMALL = {"train": 6, "val": 2, "test": 3}


def from_folder(path: Path | str, **facts: object) -> IngestParams:
    return checked(IngestParams, {"source": "folder", "path": str(path), **facts})


def remove_mask(root: Path) -> None:
    (root / "masks" / "val" / "001.png").unlink()


def add_mask(root: Path) -> None:
    write(root / "masks" / "val" / "009.png", Image.new("L", (32, 24)))


def empty_test(root: Path) -> None:
    for part in ("images", "masks"):
        for path in (root / part / "test").iterdir():
            path.unlink()


def dangling_link(root: Path) -> None:
    (root / "images" / "val" / "000.png").unlink()
    (root / "images" / "val" / "000.png").symlink_to("nowhere.png")


def named_pipe(root: Path) -> None:
    (root / "notes").mkdir()
    os.mkfifo(root / "notes" / "pipe")


def endless_device(root: Path) -> None:
    (root / "masks" / "val" / "000.png").unlink()
    (root / "masks" / "val" / "000.png").symlink_to("/dev/zero")


def circle(root: Path) -> None:
    (root / "images" / "again").symlink_to("../images")


def latin1_name(root: Path) -> None:
    (root / "masks" / "val" / "000.png").rename(os.fsdecode(bytes(root / "masks" / "val") + b"/stra\xdfe.png"))


def no_classes(root: Path) -> None:
    (root / "classes.txt").unlink()
    write(root / "masks" / "val" / "000.png", Image.new("L", (32, 24), 7))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            remove_mask,
            r"^1 file in \S+ has no mask: images/val/001\.png: add each mask under the same name or remove the file$",
        ),
        (
            add_mask,
            (
                r"^1 file in \S+ has no image: masks/val/009\.png: add each image under the same name or remove the"
                r" file$"
            ),
        ),
        (
            empty_test,
            (
                r"^split 'test' has no samples, the dataset's splits are train, val: set ingest\.splits, for example"
                r" \{test: val\}$"
            ),
        ),
        (
            dangling_link,
            (
                r"^folder \S+ holds the link images/val/000\.png, which cannot be followed \(No such file or"
                r" directory\): restore its target or remove it$"
            ),
        ),
        (named_pipe, r"^folder \S+ holds notes/pipe, a named pipe, expected only files and folders: remove it$"),
        (
            endless_device,
            r"^folder \S+ holds masks/val/000\.png, a device, expected only files and folders: remove it$",
        ),
        (circle, r"^folder \S+/images/again is a link to a folder that it lies in: remove the link$"),
        (latin1_name, r"^folder \S+ holds a file whose name is not UTF-8, masks/val/stra\\xdfe\.png: rename it"),
        (
            no_classes,
            r"^dataset folder \S+ has neither classes\.txt nor classes\.json, and its masks leave doubts: they"
            r" hold the grey values \[0, 1, 7\]; correct the masks, or write classes\.txt",
        ),
    ],
)
def test_a_damaged_dataset_is_one_sentence_and_leaves_the_last_output(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    root = write_small_dataset(tmp_path / "set", SMALL)
    ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache")
    before = folder_md5s(tmp_path / "dataset")
    damage(root)
    with pytest.raises(InputError, match=sentence):
        ingest(from_folder(root), tmp_path / "dataset", tmp_path / "cache")
    assert folder_md5s(tmp_path / "dataset") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "set"]


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"path": "nothing/here"}, r"^dataset folder nothing/here is not there: check ingest\.path$"),
        (
            {"layout": "camvid"},
            r"^dataset folder \S+ is not organised as layout 'camvid', expected train\.txt, val\.txt or test\.txt",
        ),
        ({"layout": "camvit"}, r"^unknown layout 'camvit': did you mean 'camvid' or 'camvid32'\?$"),
        (
            {"splits": {"test": "testing"}},
            r"^split 'test' has no samples under the name 'testing' of ingest\.splits, the dataset's splits are test,"
            r" train, val: set ingest\.splits",
        ),
        (
            {"splits": {"val": "dev"}},
            r"under the name 'dev' of .*: correct ingest\.splits, or remove val from it to draw val from train$",
        ),
        ({"splits": {"train": "trainval"}}, r": add samples for training, or name the split that has them in ingest"),
    ],
)
def test_wrong_parameters_are_one_sentence(tmp_path: Path, facts: dict[str, object], sentence: str) -> None:
    root = write_small_dataset(tmp_path / "set", SMALL)
    with pytest.raises(InputError, match=sentence):
        ingest(from_folder(**{"path": root, **facts}), tmp_path / "dataset", tmp_path / "cache")


def test_splits_of_a_dataset_that_ships_none_are_one_sentence(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path / "set")
    with pytest.raises(
        InputError,
        match=(
            r"^ingest\.splits is \{'test': 'val'\}, but the dataset ships no splits: remove it and set ingest\.split$"
        ),
    ):
        ingest(from_folder(root, splits={"test": "val"}), tmp_path / "dataset", tmp_path / "cache")


def test_files_that_a_list_names_and_that_are_not_there_are_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split in SPLITS:
        for number in range(4):
            for folder, mode in ((split, "RGB"), (f"{split}annot", "L")):
                write(root / folder / f"{number}.png", Image.new(mode, (8, 8)))
        (root / f"{split}.txt").write_text(
            "".join(f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png\n" for n in range(4))
        )
    for number in range(3):
        (root / "val" / f"{number}.png").unlink()
        (root / "valannot" / f"{number}.png").unlink()
    expected = (
        r"lists 6 files that are not there \(val/0\.png, valannot/0\.png, val/1\.png, valannot/1\.png, val/2\.png and 1"
        r" more\): add them or correct the list$"
    )
    with pytest.raises(InputError, match=expected):
        ingest(from_folder(root, layout="camvid"), tmp_path / "dataset", tmp_path / "cache")


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"set\.zip is a file, expected a folder: unpack it and correct ingest\.path$"):
        ingest(from_folder(tmp_path / "set.zip"), tmp_path / "dataset", tmp_path / "cache")


def test_the_command_ends_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("ingest: {source: folder, path: missing}\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [sys.executable, "-m", "components", "ingest"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: dataset folder missing is not there: check ingest.path\n"
