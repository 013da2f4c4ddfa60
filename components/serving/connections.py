"""Time limits of connections that uvicorn does not have: for the headers of a request, and for reading an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """A connection that is closed when its client is too slow, so that slow clients cannot use up the server's
    connections and memory. (``intake`` has the limit for bodies, which are answered with 408.)

    Attributes:
        HEADER_SECONDS: from the connection, or the first byte of a later request, to the end of the request's headers.
        READ_SECONDS: for reading an answer, from when the network's buffers are full.
    """

    HEADER_SECONDS = 20.0
    READ_SECONDS = 60.0

    _headers: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._headers = self._after(self.HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._headers is None and not self._answering():
            self._headers = self._after(self.HEADER_SECONDS, self.transport.close)
        super().data_received(data)
        if self._headers and self._answering():
            self._headers.cancel()
            self._headers = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self._after(self.READ_SECONDS, self.transport.abort)  # close would wait for the reader

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for timer in (self._headers, self._reading):
            if timer:
                timer.cancel()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _after(self, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, act)
