"""An object store with hostile keys, requests that no client sends, and secrets in addresses."""

from __future__ import annotations

import http.client
import io
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from benchmarks.attacks.ground import PARAMS, PYTHON, Ground, Trial, kill, run, start, until, write_params

KEYS = (
    "set/../../escaped",
    "set/../escaped",
    "set//escaped",
    "set/./escaped",
    "set/a/../../../../escaped",
    "set/images/..\\..\\escaped",
    "set/" + "x" * 300,
    "set/" + "d/" * 200 + "x",
    "set/line\nbreak",
    "set/\u202eescaped",
    "set/images",
    "set/images/",
    "set/~/escaped",
    "set/$(touch escaped)",
)
SECRET = "s3cr3tpassw0rd"


def s3_keys(ground: Ground) -> Iterator[Trial]:
    """A store that lists a dataset and one hostile key: nothing is written outside the cache."""
    for key in KEYS:
        workspace = ground.copy("data")
        write_params(workspace, {"ingest": {"source": "s3", "path": "s3://bucket/set"}})
        with _store(key) as address:
            credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
            outcome = ground.call(workspace, "ingest", seconds=30, AWS_ENDPOINT_URL=address, **credentials)
        outside = [
            path
            for folder in (workspace, ground.folder)
            for path in folder.rglob("*escaped*")
            if workspace / "data" not in path.parents
        ]
        yield repr(key[:40]), f"written outside: {outside[0]}" if outside else outcome.fault()
        for path in outside:
            path.unlink()


@contextmanager
def _store(key: str) -> Iterator[str]:
    """An S3 server of one bucket; its address."""
    objects = {f"set/images/{number}.png": b"x" for number in range(3)} | {"set/classes.txt": b"a\nb\n", key: b"evil"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._send(_listing(objects).encode() if "list-type" in query else b"evil")

        do_HEAD = do_GET

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0cbc6611f5540bd0809a388dc95a615b"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _listing(objects: dict[str, bytes]) -> str:
    entry = (
        "<Contents><Key>{}</Key><Size>{}</Size><ETag>&quot;0cbc6611f5540bd0809a388dc95a615b&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    )
    entries = "".join(entry.format(escape(key).replace("\n", "&#10;"), len(body)) for key, body in objects.items())
    head = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}<Name>bucket</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"


# --- the server


def server(ground: Ground) -> Iterator[Trial]:
    """Random and half requests at ``serve``: no answer of 500, no traceback in its log, and it still predicts."""
    workspace = ground.copy()
    log = workspace / "serve.log"
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
    key, value = (
        draw.choice(list(tensor)),
        draw.choice([None, -1, 1e400, "x", [], {}, [[[]]], [10**9] * 4, 2**70, True]),
    )
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


# --- secrets


def secrets(ground: Ground) -> Iterator[Trial]:
    """A password or a signature in every address that a user writes: no output and no file holds it afterwards."""
    closed = "127.0.0.1:9"
    url = f"http://user:{SECRET}@{closed}"
    signed = f"https://{closed}/x?X-Amz-Signature={SECRET}"
    s3 = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    ingest = {
        "ingest from Git with a password": ({"source": "dvc", "repo": f"{url}/repo.git", "path": "set"}, {}),
        "ingest from Git with a token in the query": (
            {"source": "dvc", "repo": f"https://{closed}/r?private_token={SECRET}", "path": "set"},
            {},
        ),
        "ingest from S3 with a password in its address": (
            {"source": "s3", "path": "s3://bucket/set"},
            s3 | {"AWS_ENDPOINT_URL": url},
        ),
        "ingest from a signed S3 address": (
            {"source": "s3", "path": f"s3://bucket/set?X-Amz-Signature={SECRET}"},
            s3 | {"AWS_ENDPOINT_URL": f"http://{closed}"},
        ),
    }
    for name, (section, variables) in ingest.items():
        yield from _searched(ground, name, {"ingest": section}, variables, "ingest")
    for step in ("train", "evaluate", "register"):
        yield from _searched(ground, f"{step} with a password of MLflow", PARAMS, {"MLFLOW_TRACKING_URI": url}, step)
    for name, weights in {"a password": f"{url}/w.pth", "a signature": signed}.items():
        params = {
            **PARAMS,
            "train": {
                **PARAMS["train"],
                "model": "fcn_resnet50",
                "options": {"encoder": "resnet18", "encoder_weights": weights},
            },
        }
        yield from _searched(ground, f"encoder's weights with {name}", params, {}, "train")
    for command in (
        ("predict", "--model", "models:/x@champion", "--images", "params.yaml", "--out", "data/masks"),
        ("serve", "--model", "models:/x@champion", "--port", "0"),
    ):
        yield from _searched(
            ground, f"{command[0]} with a password of MLflow", PARAMS, {"MLFLOW_TRACKING_URI": url}, *command
        )
    workspace = ground.copy()
    compiled = [
        "-m",
        "pipelines",
        "compile",
        "--profile",
        "cpu",
        "--output",
        "pipeline.yaml",
        "--image",
        "registry.example/segmodels@sha256:" + "0" * 64,
    ]
    for name, section in {
        "a repository's password": {"source": "dvc", "repo": f"{url}/r.git", "path": "set"},
        "a signed address": {"source": "s3", "path": f"s3://b/set?X-Amz-Signature={SECRET}"},
    }.items():
        write_params(workspace, {**PARAMS, "ingest": section})
        outcome = run(workspace, PYTHON[0], *compiled, "--params", "params.yaml", seconds=60)
        yield f"compile with {name}", _leak(workspace, outcome.text) or outcome.fault((0, 2))


def _searched(
    ground: Ground, name: str, params: dict[str, Any], variables: dict[str, str], *command: str
) -> Iterator[Trial]:
    workspace = ground.copy(*(["data/model", "data/checkpoints"] if command[0] == "train" else []))
    write_params(workspace, params)
    outcome = ground.call(workspace, *command, seconds=60, **variables)
    yield name, _leak(workspace, outcome.text) or outcome.fault((0, 2, 75))


def _leak(workspace: Path, text: str) -> str:
    """Where the secret is, if not only in the user's own params.yaml."""
    if SECRET in text:
        return f"printed: {next(line for line in text.splitlines() if SECRET in line)[:160]}"
    for path in workspace.rglob("*"):
        if (
            path.is_file()
            and not path.is_symlink()
            and path.name != "params.yaml"
            and SECRET.encode() in path.read_bytes()
        ):
            return f"written to {path.relative_to(workspace)}"
    return ""
