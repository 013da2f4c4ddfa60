"""The server's paths: Open Inference Protocol v2, image files in and out, classes, health and counts.

Errors are answered as ``{"error": sentence}``: 400 for a wrong request, 404 for an unknown model or version, 408 for a
body that arrives too slowly, 413 beyond the limits, 415 for a compressed body, 503 for transient errors. 499 is the
status, in ``/metrics``, of requests whose client left before the answer.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections import Counter
from threading import Lock
from typing import Literal

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from components.serving.batching import Answer, Batcher
from components.serving.intake import InFlight, Intake
from components.serving.limits import Limits, TooLarge, TooSlow
from components.serving.live_model import LiveModel, ServedModel
from components.serving.protocol import (
    IMAGES,
    InferenceRequest,
    inference_response,
    model_metadata,
    read_request,
)
from components.tracking.lineage import code_revision
from segmodels.data.decoding import converted, decode_pixels
from segmodels.data.preview import as_rgb
from segmodels.errors import InputError, TransientError
from segmodels.inference.predictor import Predictor

IMAGE_NAME = "in the request"
MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".zip": "application/zip"}
CLIENT_GONE = 499


def create_app(live: LiveModel, batcher: Batcher, limits: Limits) -> FastAPI:
    """The application that answers with ``live`` by way of ``batcher``."""
    app = FastAPI(
        title="segmodels", version=code_revision(), docs_url=None, redoc_url=None
    )  # their pages load scripts from elsewhere
    in_flight = InFlight()
    app.add_middleware(Intake, limits=limits, in_flight=in_flight)
    refused = _answer_errors(app)
    one_by_one = Lock()  # lists of Python numbers are many times larger than the JSON text that they are parsed from

    def loaded(name: str, number: str | None = None) -> ServedModel:
        if name != live.name:
            raise HTTPException(404, f"model {name!r} is not served here: ask for {live.name!r}")
        if live.current is None:
            raise TransientError(f"model {name!r} is still being loaded: try again in a few seconds")
        if number not in (None, live.current.version):
            raise HTTPException(
                404,
                f"version {number!r} of model {name!r} is not served here: ask for {live.current.version!r}, or for"
                " none",
            )
        return live.current

    def parsed(body: bytes, predictor: Predictor) -> InferenceRequest:
        with one_by_one:
            return read_request(body, limits, predictor)

    async def predicted(request: Request, images: list[np.ndarray]) -> Answer:
        """The answer of the batcher; what is left to predict is cancelled when the client leaves."""
        answer = asyncio.wrap_future(batcher.submit(images))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

    @app.get("/v2/health/live")
    async def live_() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        is_ready = live.current is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/v2")
    async def server() -> dict[str, object]:
        return {"name": app.title, "version": app.version, "extensions": []}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{number}")
    async def metadata(name: str, number: str | None = None) -> dict[str, object]:
        model = loaded(name, number)
        return model_metadata(model.name, model.version, model.predictor)

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{number}/ready")
    async def model_ready(name: str, number: str | None = None) -> dict[str, object]:
        return {"name": loaded(name, number).name, "ready": True}

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{number}/infer")
    async def infer(name: str, request: Request, number: str | None = None) -> Response:
        predictor = loaded(name, number).predictor
        asked = await run_in_threadpool(parsed, await _body(request), predictor)
        answer = await predicted(request, list(asked.images))
        if number not in (None, answer.model.version):
            loaded(name, number)  # another version took its place meanwhile
        return Response(await run_in_threadpool(_response, asked, answer), media_type="application/json")

    @app.post("/predict")
    async def predict(request: Request, output: Literal["mask", "overlay"] = "mask") -> Response:
        """An image file, as the body or as the one file of a form -> the file that keeps the result (of semantic
        segmentation a PNG: class ids with the classes' colours as palette), or a PNG with the result drawn over the
        image.
        """
        model = loaded(live.name)
        data = (
            await _form_file(request)
            if parse_options_header(request.headers.get("content-type"))[0] == b"multipart/form-data"
            else await _body(request)
        )
        image = await run_in_threadpool(_decode, data, limits, model)
        answer = await predicted(request, [image])
        suffix, content = await run_in_threadpool(_file, image, answer, output)
        return Response(
            content,
            media_type=MEDIA_TYPES[suffix],
            headers={"X-Model-Name": answer.model.name, "X-Model-Version": answer.model.version},
        )

    @app.get("/classes")
    async def classes() -> list[dict[str, object]]:
        labels = loaded(live.name).labels
        return [
            {"id": index, "class": name, "color": color}
            for index, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True))
        ]

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Prometheus' text format."""
        counts = batcher.counts
        values = {
            "requests": counts.requests,
            "images": counts.images,
            "batches": counts.batches,
            "prediction_seconds": counts.seconds,
        }
        lines = [
            f"# TYPE segmodels_{name}_total counter\nsegmodels_{name}_total {value}" for name, value in values.items()
        ]
        lines.append("# TYPE segmodels_requests_refused_total counter")
        lines += [
            f'segmodels_requests_refused_total{{status="{status}"}} {refused[status]}' for status in sorted(refused)
        ]
        gauges = {"requests_waiting": batcher.waiting(), "request_bytes_in_flight": in_flight.size}
        lines += [f"# TYPE segmodels_{name} gauge\nsegmodels_{name} {value}" for name, value in gauges.items()]
        if live.current:
            lines.append(
                "# TYPE segmodels_model_info"
                f' gauge\nsegmodels_model_info{{name="{live.name}",version="{live.current.version}"}} 1'
            )
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    return app


async def _gone(request: Request) -> None:
    """Returns when the client of a request, whose body was read, has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    _check_encoding(request)
    return await request.body()


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise HTTPException(415, f"body of the request has Content-Encoding {encoding!r}: send it uncompressed")


async def _form_file(request: Request) -> bytes:
    """The one file of a multipart form."""
    _check_encoding(request)
    try:
        form = await MultiPartParser(request.headers, request.stream()).parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary
        raise InputError(
            f"form of the request is broken ({getattr(error, 'message', 'it has no boundary')}): send the image as its"
            " one file"
        ) from None
    try:
        files = [part for _, part in form.multi_items() if not isinstance(part, str)]
        if len(files) != 1:
            raise InputError(
                f"form of the request has {len(files)} files, expected one image: send one request per image"
            )
        return await files[0].read()
    finally:
        await form.close()


def _decode(data: bytes, limits: Limits, model: ServedModel) -> np.ndarray:
    predictor = model.predictor
    if predictor.spatial_dims != 2:
        raise InputError(
            f"model {model.name!r} takes volumes, and image files are refused: send the tensor {IMAGES!r} to"
            f" /v2/models/{model.name}/infer"
        )
    if not data:
        raise InputError("request is empty, expected an image file as its body or as the one file of a form")
    limits.check_header(data, IMAGE_NAME)
    pixels = decode_pixels(data, IMAGE_NAME)
    return converted(pixels, predictor.channels, predictor.dtype, IMAGE_NAME)


def _response(asked: InferenceRequest, answer: Answer) -> bytes:
    model = answer.model
    tensors = model.predictor.task.tensors(answer.results)
    return inference_response(asked, tensors, model.predictor, model.name, model.version)


def _file(image: np.ndarray, answer: Answer, output: str) -> tuple[str, bytes]:
    """Suffix and content of the one file of an answer; several are packed together."""
    (result,), labels = answer.results, answer.model.labels
    if output == "overlay":
        picture, data = Image.fromarray(result.draw(as_rgb(image), labels, 0.5)), io.BytesIO()
        picture.save(data, "PNG", compress_level=1)  # the network is faster than a better compression
        return ".png", data.getvalue()
    files = result.files(labels)
    if len(files) == 1:
        return next(iter(files.items()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for suffix, content in files.items():
            archive.writestr(f"result{suffix}", content)
    return ".zip", packed.getvalue()


def _answer_errors(app: FastAPI) -> Counter[int]:
    """Answer errors as the protocol wants them; returns how many there were of each status."""
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
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:  # noqa: ARG001
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
