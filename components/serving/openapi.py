"""Requests and answers, for the server's OpenAPI description (``/openapi.json``)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from components.serving.prompt_tensors import COLUMNS
from components.serving.protocol import DATATYPES, IMAGES


class Error(BaseModel):
    """Every answer of 400 and above."""

    error: str = Field(description="one sentence: what is wrong, what was expected, what to do")


class Live(BaseModel):
    """The process answers."""

    live: Literal[True]


class Ready(BaseModel):
    """Whether a model is loaded."""

    ready: bool


class Server(BaseModel):
    """``version`` is the revision of the code."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """The model is loaded."""

    name: str
    ready: Literal[True]


class TensorDescription(BaseModel):
    """``shape``: -1 for axes of any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Tensors that a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class OutputTensor(BaseModel):
    """``data``: values in row-major order; BYTES as text."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int] | list[float] | list[str]


class InferenceResponse(BaseModel):
    """``id``: as in the request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ServedClass(BaseModel):
    """A value of masks; ``color`` is RGB, 0 to 255."""

    id: int
    name: str = Field(alias="class")
    color: tuple[int, int, int]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "the request is wrong, or beyond a limit"},
    "5XX": {"model": Error, "description": "try again later (503), or see the server's log (500)"},
}

INFERENCE_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "example": {
                    "inputs": [{"name": IMAGES, "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [0, 0, 0, 9, 9, 9]}]
                },
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": ["string", "null"]},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 3,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {
                                        "description": "promptable models take points and boxes beside the images",
                                        "enum": [IMAGES, *COLUMNS],
                                    },
                                    "shape": {
                                        "description": "[N, height, width, channels]; volumes have a depth before;"
                                        + "".join(
                                            f" {name} [K, {len(columns)}]: {', '.join(columns)}"
                                            for name, columns in COLUMNS.items()
                                        ),
                                        "type": "array",
                                        "minItems": 2,
                                        "maxItems": 5,
                                        "items": {"type": "integer", "minimum": 1},
                                    },
                                    "datatype": {"enum": list(DATATYPES.values())},
                                    "data": {
                                        "description": "values in row-major order, flat or nested as the shape",
                                        "type": "array",
                                        "minItems": 1,
                                    },
                                },
                            },
                        },
                        "outputs": {
                            "description": "names of the tensors to answer with; all without it",
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"type": "string"}},
                            },
                        },
                    },
                },
            }
        },
    }
}

_FILE = {"type": "string", "format": "binary", "minLength": 1}

IMAGE_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE}}
            },
        },
    }
}

IMAGE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the file that keeps the result, or a picture",
        "content": {kind: {} for kind in ("image/png", "application/json", "application/zip")},
        "headers": {
            name: {"schema": {"type": "string"}, "required": True} for name in ("X-Model-Name", "X-Model-Version")
        },
    }
}
