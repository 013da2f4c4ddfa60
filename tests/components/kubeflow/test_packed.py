"""Artifacts of many files: one archive, the same bytes for the same files, and the same files again."""

import os
import tarfile
from pathlib import Path

import pytest

from components.kubeflow import packed
from components.kubeflow.packed import pack, pack_output, unpack, unpacked
from components.steps import STEPS
from segmodels.errors import InputError


def write(folder: Path, *, reverse: bool = False) -> Path:
    names = ["b/2.png", "b/1.png", "a.txt", f"{'deep/' * 30}{'n' * 120}.txt", "ü.txt"]
    for name in reversed(names) if reverse else names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "empty").mkdir()
    return folder


def content(folder: Path) -> dict[str, str | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else None for path in folder.rglob("*")
    }


def test_equal_files_give_equal_archives_and_come_out_again(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other", reverse=True)
    (other / "a.txt").chmod(0o600)
    os.utime(other / "a.txt", (0, 0))
    for folder in (one, other):
        pack(folder, tmp_path / f"{folder.name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()
    unpack(tmp_path / "one.tar", tmp_path / "again")
    assert content(tmp_path / "again") == content(one)


def test_an_archive_of_any_size_has_pieces_that_kubeflow_can_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "dataset")
    (folder / "large.txt").write_text("0123456789" * 5000)
    pack(folder, tmp_path / "whole.tar")
    before = content(folder)
    monkeypatch.setattr(packed, "LARGEST", 20_000)
    pack_output(folder)
    pieces = sorted(folder.iterdir())
    assert len(pieces) > 2
    assert max(piece.stat().st_size for piece in pieces) <= 20_000
    assert b"".join(piece.read_bytes() for piece in pieces) == (tmp_path / "whole.tar").read_bytes()
    validate = next(step for step in STEPS if step.name == "validate")
    monkeypatch.chdir(tmp_path)
    with unpacked(validate, {"dataset": folder}) as folders:
        assert content(folders["dataset"]) == before


def test_links_travel_as_what_they_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "second name.txt").hardlink_to(folder / "a.txt")
    (folder / "link.txt").symlink_to(folder / "a.txt")
    (folder / "folder").symlink_to(folder / "b", target_is_directory=True)
    pack(folder, tmp_path / "archive")
    unpack(tmp_path / "archive", tmp_path / "again")
    again = content(tmp_path / "again")
    assert again["second name.txt"] == again["link.txt"] == "a.txt"
    assert again["folder/1.png"] == "b/1.png"
    assert not [path for path in (tmp_path / "again").rglob("*") if path.is_symlink()]
    write(tmp_path / "elsewhere")
    (folder / "outside").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = content(tmp_path / "elsewhere")
    pack_output(folder)
    assert content(tmp_path / "elsewhere") == before, "only links are removed"


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    pack(write(tmp_path / "set"), tmp_path / "archive")
    whole = (tmp_path / "archive").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"x" * 5000, b""):
        (tmp_path / "archive").write_bytes(damaged)
        with pytest.raises(InputError, match=r"artifact .*archive is damaged"):
            unpack(tmp_path / "archive", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../out", tarfile.REGTYPE), ("/out", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)],
)
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "archive", "w") as tar:
        tar.addfile(entry)
    with pytest.raises(InputError, match=f"{name!r} is neither a file nor a folder below it"):
        unpack(tmp_path / "archive", tmp_path / "again")


def test_an_output_and_its_archive_take_little_more_room_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset").mkdir()
    for number in range(10):
        (tmp_path / "dataset" / f"{number}.png").write_bytes(bytes(100_000))
    sizes: list[int] = []
    unlink = Path.unlink

    def measured(path: Path, missing_ok: bool = False) -> None:
        sizes.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", measured)
    pack_output(tmp_path / "dataset")
    assert len(sizes) == 10
    assert max(sizes) < 1_200_000
    assert not (tmp_path / ".dataset.tar").exists()


def test_a_step_reads_folders_and_its_output_becomes_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    validate = next(step for step in STEPS if step.name == "validate")
    write(tmp_path / "dataset")
    pack_output(tmp_path / "dataset")
    assert (tmp_path / "dataset").is_file()
    options = {"dataset": tmp_path / "dataset", "validation": tmp_path / "validation", "params": None}
    with unpacked(validate, options) as folders:
        assert content(folders["dataset"]) == content(write(tmp_path / "set"))
        assert folders["validation"] == options["validation"]
    assert not list((tmp_path / "data").iterdir())
