"""The Open Inference Protocol, version 2, as JSON over HTTP (kserve/open-inference-protocol, inference_rest.md).

A model has one input ``images``, UINT8 (N, H, W, 3), RGB, and one output ``masks``, (N, H, W): the class of each pixel,
UINT8, or INT16 above 255 classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.serving.limits import Limits
from segmodels.errors import InputError
from segmodels.labels import LabelMap

IMAGES, MASKS = "images", "masks"
DATATYPE, SHAPE = "UINT8", [-1, -1, -1, 3]
PLATFORM = "pytorch_safetensors"


@dataclass(frozen=True)
class InferenceRequest:
    """``identifier``: what the client calls the request, None if nothing; ``images``: uint8 (N, H, W, 3)."""

    identifier: str | None
    images: np.ndarray


def read_request(body: bytes, limits: Limits) -> InferenceRequest:
    """Raises InputError, one sentence, if the body is not an inference request for one tensor ``images``; TooLarge
    beyond the limits.
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
    for output in _objects(request, "outputs"):
        if output.get("name") != MASKS:
            raise InputError(f"output {output.get('name')!r} is asked for, the model has one output: {MASKS!r}")
    inputs = _objects(request, "inputs")
    names = [tensor.get("name") for tensor in inputs]
    if names != [IMAGES]:
        raise InputError(f"inputs are {names}, expected exactly one tensor: {IMAGES!r}")
    return InferenceRequest(identifier, _tensor(inputs[0], limits))


def _objects(request: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = request.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{key} of the request must be a list of objects, got {str(items)[:100]}")
    return items


def _tensor(tensor: dict[str, Any], limits: Limits) -> np.ndarray:
    missing = [key for key in ("shape", "datatype", "data") if key not in tensor]
    if missing:
        raise InputError(f"input {IMAGES!r} lacks {', '.join(missing)}, expected name, shape, datatype and data")
    if tensor["datatype"] != DATATYPE:
        raise InputError(
            f"input {IMAGES!r} has datatype {tensor['datatype']!r}, expected {DATATYPE!r}: RGB values 0 to 255"
        )
    shape = tensor["shape"]
    if not _is_shape(shape):
        raise InputError(f"input {IMAGES!r} has shape {str(shape)[:100]}, expected [N, height, width, 3], all positive")
    limits.check_pixels(shape[0] * shape[1] * shape[2], f"input {IMAGES!r} has shape {shape}")
    try:
        values = np.asarray(tensor["data"])
    except ValueError:  # lists of several lengths
        raise InputError(
            f"data of input {IMAGES!r} is not regular, expected a list of integers in row-major order, flat or nested"
            " as the shape"
        ) from None
    if values.size != np.prod(shape) or values.ndim not in (1, 4) or (values.ndim == 4 and list(values.shape) != shape):
        raise InputError(
            f"data of input {IMAGES!r} has {values.size} values of shape {list(values.shape)}, its shape {shape} holds"
            f" {np.prod(shape)}"
        )
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise InputError(f"data of input {IMAGES!r} holds other values than integers 0 to 255, which {DATATYPE} is")
    return values.astype(np.uint8).reshape(shape)


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == 4
        and all(type(size) is int and size > 0 for size in shape)
        and shape[3] == 3
    )


def inference_response(identifier: str | None, masks: np.ndarray, name: str, version: str) -> bytes:
    """JSON; ``masks``: (N, H, W)."""
    tensor = {
        "name": MASKS,
        "datatype": masks.dtype.name.upper(),
        "shape": list(masks.shape),
        "data": masks.ravel().tolist(),
    }
    response = {
        "model_name": name,
        "model_version": version,
        **({} if identifier is None else {"id": identifier}),
        "outputs": [tensor],
    }
    return json.dumps(response, separators=(",", ":")).encode()


def model_metadata(name: str, version: str, labels: LabelMap) -> dict[str, Any]:
    """Name, versions, platform and tensors of the model."""
    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [{"name": IMAGES, "datatype": DATATYPE, "shape": SHAPE}],
        "outputs": [{"name": MASKS, "datatype": labels.dtype.name.upper(), "shape": SHAPE[:3]}],
    }
