"""S3 as a source: error paths against a small server in this process, everything else against a real S3 server."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
from s3double import Double, cut_off, flip_a_bit, listening, send, times
from s3server import Server
from small_dataset import write_small_dataset

from components.datasets import download_cache, s3_dataset
from components.datasets.download_cache import DownloadCache
from components.datasets.revision import dataset_revision
from components.params.schema import IngestParams
from components.running.digests import directory_digest, folder_md5s
from components.steps.ingest import ingest
from components.storage.s3 import split_url
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError, TransientError


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS settings but the test's; no waiting between attempts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(download_cache, "SECONDS_BEFORE_RETRY", 0)
    return monkeypatch


@pytest.fixture
def double(settings: pytest.MonkeyPatch) -> Iterator[Double]:
    """A server with seven files under s3://data/set/, and one beside."""
    files = {f"set/images/{number}.png": b"image %d" % number * 100 for number in range(5)}
    bucket = Double(
        {
            **files,
            "set/": b"",
            "set/classes.txt": b"a\nb\n",
            "set/twin.txt": b"a\nb\n",
            "settings.txt": b"not of the set",
        }
    )

    with listening(bucket.answer) as endpoint:
        settings.setenv("AWS_ENDPOINT_URL", endpoint)
        settings.setenv("AWS_ACCESS_KEY_ID", "key")
        settings.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield bucket


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def under_set(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {key.removeprefix("set/"): data for key, data in objects.items() if key.startswith("set/") and key != "set/"}


def test_everything_under_the_prefix_arrives_and_equal_files_are_transferred_once(
    double: Double, tmp_path: Path
) -> None:
    root, md5s = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert contents(root) == under_set(double.objects)
    assert md5s == folder_md5s(root)
    assert root.name == directory_digest(md5s)
    assert sum(double.gets.values()) == 6


def test_after_an_interruption_only_the_missing_files_are_transferred(double: Double, tmp_path: Path) -> None:
    double.faults["set/images/3.png"] = cut_off
    with pytest.raises(TransientError, match=r"s3://data/set/images/3\.png cannot be read"):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert double.gets["set/images/3.png"] == download_cache.ATTEMPTS
    stored = {path.read_bytes() for path in (tmp_path / "objects").glob("*/*")}
    assert stored == set(under_set(double.objects).values()) - {double.objects["set/images/3.png"]}
    assert not list((tmp_path / "partial").iterdir())

    double.faults.clear()
    double.gets.clear()
    root, _ = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert double.gets == {"set/images/3.png": 1}
    assert contents(root) == under_set(double.objects)


def test_a_new_state_of_the_bucket_transfers_what_changed_and_keeps_the_old_folder(
    double: Double, tmp_path: Path
) -> None:
    before = dict(double.objects)
    old, _ = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    double.gets.clear()
    double.objects["set/images/0.png"] = b"another image"
    del double.objects["set/images/4.png"]
    new, _ = s3_dataset.download("s3://data/set/", DownloadCache(tmp_path))
    assert double.gets == {"set/images/0.png": 1}
    assert contents(new) == under_set(double.objects)
    assert contents(old) == under_set(before)


def test_the_revision_follows_the_listing_and_downloads_nothing(double: Double) -> None:
    params = IngestParams(source="s3", path="s3://data/set")
    first = dataset_revision(params)
    assert dataset_revision(params) == first
    double.objects["other/note.txt"] = b"not of the dataset"
    assert dataset_revision(params) == first
    assert dataset_revision(replace(params, layout="voc")) != first
    double.objects["set/images/0.png"] = b"another image"
    second = dataset_revision(params)
    del double.objects["set/images/4.png"]
    assert len({first, second, dataset_revision(params)}) == 3
    assert not double.gets


def test_a_file_that_was_damaged_in_the_cache_is_transferred_again(double: Double, tmp_path: Path) -> None:
    root, _ = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    double.gets.clear()
    damaged = root / "images" / "2.png"
    damaged.chmod(0o644)
    damaged.write_bytes(b"scribble")
    root, _ = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert double.gets == {"set/images/2.png": 1}
    assert contents(root) == under_set(double.objects)


@pytest.mark.parametrize("fault", [cut_off, flip_a_bit])
def test_a_file_that_arrives_broken_once_is_fetched_again(double: Double, tmp_path: Path, fault: Callable) -> None:
    double.faults["set/images/1.png"] = times(1, fault)
    root, _ = s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert double.gets["set/images/1.png"] == 2
    assert contents(root) == under_set(double.objects)


def test_bytes_that_never_match_the_etag_are_not_kept(double: Double, tmp_path: Path) -> None:
    double.faults["set/images/1.png"] = flip_a_bit
    with pytest.raises(
        TransientError,
        match=r"^the bytes received of s3://data/set/images/1\.png do not have its ETag \"[0-9a-f]{32}\"$",
    ):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))
    assert not any(b"image 1" in path.read_bytes()[1:] for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_leads_out_of_the_folder_is_refused(double: Double, tmp_path: Path) -> None:
    double.objects["set/../../evil.txt"] = b"evil"
    with pytest.raises(
        InputError,
        match=r"^the dataset holds a file named '\.\./\.\./evil\.txt', which would not lie in its folder: rename it$",
    ):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "s3://nothing/set",
            (
                r"^s3://nothing/set cannot be read, there is no such bucket at http://127\.0\.0\.1:\d+: check its name"
                r" and AWS_ENDPOINT_URL$"
            ),
        ),
        (
            "s3://data/sets",
            r"^s3://data/sets holds no files: check bucket and prefix, expected the dataset's folders right under it$",
        ),
        (
            "s3://locked/set",
            (
                r"^s3://locked/set cannot be read, access is denied \(AccessDenied: no\): check the credentials in"
                r" AWS_\* and the bucket's permissions$"
            ),
        ),
        (
            "s3://expired/set",
            (
                r"^s3://expired/set cannot be read, access is denied \(ExpiredToken: no\): check the credentials in"
                r" AWS_\* and the bucket's permissions$"
            ),
        ),
        (
            "s3://web/set",
            (
                r"^s3://web/set cannot be read, the server says 404: Not Found: check bucket, prefix,"
                r" AWS_DEFAULT_REGION and AWS_ENDPOINT_URL$"
            ),
        ),
        (
            "s3://Bad_Name!/set",
            (
                r"^s3://Bad_Name!/set cannot be read, .*[iI]nvalid bucket name.*: check AWS_ENDPOINT_URL http.*, the"
                r" bucket's name and the AWS settings$"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("double")
def test_a_place_that_cannot_be_read_is_one_sentence(tmp_path: Path, url: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        s3_dataset.download(url, DownloadCache(tmp_path))


@pytest.mark.usefixtures("double")
def test_missing_credentials_are_one_sentence(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.delenv("AWS_ACCESS_KEY_ID")
    settings.delenv("AWS_SECRET_ACCESS_KEY")
    expected = (
        r"^s3://data/set cannot be read, unable to locate credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
        r" or AWS_PROFILE$"
    )
    with pytest.raises(InputError, match=expected):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
@pytest.mark.usefixtures("double")
def test_an_endpoint_where_nobody_answers_is_one_sentence(
    settings: pytest.MonkeyPatch, tmp_path: Path, endpoint: str
) -> None:
    settings.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(
        InputError,
        match=rf"^s3://data/set cannot be read, no server answers at AWS_ENDPOINT_URL {endpoint}: check the address$",
    ):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))


@pytest.mark.usefixtures("double")
def test_an_endpoint_that_is_no_url_is_one_sentence(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(
        InputError,
        match=r"^s3://data/set cannot be read, invalid endpoint: not a url: check AWS_ENDPOINT_URL not a url",
    ):
        s3_dataset.download("s3://data/set", DownloadCache(tmp_path))


@pytest.mark.usefixtures("double")
def test_a_server_that_is_too_busy_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"^s3://busy/set cannot be read, the server says SlowDown: no$"):
        s3_dataset.download("s3://busy/set", DownloadCache(tmp_path))


# The rest needs a real S3 server.


@pytest.fixture
def client(s3_store: Server, settings: pytest.MonkeyPatch) -> Any:
    for name, value in s3_store.environment.items():
        settings.setenv(name, value)
    return boto3.session.Session().client("s3")


def upload(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    client.create_bucket(Bucket=bucket)
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda path: client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix()), files
            )
        )


@pytest.mark.acceptance
def test_ingest_of_a_bucket_equals_ingest_of_the_folder(client: Any, tmp_path: Path) -> None:
    folder = write_small_dataset(
        tmp_path / "set", {"train": 500, "val": 20, "test": 20}
    )  # more than one page of 1,000 keys
    (folder / "größe + 1% & mehr?.txt").write_text("")
    upload(client, folder, "ingest", "some/where/")
    client.put_object(Bucket="ingest", Key="some/where-else.txt", Body=b"x")
    ingest(IngestParams(source="s3", path="s3://ingest/some/where"), tmp_path / "from_s3", tmp_path / "cache")
    ingest(IngestParams(source="folder", path=str(folder)), tmp_path / "from_folder", tmp_path / "cache")
    from_s3, from_folder = Dataset.open(tmp_path / "from_s3"), Dataset.open(tmp_path / "from_folder")
    assert from_s3.digest == from_folder.digest
    assert from_s3.table.equals(from_folder.table)
    assert contents(from_s3.layout.root) == contents(folder)
    assert from_s3.source == {"kind": "s3", "path": "s3://ingest/some/where"}


@pytest.mark.acceptance
def test_objects_uploaded_in_parts_are_checked_against_the_parts(client: Any, tmp_path: Path) -> None:
    client.create_bucket(Bucket="parts")
    data = np.random.default_rng(0).bytes(14 * 2**20)
    for key, sizes in {"set/equal": (5, 5, 4), "set/unequal": (6, 5, 3)}.items():
        upload_id = client.create_multipart_upload(Bucket="parts", Key=key)["UploadId"]
        parts, start = [], 0
        for number, size in enumerate(sizes, start=1):
            body = data[start : start + size * 2**20]
            start += len(body)
            etag = client.upload_part(Bucket="parts", Key=key, UploadId=upload_id, PartNumber=number, Body=body)["ETag"]
            parts.append({"PartNumber": number, "ETag": etag})
        client.complete_multipart_upload(Bucket="parts", Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})
    root, md5s = s3_dataset.download("s3://parts/set", DownloadCache(tmp_path))
    assert contents(root) == {"equal": data, "unequal": data}
    assert set(md5s.values()) == {hashlib.md5(data).hexdigest()}

    path = tmp_path / "damaged"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for key in ("set/equal", "set/unequal"):
        assert not s3_dataset._matches_etag(
            client, "parts", {"Key": key, "ETag": client.head_object(Bucket="parts", Key=key)["ETag"]}, path
        )


@pytest.mark.acceptance
def test_a_killed_ingest_goes_on_where_it_stopped(client: Any, s3_store: Server, tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "set", {"train": 150, "val": 5, "test": 5})
    upload(client, folder, "killed", "set/")
    (tmp_path / "params.yaml").write_text("ingest: {source: s3, path: s3://killed/set}\n")
    command = [sys.executable, "-m", "components", "ingest", "--params", "params.yaml"]
    gets: list[str] = []
    slow = threading.Event()

    def forward(request: BaseHTTPRequestHandler) -> None:
        if "list-type" not in request.path:
            gets.append(request.path)
            if slow.is_set():
                time.sleep(0.1)
        connection = http.client.HTTPConnection(urlsplit(s3_store.endpoint).netloc)
        connection.request(request.command, request.path, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        send(
            request,
            answer.status,
            answer.read(),
            **{name: value for name, value in answer.getheaders() if name.lower() not in ("content-length", "date")},
        )
        connection.close()

    with listening(forward) as endpoint:
        environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": str(Path(__file__).parents[3])}
        slow.set()
        process = subprocess.Popen(command, cwd=tmp_path, env=environment)
        while len(gets) < 100:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = list((tmp_path / "data" / "cache" / "objects").glob("*/*"))
        assert 80 <= len(stored) < 320
        assert not (tmp_path / "data" / "dataset").exists()

        slow.clear()
        gets.clear()
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    versions = len(set(folder_md5s(folder).values()))
    assert len(gets) == len(set(gets)) == versions - len(stored)
    assert contents(Dataset.open(tmp_path / "data" / "dataset").layout.root) == contents(folder)


@pytest.mark.acceptance
def test_a_wrong_secret_is_one_sentence(client: Any, settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client.create_bucket(Bucket="secret")
    settings.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(
        InputError,
        match=(
            r"^s3://secret/set cannot be read, access is denied \(SignatureDoesNotMatch: .*\): check the credentials in"
            r" AWS_\*"
        ),
    ):
        s3_dataset.download("s3://secret/set", DownloadCache(tmp_path))


def test_a_user_in_an_address_of_s3_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match=r"expected s3://BUCKET/FOLDER") as caught:
        split_url("s3://me:hidden@bucket/x")
    assert "hidden" not in str(caught.value)
