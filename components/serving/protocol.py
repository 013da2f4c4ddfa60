"""The Open Inference Protocol, version 2, as JSON over HTTP (kserve/open-inference-protocol, inference_rest.md).

A model has one input ``images``, (N, H, W, channels) of the type that it was trained on: UINT8 and 3 channels for RGB;
volumes (N, D, H, W, channels). Its outputs are the tensors of its task: of semantic segmentation ``masks``,
(N, H, W) or (N, D, H, W), the class of each pixel, UINT8, or INT16 above 255 classes. BYTES are written as text.
Promptable models take prompts beside the images, see ``prompt_tensors``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.serving.limits import Limits
from components.serving.prompt_tensors import prompt_specs, read_prompts
from segmodels.checks import shown
from segmodels.errors import InputError
from segmodels.inference.predictor import AXES, Predictor
from segmodels.prompts import Prompt
from segmodels.tasks.base import TensorSpec

IMAGES = "images"
LONGEST_SIDE = 2**31  # pixels; images of more have no size in bytes
DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "int16": "INT16", "float32": "FP32"}
PLATFORM = "pytorch_safetensors"


@dataclass(frozen=True)
class InferenceRequest:
    """``identifier``: the client's name for the request, or None; ``images``: (N, *spatial, channels);
    ``outputs``: names of the requested tensors, empty for all; ``prompts``: for each image, None without any.
    """

    identifier: str | None
    images: np.ndarray
    outputs: frozenset[str]
    prompts: list[list[Prompt]] | None = None


def input_spec(predictor: Predictor) -> TensorSpec:
    """The tensor that a model takes."""
    shape = (*[-1] * (1 + predictor.spatial_dims), predictor.channels)
    return TensorSpec(IMAGES, DATATYPES[predictor.dtype.name], shape)


def read_request(body: bytes, limits: Limits, predictor: Predictor) -> InferenceRequest:
    """Parse an inference request.

    Raises:
        InputError: the body is not a request for one tensor ``images`` of the model's type and channels, or its prompts
            are wrong.
        TooLarge: it is beyond the limits.
    """
    try:
        request = json.loads(body)
    except ValueError as error:  # UnicodeDecodeError too
        raise InputError(
            f"request is not JSON ({error}): send an inference request of the Open Inference Protocol"
        ) from None
    except RecursionError:
        raise InputError(
            "request is nested too deeply: send an inference request of the Open Inference Protocol"
        ) from None
    if not isinstance(request, dict):
        raise InputError(f"request is a JSON {type(request).__name__}, expected an object with inputs")
    identifier = request.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InputError(f"id of the request is {identifier!r}, expected a string")
    known = [spec.name for spec in predictor.task.tensor_specs(predictor.spatial_dims)]
    wanted: list[Any] = [output.get("name") for output in _objects(request, "outputs")]
    for name in wanted:
        if name not in known:
            has = f"one output: {known[0]!r}" if len(known) == 1 else f"the outputs {known}"
            raise InputError(f"output {name!r} is requested, the model has {has}")
    inputs = _objects(request, "inputs")
    names: list[Any] = [tensor.get("name") for tensor in inputs]
    further = [spec.name for spec in prompt_specs(predictor)]
    if names.count(IMAGES) != 1 or any(name not in (IMAGES, *further) or names.count(name) > 1 for name in names):
        beside = f", and beside it at most {' and '.join(map(repr, further))}" if further else ""
        raise InputError(f"inputs are {names}, expected exactly one tensor: {IMAGES!r}{beside}")
    tensors = dict(zip(names, inputs, strict=True))
    images = _tensor(tensors.pop(IMAGES), limits, predictor)
    prompts = read_prompts(tensors, images)
    for own, image in zip(prompts or (), images, strict=False):
        predictor.check_prompts(own, image.shape[:-1])
    return InferenceRequest(identifier, images, frozenset(wanted), prompts)


def _objects(request: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = request.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{key} of the request must be a list of objects, got {str(items)[:100]}")
    return items


def _tensor(tensor: dict[str, Any], limits: Limits, predictor: Predictor) -> np.ndarray:
    missing = [key for key in ("shape", "datatype", "data") if key not in tensor]
    if missing:
        raise InputError(f"input {IMAGES!r} lacks {', '.join(missing)}, expected name, shape, datatype and data")
    datatype = input_spec(predictor).datatype
    if tensor["datatype"] != datatype:
        rgb = datatype == "UINT8" and predictor.channels == 3
        meaning = "RGB values 0 to 255" if rgb else "the type of the images that the model was trained on"
        raise InputError(f"input {IMAGES!r} has datatype {tensor['datatype']!r}, expected {datatype!r}: {meaning}")
    shape = tensor["shape"]
    if not _is_shape(shape, predictor):
        axes = ", ".join((*AXES[predictor.spatial_dims], str(predictor.channels)))
        raise InputError(
            f"input {IMAGES!r} has shape {shown(shape)}, expected [N, {axes}], all positive and below 2^31"
        )
    limits.check_images(shape[0], shape[1:-1], f"input {IMAGES!r} has shape {shape}")
    try:
        values = np.asarray(tensor["data"])
    except ValueError:  # lists of several lengths
        raise InputError(
            f"data of input {IMAGES!r} is not regular, expected a list of numbers in row-major order, flat or nested"
            " as the shape"
        ) from None
    whole = values.ndim == len(shape)
    if values.size != math.prod(shape) or not (whole or values.ndim == 1) or (whole and list(values.shape) != shape):
        raise InputError(
            f"data of input {IMAGES!r} has {values.size} values of shape {list(values.shape)}, its shape {shape} holds"
            f" {math.prod(shape)}"
        )
    return _typed(values, predictor.dtype, datatype).reshape(shape)


def _typed(values: NDArray, dtype: np.dtype, datatype: str) -> NDArray:
    if dtype.kind == "f":
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise InputError(f"data of input {IMAGES!r} holds other values than finite numbers, as {datatype} needs")
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if values.dtype.kind not in "iu" or values.min() < low or values.max() > high:
            raise InputError(
                f"data of input {IMAGES!r} holds other values than integers {low} to {high}, as {datatype} needs"
            )
    return values.astype(dtype)


def _is_shape(shape: Any, predictor: Predictor) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == predictor.spatial_dims + 2
        and all(type(size) is int and 0 < size < LONGEST_SIDE for size in shape)
        and shape[-1] == predictor.channels
    )


def inference_response(
    request: InferenceRequest, tensors: Mapping[str, NDArray], predictor: Predictor, name: str, version: str
) -> bytes:
    """JSON with the requested tensors; ``tensors``: all tensors of the task, by name."""
    response = {
        "model_name": name,
        "model_version": version,
        **({} if request.identifier is None else {"id": request.identifier}),
        "outputs": [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(tensors[spec.name].shape),
                "data": _data(tensors[spec.name], spec.datatype),
            }
            for spec in predictor.task.tensor_specs(predictor.spatial_dims)
            if not request.outputs or spec.name in request.outputs
        ],
    }
    return json.dumps(response, separators=(",", ":")).encode()


def _data(tensor: NDArray, datatype: str) -> list[Any]:
    values: list[Any] = tensor.ravel().tolist()
    return [value.decode() for value in values] if datatype == "BYTES" else values


def model_metadata(name: str, version: str, predictor: Predictor) -> dict[str, Any]:
    """Name, versions, platform and tensors of the model."""

    def described(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [described(spec) for spec in (input_spec(predictor), *prompt_specs(predictor))],
        "outputs": [described(spec) for spec in predictor.task.tensor_specs(predictor.spatial_dims)],
    }
