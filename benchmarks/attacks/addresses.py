"""An object store with hostile keys, and secrets in addresses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from benchmarks.attacks.ground import PARAMS, PYTHON, Ground, Outcome, Trials, run, write_params

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
ADDRESSES = {
    "a password in the endpoint": ("s3://bucket/set", f"user:{SECRET}@"),
    "a password in the path": (f"s3://user:{SECRET}@bucket/set", ""),
    "a key in the path": (f"s3://{SECRET}@bucket/set", ""),
    "a signed path": (f"s3://bucket/set?X-Amz-Credential=x&X-Amz-Signature={SECRET}", ""),
    "a token in the path": (f"s3://bucket/set?token={SECRET}", ""),
    "a signed path of the web": (f"https://bucket.s3.amazonaws.com/set?X-Amz-Signature={SECRET}", ""),
}
"""Name -> what a user writes as the dataset's path, and before the host of ``AWS_ENDPOINT_URL``."""


def s3(ground: Ground) -> Trials:
    """A store that lists a dataset and one hostile key: nothing is written outside the cache. Then addresses of the
    store that hold a secret: nothing printed or written holds it.
    """
    for key in KEYS:
        workspace, outcome = _ingested(ground, "s3://bucket/set", key)
        outside = [
            path
            for folder in (workspace, ground.folder)
            for path in folder.rglob("*escaped*")
            if workspace / "data" not in path.parents
        ]
        yield repr(key[:40]), f"written outside: {outside[0]}" if outside else outcome.fault()
        for path in outside:
            path.unlink()
    for name, (url, user) in ADDRESSES.items():
        workspace, outcome = _ingested(ground, url, "set/masks/0.png", user)
        yield name, _leak(workspace, outcome.text) or outcome.fault()


def _ingested(ground: Ground, url: str, key: str, user: str = "") -> tuple[Path, Outcome]:
    """ingest from a store with that key, at an address with that user; the workspace afterwards."""
    workspace = ground.copy("data")
    write_params(workspace, {"ingest": {"source": "s3", "path": url}})
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    with _store(key) as address:
        endpoint = address.replace("://", f"://{user}")
        return workspace, ground.call(workspace, "ingest", seconds=30, AWS_ENDPOINT_URL=endpoint, **credentials)


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


def secrets(ground: Ground) -> Trials:
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


def _searched(ground: Ground, name: str, params: dict[str, Any], variables: dict[str, str], *command: str) -> Trials:
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
