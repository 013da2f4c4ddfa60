"""Errors as answers of HTTP: which status, and one sentence."""

from __future__ import annotations

from collections import Counter

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from components.serving.limits import TooLarge, TooSlow
from segmodels.errors import InputError, TransientError

CLIENT_GONE = 499
"""Status of requests whose client left before the answer; it is only counted."""


def answer_errors(app: FastAPI) -> Counter[int]:
    """Answer errors as ``{"error": sentence}``; returns how many there were of each status, counted as they come."""
    refused: Counter[int] = Counter()

    def answer(status: int, sentence: str, **headers: str) -> JSONResponse:
        refused[status] += 1
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> JSONResponse:
        return answer(413 if isinstance(error, TooLarge) else 400, str(error))

    @app.exception_handler(TooSlow)
    async def slow(_: Request, error: TooSlow) -> JSONResponse:
        return answer(408, str(error), Connection="close")

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, _error: ClientDisconnect) -> JSONResponse:
        return answer(CLIENT_GONE, "the client closed the connection")  # nobody reads it

    @app.exception_handler(TransientError)
    async def busy(_: Request, error: TransientError) -> JSONResponse:
        return answer(503, str(error), **{"Retry-After": "2"})

    @app.exception_handler(RequestValidationError)
    async def parameter(_: Request, error: RequestValidationError) -> JSONResponse:
        first, *_rest = error.errors()
        return answer(
            400,
            f"parameter {first['loc'][-1]} of the request is {first.get('input')!r}:"
            f" {first['msg'][:1].lower()}{first['msg'][1:]}",
        )

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> JSONResponse:
        headers, sentence = dict(error.headers or {}), error.detail
        if error.status_code == 404 and sentence == "Not Found":
            sentence = f"{request.url.path} is not a path of this server"
        if error.status_code == 405:
            allowed = headers["Allow"] = headers["Allow"].replace("GET", "GET, HEAD")
            sentence = f"{request.url.path} does not know the method {request.method}, expected {allowed}"
        return answer(error.status_code, sentence, **headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        return answer(
            500, f"prediction failed ({type(error).__name__}): see the server's log"
        )  # it prints the traceback

    return refused
