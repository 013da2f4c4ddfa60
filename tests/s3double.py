"""Just enough of S3 in this process, with faults where a test wants them."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Double:
    """Just enough of S3: listing in pages of ``page`` keys and GET with If-Match; ``faults`` spoils the answers to
    chosen keys.
    """

    objects: dict[str, bytes]
    page: int = 2
    faults: dict[str, Callable[[BaseHTTPRequestHandler, bytes], bool]] = field(default_factory=dict)
    gets: Counter[str] = field(default_factory=Counter)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket == "locked":
            return _error(request, 403, "AccessDenied")
        if bucket == "expired":
            return _error(request, 400, "ExpiredToken")
        if bucket == "web":
            return send(request, 404, b"<!doctype html><p>Not found")
        if bucket == "busy":
            return _error(request, 503, "SlowDown")
        if bucket != "data":
            return _error(request, 404, "NoSuchBucket")
        if not key:
            return self._list(request, parse_qs(url.query))
        self.gets[key] += 1
        data = self.objects[key]
        if key in self.faults and self.faults[key](request, data):
            return None
        if request.headers["If-Match"] != _etag(data):
            return _error(request, 412, "PreconditionFailed")
        return send(request, 200, data, ETag=_etag(data))

    def _list(self, request: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        prefix, start = query.get("prefix", [""])[0], int(query.get("continuation-token", ["0"])[0])
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size><ETag>{escape(_etag(self.objects[key]))}</ETag></Contents>"
            for key in keys[start : start + self.page]
        )
        more = start + self.page < len(keys)
        token = f"<NextContinuationToken>{start + self.page}</NextContinuationToken>" if more else ""
        send(
            request,
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>".encode(),
        )


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def _error(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    send(request, status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def cut_off(request: BaseHTTPRequestHandler, data: bytes) -> bool:
    """Promise the whole object, send half of it and hang up."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.send_header("ETag", _etag(data))
    request.end_headers()
    request.wfile.write(data[: len(data) // 2])
    request.close_connection = True
    return True


def flip_a_bit(request: BaseHTTPRequestHandler, data: bytes) -> bool:
    send(request, 200, bytes([data[0] ^ 1]) + data[1:], ETag=_etag(data))
    return True


def times(
    count: int, fault: Callable[[BaseHTTPRequestHandler, bytes], bool]
) -> Callable[[BaseHTTPRequestHandler, bytes], bool]:
    left = [count]

    def limited(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fault(request, data)

    return limited


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server in threads of this process; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
