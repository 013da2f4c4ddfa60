"""A server in front of a real one that passes requests on, refuses them, hangs or answers 500."""

from __future__ import annotations

import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import SystemRandom
from typing import Any

MODES = ("refuses", "hangs", "500")


class Proxy:
    """Passes requests on to ``127.0.0.1:port``, or does not.

    Attributes:
        mode: answers | refuses (the connection is cut) | hangs | 500
        uri: its own address; direct: that of the server behind.
    """

    def __init__(self, port: int) -> None:
        self.mode = "answers"
        self.direct = f"http://127.0.0.1:{port}"
        self._port = port
        self._over = threading.Event()

    def __enter__(self) -> Proxy:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                if outer.mode == "refuses":
                    self.close_connection = True
                    return
                super().handle_one_request()

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self) -> None:
                self.close_connection = True
                if outer.mode == "hangs":
                    outer._over.wait()
                elif outer.mode == "500":
                    self.send_error(500)
                elif outer.mode == "answers":
                    outer._pass_on(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        connection.request(request.command, request.path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
        connection.close()


def free_port() -> int:
    """Below the kernel's own range, so that no outgoing connection takes it before the server starts."""
    while True:
        port = SystemRandom().randint(10_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
