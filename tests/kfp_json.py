"""The JSON of a Kubeflow Pipelines API server 2.17: its objects, and its errors in their three shapes.

Objects are built through kfp_server_api's models, which refuse a field that the API does not have, and written as the
server writes them: proto names, enum names, 64-bit integers as strings, nothing that is empty.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import kfp_server_api as api

CODES = {400: 3, 403: 7, 404: 5, 409: 6, 500: 13}
"""HTTP status -> gRPC code."""


class Refusal(Exception):
    """An error of the gRPC services: {code, message, details} (common/util/error.go)."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message

    def body(self) -> bytes:
        code = CODES[self.status]
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": self.message}
        return json.dumps({"code": code, "message": self.message, "details": [detail]}).encode()


class UploadRefusal(Refusal):
    """An error of the handlers that are plain HTTP: uploads, artifacts, logs (server/pipeline_upload_server.go)."""

    def body(self) -> bytes:
        return json.dumps({"error_message": self.message, "error_details": self.message}).encode()


class TextRefusal(Refusal):
    """``http.Error`` of the same handlers: text/plain."""

    def body(self) -> bytes:
        return f"{self.message}\n".encode()


def as_json(kind: str, value: Any) -> Any:
    """``value`` of the API's type ``kind`` as the server writes it; what the type does not have is an error."""
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        return [as_json(inner[1], one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    model: Any = getattr(api, kind, None)
    if hasattr(model, "allowable_values"):
        assert value in model.allowable_values, f"{kind} has no value {value}"
    if model and isinstance(value, dict):
        model(**value)
        types, names = model.openapi_types, model.attribute_map
        return {
            names[key]: as_json(types[key], one) for key, one in value.items() if one not in (None, "", {}, [], False)
        }
    return str(value) if kind == "str" else value
