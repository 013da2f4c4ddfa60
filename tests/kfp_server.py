"""A double of the Kubeflow Pipelines API server: the REST API v2beta1 as kfp's client calls it, in memory, on
127.0.0.1.

    with kfp_server() as server:
        connect(server.url)

It keeps experiments, pipelines with versions, runs and recurring runs. ``writes`` are the requests that changed
something. It checks what the real server is documented to check where our code depends on it: unknown ids are 404, a
namespace that is not the user's is 403, a pipeline name that is taken is 409, a cron expression without six fields is
400.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PREFIX = "/apis/v2beta1"


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


@dataclass
class Server:
    """What is on the server; tests look at it and change it.

    Attributes:
        namespace: that users have, None for a server that does not tell them apart.
        token: that requests must carry, None for any.
        login: what those without it get: ``page`` (HTML, 200), ``redirect`` (302) or ``401``.
        fail: (method, path pattern) of requests that get HTTP 500.
    """

    url: str = ""
    namespace: str | None = None
    token: str | None = None
    login: str = "401"
    fail: tuple[str, str] | None = None
    writes: list[str] = field(default_factory=list)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def add(self, where: dict[str, dict[str, Any]], key: str, **facts: Any) -> dict[str, Any]:
        self.clock += timedelta(seconds=1)
        entry = {key: str(uuid.uuid4()), "created_at": self.clock.isoformat().replace("+00:00", "Z"), **facts}
        where[entry[key]] = entry
        return entry

    # --- the API

    def list(self, entries: dict[str, dict[str, Any]], name: str, query: dict[str, str]) -> dict[str, Any]:
        self._check_namespace(query.get("namespace", ""))
        chosen = sorted(
            entries.values(), key=lambda entry: entry["created_at"], reverse="desc" in query.get("sort_by", "")
        )
        for predicate in json.loads(query.get("filter") or '{"predicates": []}')["predicates"]:
            if predicate["operation"] not in ("EQUALS", 1):
                raise Refusal(400, f"operation {predicate['operation']} is not known")
            value = predicate.get("stringValue", predicate.get("string_value"))
            chosen = [entry for entry in chosen if entry.get(predicate["key"]) == value]
        for key in ("experiment_id",):
            if query.get(key):
                chosen = [entry for entry in chosen if entry[key] == query[key]]
        size, start = int(query.get("page_size") or 10), int(query.get("page_token") or 0)
        more = {"next_page_token": str(start + size)} if start + size < len(chosen) else {}
        return {name: chosen[start : start + size], "total_size": len(chosen), **more} if chosen else {}

    def get(self, entries: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
        if key not in entries:
            raise Refusal(404, f"ResourceNotFoundError: {key} not found")
        return entries[key]

    def create_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check_namespace(body.get("namespace", ""))
        return self.add(self.experiments, "experiment_id", **body)

    def create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        self.get(self.experiments, body["experiment_id"])
        if "pipeline_spec" not in body:
            raise Refusal(400, "a run needs a pipeline")
        return self.add(self.runs, "run_id", **body, state="PENDING")

    def create_recurring_run(self, body: dict[str, Any]) -> dict[str, Any]:
        self.get(self.experiments, body["experiment_id"])
        reference = body["pipeline_version_reference"]
        self.get(self.versions, reference["pipeline_version_id"])
        cron = body["trigger"].get("cron_schedule", {}).get("cron")
        if cron and len(cron.split()) != 6:
            raise Refusal(400, f"Invalid cron {cron}")
        mode = body.pop("mode")
        body["service_account"] = body.get("service_account") or "pipeline-runner"
        return self.add(
            self.recurring_runs, "recurring_run_id", **body, status="ENABLED" if mode == "ENABLE" else "DISABLED"
        )

    def upload(self, query: dict[str, str], content: bytes) -> dict[str, Any]:
        self._check_namespace(query.get("namespace", ""))
        if any(pipeline["display_name"] == query["name"] for pipeline in self.pipelines.values()):
            raise Refusal(409, f"AlreadyExistError: the pipeline name {query['name']} already exist")
        pipeline = self.add(
            self.pipelines, "pipeline_id", display_name=query["name"], namespace=query.get("namespace", "")
        )
        self._add_version(pipeline["pipeline_id"], query["name"], content)
        return pipeline

    def upload_version(self, query: dict[str, str], content: bytes) -> dict[str, Any]:
        self.get(self.pipelines, query["pipelineid"])
        return self._add_version(query["pipelineid"], query["name"], content)

    def _add_version(self, pipeline: str, name: str, content: bytes) -> dict[str, Any]:
        if any(
            version["display_name"] == name and version["pipeline_id"] == pipeline for version in self.versions.values()
        ):
            raise Refusal(409, f"AlreadyExistError: the version {name} already exist")
        spec, *platform = yaml.load_all(content, yaml.CSafeLoader)
        return self.add(
            self.versions,
            "pipeline_version_id",
            pipeline_id=pipeline,
            display_name=name,
            pipeline_spec={"spec": spec, "platform": platform},
        )

    def _check_namespace(self, namespace: str) -> None:
        if self.namespace is None and namespace:
            raise Refusal(400, "Invalid input error: In single-user mode, namespace must be empty")
        if self.namespace is not None and namespace != self.namespace:
            raise Refusal(
                403,
                "User 'jane@example.org' is not authorized with reason: (request:"
                f" &ResourceAttributes{{Namespace:{namespace}}})",
            )

    def answer(self, method: str, path: str, query: dict[str, str], content: bytes) -> dict[str, Any]:
        if self.fail and method == self.fail[0] and re.search(self.fail[1], path):
            raise Refusal(500, "Internal server error: the database is away")
        if method in ("POST", "DELETE"):
            self.writes.append(f"{method} {path}")
        for wanted, pattern, call in self._routes(query, content):
            match = re.fullmatch(pattern, path)
            if method == wanted and match:
                return call(*match.groups())
        raise Refusal(404, f"Not Found: {method} {path}")

    def _routes(self, query: dict[str, str], content: bytes) -> list[tuple[str, str, Callable[..., dict[str, Any]]]]:
        body = json.loads(content) if content[:1] == b"{" else {}
        return [
            ("GET", "/healthz", lambda: {"multi_user": self.namespace is not None}),
            ("GET", "/experiments", lambda: self.list(self.experiments, "experiments", query)),
            ("POST", "/experiments", lambda: self.create_experiment(body)),
            ("GET", "/pipelines", lambda: self.list(self.pipelines, "pipelines", query)),
            ("POST", "/pipelines/upload", lambda: self.upload(query, content)),
            ("POST", "/pipelines/upload_version", lambda: self.upload_version(query, content)),
            (
                "GET",
                "/pipelines/([^/]+)/versions",
                lambda key: self.list(
                    self._versions_of(key), "pipeline_versions", query | {"namespace": self.namespace or ""}
                ),
            ),
            ("GET", "/pipelines/[^/]+/versions/([^/]+)", lambda key: self.get(self.versions, key)),
            ("POST", "/runs", lambda: self.create_run(body)),
            ("GET", "/runs/([^/]+)", lambda key: self.get(self.runs, key)),
            (
                "GET",
                "/recurringruns",
                lambda: self.list(self.recurring_runs, "recurringRuns", query | {"namespace": self.namespace or ""}),
            ),
            ("POST", "/recurringruns", lambda: self.create_recurring_run(body)),
            ("DELETE", "/recurringruns/([^/]+)", self._delete_recurring_run),
        ]

    def _versions_of(self, pipeline: str) -> dict[str, dict[str, Any]]:
        return {key: version for key, version in self.versions.items() if version["pipeline_id"] == pipeline}

    def _delete_recurring_run(self, key: str) -> dict[str, Any]:
        self.get(self.recurring_runs, key)
        del self.recurring_runs[key]
        return {}


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (self.headers.get("Content-Type") or "").startswith("multipart/"):
            parts = message_from_bytes(
                b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + content
            ).get_payload()
            content = parts[0].get_payload(decode=True)
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self._log_in()
            return
        try:
            if not parts.path.startswith(PREFIX):
                raise Refusal(404, "Not Found")
            answer, status = (
                self.state.answer(self.command, unquote(parts.path.removeprefix(PREFIX)), query, content),
                200,
            )
        except Refusal as refusal:
            answer, status = (
                {
                    "error": refusal.message,
                    "code": 5,
                    "message": refusal.message,
                    "details": [],
                },
                refusal.status,
            )
        self._send(status, "application/json", json.dumps(answer).encode())

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
