"""What file managers, archives and notebooks leave in folders changes no dataset."""

import shutil
from pathlib import Path

import pytest
from layout_trees import TREES

from segmodels.data.layouts import find_layout, open_layout

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xb0\xff"
"""Begin of the files ``._NAME`` that macOS writes beside NAME on disks of other systems and into archives."""


def leave_behind(root: Path) -> None:
    """Beside every file, in copies that notebooks keep, and at the top."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        files = [path for path in folder.iterdir() if path.is_file()]
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / name).write_bytes(APPLE_DOUBLE)
        for path in files:
            copy = folder / ".ipynb_checkpoints" / f"{path.stem}-checkpoint{path.suffix}"
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
            (folder / f"._{path.name}").write_bytes(APPLE_DOUBLE)
            archived = folder / "__MACOSX" / f"._{path.name}"
            archived.parent.mkdir(exist_ok=True)
            archived.write_bytes(APPLE_DOUBLE)


@pytest.mark.parametrize("name", sorted(TREES))
def test_leftovers_are_no_part_of_a_dataset(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "set")
    found = find_layout(root)
    before = open_layout(found, root)
    samples = list(before.samples())
    leave_behind(root)
    assert find_layout(root) == found
    after = open_layout(found, root)
    assert list(after.samples()) == samples
    assert after.labels == before.labels
    assert sorted(after.left_out) == sorted(before.left_out)


def test_an_old_copy_of_a_json_file_adds_no_class(tmp_path: Path) -> None:
    root = TREES["coco_export"](tmp_path / "set")
    before = open_layout("coco_export", root).labels
    path = next(root.rglob("*.json"))
    copy = root / ".ipynb_checkpoints" / path.name
    copy.parent.mkdir()
    copy.write_text(path.read_text().replace('"person"', '"prson"'))
    assert open_layout("coco_export", root).labels == before
