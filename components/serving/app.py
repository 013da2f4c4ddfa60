"""The server's paths: Open Inference Protocol v2, image files in and out, classes, health and counts.

Errors are answered as ``{"error": sentence}``: 400 for a wrong request, 404 for an unknown model or version, 408 for a
body that arrives too slowly, 413 beyond the limits, 415 for a compressed body, 503 for transient errors. 499 is the
status, in ``/metrics``, of requests whose client left before the answer.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Annotated, Literal

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from components.serving import openapi
from components.serving.batching import Answer, Batcher
from components.serving.errors import answer_errors
from components.serving.intake import InFlight, Intake
from components.serving.limits import Limits
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
from segmodels.prompts import Prompt, parse_prompts

IMAGE_NAME = "in the request"
MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".zip": "application/zip"}


def create_app(live: LiveModel, batcher: Batcher, limits: Limits) -> FastAPI:
    """The application that answers with ``live`` by way of ``batcher``."""
    app = FastAPI(
        title="segmodels",
        version=code_revision(),
        responses=openapi.ERRORS,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    in_flight = InFlight()
    app.add_middleware(Intake, limits=limits, in_flight=in_flight)
    refused = answer_errors(app)
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

    async def predicted(
        request: Request, images: list[np.ndarray], prompts: list[list[Prompt]] | None = None
    ) -> Answer:
        """The answer of the batcher; what is left to predict is cancelled when the client leaves."""
        answer = asyncio.wrap_future(batcher.submit(images, prompts))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

    @app.get("/v2/health/live", response_model=openapi.Live)
    async def live_() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses={code: {"model": openapi.Ready} for code in (200, 503)})
    async def ready() -> JSONResponse:
        is_ready = live.current is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/v2", response_model=openapi.Server)
    async def server() -> dict[str, object]:
        return {"name": app.title, "version": app.version, "extensions": []}

    def add_model(path: str, find: Callable[..., Awaitable[ServedModel]]) -> None:
        found = Depends(find)

        @app.get(path, response_model=openapi.ModelMetadata)
        async def metadata(model: ServedModel = found) -> dict[str, object]:
            return model_metadata(model.name, model.version, model.predictor)

        @app.get(f"{path}/ready", response_model=openapi.ModelReady)
        async def model_ready(model: ServedModel = found) -> dict[str, object]:
            return {"name": model.name, "ready": True}

        @app.post(
            f"{path}/infer",
            responses={200: {"model": openapi.InferenceResponse}},
            openapi_extra=openapi.INFERENCE_REQUEST,
        )
        async def infer(request: Request, model: ServedModel = found) -> Response:
            asked = await run_in_threadpool(parsed, await _body(request), model.predictor)
            answer = await predicted(request, list(asked.images), asked.prompts)
            if answer.model is not model:  # it took the other's place meanwhile: is it what was asked for?
                await find(**request.path_params)
            return Response(await run_in_threadpool(_response, asked, answer), media_type="application/json")

    async def any_version(name: str) -> ServedModel:
        return loaded(name)

    async def one_version(name: str, number: str) -> ServedModel:
        return loaded(name, number)

    add_model("/v2/models/{name}", any_version)
    add_model("/v2/models/{name}/versions/{number}", one_version)

    @app.post(
        "/predict", response_class=Response, responses=openapi.IMAGE_RESPONSE, openapi_extra=openapi.IMAGE_REQUEST
    )
    async def predict(
        request: Request,
        output: Literal["mask", "overlay"] = "mask",
        points: Annotated[list[str], Query()] = [],  # noqa: B006  # FastAPI's form of a default
        boxes: Annotated[list[str], Query()] = [],  # noqa: B006
    ) -> Response:
        """Predict an image file, sent as the body or as the one file of a form.

        The answer is the file of the result (for semantic segmentation a PNG of class ids with the classes' colours as
        palette), or with ``output=overlay`` a PNG of the result drawn over the image.

        Promptable models take ``points=120,80`` (several clicks on one object: ``points=120,80;40,60,0``) and
        ``boxes=10,20,90,120``, once for each object.
        """
        model = loaded(live.name)
        prompts = parse_prompts(points, boxes) or None
        data = (
            await _form_file(request)
            if parse_options_header(request.headers.get("content-type"))[0] == b"multipart/form-data"
            else await _body(request)
        )
        image = await run_in_threadpool(_decode, data, limits, model)
        model.predictor.check_prompts(prompts, image.shape[:-1])
        answer = await predicted(request, [image], None if prompts is None else [prompts])
        suffix, content = await run_in_threadpool(_file, image, answer, output)
        return Response(
            content,
            media_type=MEDIA_TYPES[suffix],
            headers={"X-Model-Name": answer.model.name, "X-Model-Version": answer.model.version},
        )

    @app.get("/classes", response_model=list[openapi.ServedClass])
    async def classes() -> list[dict[str, object]]:
        labels = loaded(live.name).labels
        return [
            {"id": index, "class": name, "color": color}
            for index, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True))
        ]

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Prometheus' text format."""
        counts = batcher.counts
        values = {
            "requests": counts.requests,
            "images": counts.images,
            "batches": counts.batches,
            "prediction_seconds": counts.seconds,
        }
        if log := batcher.log:
            values |= {"log_records": log.logged, "log_records_dropped": log.dropped}
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
    """Suffix and content of the answer's file; several files become one ZIP."""
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
