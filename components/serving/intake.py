"""Bodies of requests as they arrive: their length, their sum in memory and their time are limited; and HEAD."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.limits import BODIES_AT_ONCE, Limits, TooLarge, TooSlow
from segmodels.errors import TransientError


@dataclass
class InFlight:
    """Bytes in the bodies of all requests that are being read or answered."""

    size: int = 0


class Intake:
    """ASGI middleware that limits what bodies cost.

    An announced length is reserved before the first byte is read, chunks without one are counted as they arrive. The
    bytes of a body count until its request is answered.

    HEAD is answered as GET; the HTTP server leaves the body out (RFC 9110, 9.3.2).
    """

    def __init__(self, app: ASGIApp, limits: Limits, in_flight: InFlight) -> None:
        self._app, self._limits, self._in_flight = app, limits, in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the application behind; its ``receive`` raises as ``_Body.receive``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        body = _Body(self._in_flight, self._limits, Headers(scope=scope).get("content-length"), receive)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._in_flight.size -= body.reserved


class _Body:
    def __init__(self, in_flight: InFlight, limits: Limits, announced: str | None, receive: Receive) -> None:
        self.reserved = 0
        self._in_flight, self._limits, self._receive = in_flight, limits, receive
        self._announced = int(announced) if announced and announced.isdecimal() else 0
        self._received = 0
        self._whole = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        """The next message.

        Raises:
            TooLarge: the body is longer than allowed.
            TransientError: all bodies together are.
            TooSlow: the body did not arrive in time.
        """
        if self._whole:  # what follows is the end of the connection
            return await self._receive()
        self._reserve(self._announced)
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._limits.seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise TooSlow(
                f"body of the request did not arrive within {self._limits.seconds:g} seconds: send it faster, or a"
                " smaller one"
            ) from None
        self._whole = not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        self._reserve(self._received)
        return message

    def _reserve(self, length: int) -> None:
        if length > self._limits.length:
            raise TooLarge(
                f"request has {length / 1e6:.1f} megabytes or more, expected at most {self._limits.length / 1e6:g}:"
                " send fewer or smaller images"
            )
        more = max(0, length - self.reserved)
        most = BODIES_AT_ONCE * self._limits.length
        if more and self._in_flight.size + more > most:
            raise TransientError(
                f"requests in flight hold {self._in_flight.size / 1e6:.1f} of at most {most / 1e6:g} megabytes"
                " already: try again in a few seconds, or add servers"
            )
        self.reserved += more
        self._in_flight.size += more
