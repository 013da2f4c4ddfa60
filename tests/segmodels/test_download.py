"""Downloads are resumed, verified, and whole or not there."""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from range_server import FileServer, file_server

from segmodels import download as module
from segmodels import transfer
from segmodels.download import download
from segmodels.errors import InputError, TransientError

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    with file_server() as files:
        files.files["/file"] = CONTENT
        yield files


@pytest.mark.parametrize(
    "expected", [{}, {"sha256": SHA256}, {"sha256": SHA256[:8].upper()}, {"md5": MD5, "size": len(CONTENT)}]
)
def test_a_file_arrives_over_broken_connections_and_is_not_fetched_twice(
    server: FileServer, tmp_path: Path, expected: dict
) -> None:
    server.break_after = 30_000
    seen: list[tuple[int, int | None]] = []
    for _ in range(2):
        path = download(
            f"{server.address}/file", tmp_path / "in" / "it", progress=lambda *at: seen.append(at), **expected
        )
        assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in server.requests] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in path.parent.iterdir()] == ["it"]


def test_an_interrupted_download_is_resumed_by_the_next_call_if_the_file_is_the_same(
    server: FileServer, tmp_path: Path
) -> None:
    def interrupt(here: int, _total: int | None) -> None:
        if here:
            raise KeyboardInterrupt

    for etag, ranges in (('"1"', [None, "bytes=1000-"]), ('"2"', [None, "bytes=1000-"])):
        server.requests.clear()
        server.break_after = 1000
        with pytest.raises(KeyboardInterrupt):
            download(f"{server.address}/file", tmp_path / etag, progress=interrupt)
        server.break_after = None
        server.etag = etag
        assert download(f"{server.address}/file", tmp_path / etag).read_bytes() == CONTENT
        assert [wanted for _, wanted, _ in server.requests] == ranges
        assert server.requests[-1][2] == '"1"'
        server.etag = '"1"'


def test_bytes_that_are_here_count_with_a_digest_whatever_server_they_are_from(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "it.partial").write_bytes(CONTENT[:5000])
    download(f"{server.address}/file", tmp_path / "it", sha256=SHA256)
    assert server.requests == [("/file", "bytes=5000-", None)]
    (tmp_path / "whole.partial").write_bytes(CONTENT)
    download(f"{server.address}/file", tmp_path / "whole", sha256=SHA256)
    (tmp_path / "no.partial").write_bytes(CONTENT[:5000])
    server.ranges = False
    for name in ("whole", "no"):
        assert download(f"{server.address}/file", tmp_path / name, sha256=SHA256).read_bytes() == CONTENT


def test_bytes_of_another_file_are_found_by_the_digest_and_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "it.partial").write_bytes(b"x" * 5000)
    with pytest.raises(TransientError, match="a part of it came from an earlier download, the next one starts over"):
        download(f"{server.address}/file", tmp_path / "it", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "it").write_bytes(b"damaged")
    assert download(f"{server.address}/file", tmp_path / "it", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "expected", "statuses", "message"),
    [
        ("/file", {"sha256": "0" * 64}, [], rf"has the SHA-256 {SHA256}, expected 0{{64}}, and was removed: check"),
        ("/file", {"md5": "0" * 32}, [], rf"has the MD5 {MD5}, expected 0{{32}}, and was removed: check"),
        ("/file", {"size": 7}, [], r"has 102400 bytes, expected 7: check the address"),
        ("/none", {}, [], r"the server answers 404 Not Found: check the address, or fetch the file elsewhere and put"),
        ("/file", {}, [403], r"the server answers 403 Forbidden: it wants a login, or fetch the file elsewhere"),
        ("/a b", {}, [], r"is not a valid address \(URL can't contain control characters"),
    ],
)
def test_what_a_retry_does_not_help_is_one_sentence_and_leaves_nothing(
    server: FileServer, tmp_path: Path, path: str, expected: dict, statuses: list[int], message: str
) -> None:
    server.statuses = statuses
    with pytest.raises(InputError, match=message):
        download(server.address + path, tmp_path / "it", **expected)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_and_a_failing_server_may_pass(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    assert download(f"{server.address}/file", tmp_path / "it").read_bytes() == CONTENT
    server.statuses = [503] * 4
    with pytest.raises(TransientError, match="the server answers 503"):
        download(f"{server.address}/file", tmp_path / "other")
    server.break_after = 0
    with pytest.raises(TransientError, match="the connection broke after 0 of 102400 bytes"):
        download(f"{server.address}/file", tmp_path / "other")
    with pytest.raises(TransientError, match=r"http://127.0.0.1:1/x cannot be downloaded .*refused"):
        download("http://me:secret@127.0.0.1:1/x", tmp_path / "other")
    with pytest.raises(InputError, match=r"'ftp://host/x' cannot be downloaded, expected an address that begins with"):
        download("ftp://me:secret@host/x", tmp_path / "other")
    with pytest.raises(InputError, match=r"'http:///x', an address that cannot be read \(it names no host\)"):
        download("http:///x", tmp_path / "other")


def test_a_full_disk_is_said_before_and_while_it_fills_and_what_arrived_is_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = re.escape(f"the disk is full ({tmp_path / 'it'}): free some space and run the command again, it resumes")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(InputError, match=sentence):
            download(f"{server.address}/file", tmp_path / "it")
    assert list(tmp_path.iterdir()) == []

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def write(self, rest: memoryview) -> int:
            if self.file.tell() >= 2000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(rest[:2000])

    build = transfer.Transfer
    with monkeypatch.context() as patch:
        patch.setattr(module, "Transfer", lambda url, file, *rest: build(url, Full(file), *rest))
        with pytest.raises(InputError, match=sentence):
            download(f"{server.address}/file", tmp_path / "it")
    assert (tmp_path / "it.partial").stat().st_size == 2000
    assert download(f"{server.address}/file", tmp_path / "it").read_bytes() == CONTENT


def test_several_downloads_of_one_file_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(f"{server.address}/file", tmp_path / "it"), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.requests) == 1
