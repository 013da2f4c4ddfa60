"""Requests to the model server that no client sends."""

from __future__ import annotations

import http.client
import io
import json
import random
import re
import socket
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.attacks.ground import PYTHON, Ground, Trials, kill, start, until


def fuzz(ground: Ground) -> Trials:
    """Random and half requests at ``serve``: no answer of 500, no traceback in its log, and it still predicts."""
    workspace = ground.copy()
    log = workspace / "serve.log"
    log.touch()
    process = start(
        workspace, "sh", "-c", f'exec "$@" > {log} 2>&1', "sh", *PYTHON, "serve", "--model", "data/model", "--port", "0"
    )
    try:
        if not until(lambda: "is served" in log.read_text() or process.poll() is not None, 60):
            raise RuntimeError("the server does not start")
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())
        port = int(found[1]) if found else 0
        yield "a good request", _predicts(port)
        draw = random.Random(0)
        for number in range(400):
            name, request = _request(draw)
            before = len(log.read_text())
            status = _exchange(port, request)
            printed = log.read_text()[before:]
            fault = (
                "traceback in the log" if "Traceback" in printed else f"answer {status}" if status in (500, 502) else ""
            )
            yield f"request {number}: {name}", fault
        yield "a good request afterwards", _predicts(port)
    finally:
        kill(process)


def _predicts(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/predict", body=_picture())
    status = connection.getresponse().status
    return "" if status == 200 else f"answer {status}"


def _picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _request(draw: random.Random) -> tuple[str, bytes]:
    """A name and the bytes of a request."""
    picture = _picture()
    tensor = {"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192}
    key = draw.choice(list(tensor))
    value: Any = draw.choice([None, -1, 1e400, "x", [], {}, [[[]]], [10**9] * 4, 2**70, True])
    bodies = {
        "noise": draw.randbytes(draw.randrange(3000)),
        "half a picture": picture[: draw.randrange(len(picture))],
        "a flipped picture": bytes(byte ^ (draw.random() < 0.02) for byte in picture),
        f"a tensor with {key} {str(value)[:20]}": json.dumps({"inputs": [{**tensor, key: value}]}).encode(),
        "inputs of a wrong type": json.dumps({"inputs": draw.choice([None, 1, "x", {}, [], [None], [[]]])}).encode(),
        "JSON nested deeply": b'{"inputs": ' + b"[" * 50_000,
        "no UTF-8": b'{"inputs": "\xff\xfe"}',
        "many tensors": json.dumps({"inputs": [tensor] * 300}).encode(),
    }
    name, body = draw.choice(list(bodies.items()))
    path = draw.choice(
        [
            "/predict",
            "/v2/models/model/infer",
            "/v2/models/x/infer",
            "/predict?output=" + "%00",
            "/../..",
            "/metrics",
            "/v2",
        ]
    )
    kind = draw.choice(
        [
            "",
            "Content-Type: application/json\r\n",
            "Content-Type: image/png\r\n",
            "Content-Type: multipart/form-data; boundary=x\r\n",
            "Content-Encoding: gzip\r\n",
            f"Inference-Header-Content-Length: {draw.choice(['-1', '5', 'x', '99999999'])}\r\n",
        ]
    )
    length = draw.choice([len(body)] * 6 + [0, len(body) // 2])
    method = draw.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "PATCH", "\x00"])
    return (
        f"{name} to {path}",
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n".encode()
        + body,
    )


def _exchange(port: int, request: bytes) -> int:
    """The answer's status; 0 when the connection ends without one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
            answer = connection.recv(4096)
    except ConnectionError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0
