"""Pretrained weights from real servers: S3 (Swift or moto) and HTTP. The library hands the address to fsspec and knows
no credentials.
"""

import errno
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save, save_file

from segmodels import transfer
from segmodels.encoders.registry import create_encoder
from segmodels.encoders.weights import fetch
from segmodels.errors import InputError, TransientError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def web(tmp_path) -> Iterator[tuple[str, Path]]:
    """An HTTP server: its address and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_load_over_http_and_a_pinned_copy_outlives_the_server(web):
    address, folder = web
    state = {
        key: torch.rand_like(value)
        for key, value in create_encoder("mobilenet_v2").state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, folder / "mobilenet.safetensors")
    encoder = create_encoder("mobilenet_v2", weights=f"{address}/mobilenet.safetensors")
    assert torch.equal(encoder.features[0][0].weight, state["features.0.0.weight"])

    digest = hashlib.sha256((folder / "mobilenet.safetensors").read_bytes()).hexdigest()
    copy = fetch(f"{address}/mobilenet.safetensors#sha256={digest}")
    (folder / "mobilenet.safetensors").unlink()
    assert fetch(f"{address}/mobilenet.safetensors#sha256={digest}") == copy


def test_what_http_does_not_have_is_named_and_a_silent_server_may_be_tried_again(web, monkeypatch):
    address, _ = web
    with pytest.raises(InputError, match=rf"{address}/nothing\.pth cannot be downloaded, the server answers 404"):
        fetch(f"{address}/nothing.pth")
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.0)
    with pytest.raises(TransientError, match=r"cannot be downloaded .*refused"):
        fetch("http://127.0.0.1:9/weights.pth")  # the discard port: nothing answers
    with pytest.raises(InputError, match="it names no host"):
        fetch("http://me:secret@/weights.pth")  # that fsspec would log in to


@pytest.mark.slow
def test_weights_load_from_s3_and_again_when_the_object_changed(s3):
    s3.create_bucket(Bucket="models")
    first, second = (
        {key: torch.rand_like(value.float()) for key, value in create_encoder("resnet18").state_dict().items()}
        for _ in range(2)
    )

    s3.put_object(Bucket="models", Key="bodies/resnet18.safetensors", Body=save(first))
    uri = "s3://models/bodies/resnet18.safetensors"
    assert torch.equal(create_encoder("resnet18", weights=uri).conv1.weight, first["conv1.weight"])
    copy = fetch(uri)
    written = copy.stat().st_mtime_ns
    assert fetch(uri).stat().st_mtime_ns == written, "the same object is fetched once"

    s3.put_object(Bucket="models", Key="bodies/resnet18.safetensors", Body=save(second))
    assert torch.equal(create_encoder("resnet18", weights=uri).conv1.weight, second["conv1.weight"])


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_an_object_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"s3://models/nothing\.pth are not there"):
        fetch("s3://models/nothing.pth")


def test_a_full_disk_is_no_outage_and_a_damaged_note_fetches_the_file_again(web, monkeypatch, tmp_path):
    address, folder = web
    (folder / "a.bin").write_bytes(b"weights")
    copy = fetch(f"{address}/a.bin")
    for damage in (b"", b"[]", b"null", b"\xff", b'{"sha256": 3}'):
        copy.with_name(copy.name + ".json").write_bytes(damage)
        assert fetch(f"{address}/a.bin").read_bytes() == b"weights"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = SimpleNamespace(ukey=str, get_file=full)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda uri: (store, uri))
    with pytest.raises(InputError, match=r"^the disk is full \(.*other cache\): free some space"):
        fetch("s3://bucket/a.bin", tmp_path / "other cache")
