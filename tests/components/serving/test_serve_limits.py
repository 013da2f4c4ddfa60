"""serve: no request, however many images, bytes or minutes it brings, keeps others from being answered. And HTTP's
rules of methods and header names.
"""

import contextlib
import http.client
import io
import json
import re
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_server import listening, served, until

from components.serving.connections import TimedConnection
from components.serving.live_model import LiveModel


def request(*shape: int) -> bytes:
    tensor = {"name": "images", "shape": [*shape, 3], "datatype": "UINT8", "data": [0] * (3 * int(np.prod(shape)))}
    return json.dumps({"inputs": [tensor]}).encode()


def png(height: int, width: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, "PNG")
    return data.getvalue()


def infer(client: TestClient, body: Any) -> Any:
    return client.post("/v2/models/scenes/infer", content=body)


def metric(client: TestClient, name: str) -> float:
    found = re.search(rf"^segmodels_{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


# --- images


def test_a_request_of_many_tiny_images_is_refused(client: TestClient) -> None:
    assert infer(client, request(64, 1, 1)).status_code == 200
    response = infer(client, request(65, 1, 1))
    assert response.status_code == 413
    assert "shape [65, 1, 1, 3], 65 images, expected at most 64: send several requests" in response.json()["error"]


def test_a_narrow_image_counts_as_the_network_pads_it(client: TestClient) -> None:
    """1 x 10,000 pixels become 32 x 10,000."""
    for response in (infer(client, request(1, 1, 10_000)), client.post("/predict", content=png(10_000, 1))):
        assert response.status_code == 413
        assert "0.3 megapixels, expected at most 0.2" in response.json()["error"]


# --- bytes


def test_bodies_in_flight_are_limited_before_they_are_read(client: TestClient) -> None:
    """Four of the largest size fit; the fifth is refused by its announced length, or by its first bytes."""
    with listening(client) as address:
        held = [socket.create_connection(address) for _ in range(4)]
        for connection in held:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
        until(lambda: metric(client, "request_bytes_in_flight") == 8e6)
        before = metric(client, 'requests_refused_total{status="503"}')
        for body in (png(4, 4), iter([png(4, 4)])):
            response = client.post("/predict", content=body)
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert "requests in flight hold 8.0 of at most 8 megabytes already: try again" in response.json()["error"]
        assert metric(client, 'requests_refused_total{status="503"}') == before + 2
        assert client.get("/v2/health/ready").status_code == 200
        for connection in held:
            connection.close()
        until(lambda: metric(client, "request_bytes_in_flight") == 0)
        assert client.post("/predict", content=png(4, 4)).status_code == 200


# --- time


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    connection.settimeout(20)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def test_a_body_that_takes_too_long_is_refused_and_its_connection_closed(model: Path) -> None:
    with (
        served(str(model), seconds=0.3) as (client, _),
        listening(client) as address,
        socket.create_connection(address) as connection,
    ):
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        said = answer(connection)
        assert b" 408 " in said
        assert b"did not arrive within 0.3 seconds: send it faster" in said
        assert metric(client, 'requests_refused_total{status="408"}') == 1


@pytest.mark.parametrize("first", [b"", b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_headers_that_do_not_come_close_the_connection(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(TimedConnection, "HEADER_SECONDS", 0.3)
    with listening(client) as address, socket.create_connection(address) as connection:
        connection.sendall(first)
        time.sleep(0.1)
        started = time.monotonic()
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nX-Slow:")
        said = answer(connection)
        assert said.count(b"HTTP/1.1 200") == bool(first)
        assert time.monotonic() - started < 3  # less than the five seconds of an idle connection


def test_who_does_not_read_the_answer_is_cut_off(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimedConnection, "READ_SECONDS", 0.2)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(noise, "PNG")
    body = noise.getvalue()
    whole = len(client.post("/predict?output=overlay", content=body).content)
    assert whole > 300_000
    with listening(client) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        head = f"POST /predict?output=overlay HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        before = metric(client, "requests_total")
        connection.sendall(head.encode() + body)
        until(lambda: metric(client, "requests_total") > before)
        time.sleep(0.8)
        assert len(answer(connection)) < whole / 2


def test_work_is_cancelled_when_the_client_has_gone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(str(model), max_batch=1) as (client, live), listening(client) as address:
        held = Held(live, monkeypatch)
        body = request(8, 4, 4)
        with socket.create_connection(address) as connection:
            head = f"POST /v2/models/scenes/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(lambda: held.entered.is_set())
        until(lambda: metric(client, 'requests_refused_total{status="499"}') == 1)
        held.free.set()
        assert infer(client, request(1, 4, 4)).status_code == 200
        assert held.batches == 2  # one of the eight images, and the other request
        assert metric(client, "images_total") == 2


class Held:
    """Holds the predictions of a model until ``free`` is set."""

    def __init__(self, live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.free, self.batches = threading.Event(), threading.Event(), 0
        assert live.current is not None
        results = live.current.predictor.results

        def hold(*arguments: Any) -> Any:
            self.entered.set()
            assert self.free.wait(20)
            self.batches += 1
            return results(*arguments)

        monkeypatch.setattr(live.current.predictor, "results", hold)


def test_a_client_that_leaves_amid_its_body_is_no_error(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    before = metric(client, 'requests_refused_total{status="499"}')
    with listening(client) as address:
        for kind in ("text/plain", "multipart/form-data; boundary=x"):
            with socket.create_connection(address) as connection:
                head = (
                    f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n--x\r\n"
                )
                connection.sendall(head.encode())
        until(lambda: metric(client, 'requests_refused_total{status="499"}') == before + 2)
    assert "Traceback" not in capsys.readouterr().err


# --- HTTP's rules


def test_head_is_answered_as_get_without_a_body(client: TestClient) -> None:
    with listening(client) as address:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/scenes", "/classes", "/openapi.json"):
            answers = []
            for method in ("GET", "HEAD"):
                connection = http.client.HTTPConnection(*address, timeout=20)
                connection.request(method, path)
                response = connection.getresponse()
                answers.append((response.status, response.getheader("content-length"), response.read()))
                connection.close()
            (status, length, body), head = answers
            assert (status, length) == (200, str(len(body)))
            assert head == (200, length, b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("DELETE", "/v2/models/scenes", "GET, HEAD"),
        ("HEAD", "/predict", "POST"),
        ("PUT", "/v2/models/scenes/infer", "POST"),
    ],
)
def test_other_methods_are_405_and_the_allowed_ones_are_named(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert response.json()["error"] == f"{path} does not know the method {method}, expected {allowed}"


@pytest.mark.parametrize(
    "header",
    [
        ("Content-Type", "Multipart/Form-Data; boundary=xx"),
        ("CONTENT-TYPE", 'multipart/form-data;BOUNDARY="xx"'),
        ("content-type", "multipart/form-data ; boundary=xx; charset=UTF-8"),
    ],
)
def test_names_and_types_in_headers_have_no_case(client: TestClient, header: tuple[str, str]) -> None:
    form = b'--xx\r\ncontent-disposition: form-data; NAME="image"; filename="a"\r\n\r\n' + png(4, 5) + b"\r\n--xx--\r\n"
    response = client.post("/predict", content=form, headers=dict([header]))
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert client.post("/predict", content=png(4, 5), headers={"content-type": "IMAGE/PNG"}).status_code == 200


def test_compressed_bodies_are_refused_by_their_header(client: TestClient) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        headers = {"Content-Encoding": "GZIP", "Content-Type": kind}
        response = client.post("/predict", content=zlib.compress(png(4, 5)), headers=headers)
        assert response.status_code == 415
        assert "has Content-Encoding 'GZIP': send it uncompressed" in response.json()["error"]
    assert client.post("/predict", content=png(4, 5), headers={"content-encoding": "Identity"}).status_code == 200
