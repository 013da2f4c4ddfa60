"""A double of the Kubeflow Pipelines API server 2.17: the REST API as kfp's client calls it, on 127.0.0.1.

    with kfp_server() as server:
        connect(server.url)

What it keeps and how it answers is in kfp_store.py, Workflows of runs in argo_workflow.py. ``writes`` are the requests
that changed something.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kfp_json import Refusal, TextRefusal
from kfp_store import Store

Call = Callable[..., Any]


@dataclass
class Server(Store):
    """
    Attributes:
        url: its address.
        token: that requests must carry, None for any.
        login: what those without it get: ``page`` (HTML, 200), ``redirect`` (302) or ``401``.
        received: path, headers and content of every request.
        fail: (method, path pattern) of requests that fail with ``failure``.
    """

    url: str = ""
    token: str | None = None
    login: str = "401"
    fail: tuple[str, str] | None = None
    failure: Refusal = field(default_factory=lambda: Refusal(500, "InternalServerError: the database is away"))
    writes: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, query: Mapping[str, str], content: bytes) -> Any:
        """JSON, or bytes as they are."""
        if self.fail and method == self.fail[0] and re.search(self.fail[1], path):
            raise self.failure
        if method in ("POST", "DELETE"):
            self.writes.append(f"{method} {path}")
        for wanted, pattern, call in self._routes(query, content):
            match = re.fullmatch(pattern, path)
            if method == wanted and match:
                return call(*match.groups())
        raise Refusal(404, f"Not Found: {method} {path}")

    def _routes(self, query: Mapping[str, str], content: bytes) -> list[tuple[str, str, Call]]:
        body = json.loads(content) if content[:1] == b"{" else {}
        health = {"commit_sha": "unknown", "tag_name": self.version, "multi_user": self.namespace is not None}
        key = "([^/:]+)"
        v2: list[tuple[str, str, Call]] = [
            ("GET", "/healthz", lambda: health | {"pipeline_store": "database"}),
            ("GET", "/experiments", lambda: self._list_of_a_namespace(self.experiments, "experiments", query)),
            ("POST", "/experiments", lambda: self.create_experiment(body)),
            ("GET", "/pipelines", lambda: self._list_of_a_namespace(self.pipelines, "pipelines", query)),
            ("POST", "/pipelines/upload", lambda: self.upload(query, content)),
            ("POST", "/pipelines/upload_version", lambda: self.upload_version(query, content)),
            (
                "GET",
                f"/pipelines/{key}/versions",
                lambda pipeline: self.list(self.versions_of(pipeline), "pipeline_versions", query),
            ),
            ("GET", f"/pipelines/[^/]+/versions/{key}", lambda version: self.get(self.versions, version)),
            ("POST", "/runs", lambda: self.create_run(body)),
            ("GET", "/runs", lambda: self.list(self.runs, "runs", query)),
            ("GET", f"/runs/{key}", self.get_run),
            ("POST", f"/runs/{key}:terminate", self.terminate),
            ("POST", f"/runs/{key}:archive", self.archive),
            ("POST", f"/runs/{key}:unarchive", lambda run: self.archive(run, "AVAILABLE")),
            ("GET", f"/runs/[^/]+/nodes/{key}/artifacts/{key}:read", self.artifact),
            ("GET", "/recurringruns", lambda: self.list(self.recurring_runs, "recurring_runs", query)),
            ("POST", "/recurringruns", lambda: self.create_recurring_run(body)),
            ("POST", f"/recurringruns/{key}:enable", lambda one: self.switch(one, "ENABLE")),
            ("POST", f"/recurringruns/{key}:disable", lambda one: self.switch(one, "DISABLE")),
            (
                "DELETE",
                f"/recurringruns/{key}",
                lambda one: self.delete_recurring_run(one, query.get("propagation_policy", "")),
            ),
        ]
        return [
            *((method, f"/apis/v2beta1{pattern}", call) for method, pattern, call in v2),
            ("GET", f"/apis/v1beta1/runs/{key}", self.run_v1),
            ("GET", f"/apis/v1alpha1/runs/[^/]+/nodes/{key}/log", self.log),
        ]

    def _list_of_a_namespace(self, entries: dict[str, Any], name: str, query: Mapping[str, str]) -> dict[str, Any]:
        self.check_namespace(query.get("namespace", ""))
        return self.list(entries, name, query)


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.received.append(f"{self.path}\n{self.headers}{content!r}")
        if (self.headers.get("Content-Type") or "").startswith("multipart/"):
            whole = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + content
            parts: Any = message_from_bytes(whole).get_payload()
            content = parts[0].get_payload(decode=True)
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self._log_in()
            return
        try:
            answer = self.state.answer(self.command, unquote(url.path), query, content)
        except Refusal as refusal:
            kind = "text/plain; charset=utf-8" if isinstance(refusal, TextRefusal) else "application/json"
            self._send(refusal.status, kind, refusal.body())
            return
        if isinstance(answer, bytes):
            self._send(200, "text/plain; charset=utf-8", answer)
        else:
            self._send(200, "application/json", json.dumps(answer).encode())

    def _log_in(self) -> None:
        if self.state.login == "redirect":
            self._send(302, "text/html", b"", Location="/dex/auth?client_id=kubeflow")
        elif self.state.login == "page":
            self._send(200, "text/html; charset=utf-8", b"<!doctype html><title>Log in to Your Account</title>")
        else:
            self._send(401, "text/plain", b"Unauthorized")

    def _send(self, status: int, kind: str, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def kfp_server(**facts: Any) -> Iterator[Server]:
    state = Server(**facts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
