"""Errors of the Kubeflow Pipelines server, in one sentence each."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segmodels.errors import InputError, TransientError

if TYPE_CHECKING:
    from pipelines.cluster import Server


class UnknownIdError(InputError):
    """The server does not know the id that it was asked for."""


class ConflictError(InputError):
    """The name that was to be created exists."""


USER_ERRORS = re.compile(
    r"Invalid ?[iI]nput ?[eE]rror|ResourceNotFoundError|Already exist|BadRequestError|FailedPreconditionError"
    r"|(pipeline|platform) spec is invalid"
)
"""Words of backend/src/common/util/error.go and apiserver/template/template.go for errors that the request causes. KFP
2.17 wraps several of them in an InternalServerError, HTTP 500: an invalid pipeline at CreateRun, for example.
"""


@contextmanager
def translate_errors(server: Server) -> Iterator[None]:
    """Translate the server's errors, and leave out what the kfp client prints.

    Raises:
        UnknownIdError: the server does not know an id (HTTP 404).
        ConflictError: the name exists (HTTP 409).
        InputError: the server rejects the request.
        TransientError: the server fails or does not answer.
    """
    import kfp_server_api
    import urllib3

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise _translated(server, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise TransientError(f"Kubeflow at {server.host} stopped answering ({shortened(error)})") from None


def _translated(server: Server, error: Any) -> Exception:
    message = shortened(_message(error.body) or error.reason or "no reason given")
    if error.status in (401, 403) or "not authorized" in message:
        where = f" in namespace {server.namespace!r}" if server.namespace else ""
        return InputError(
            f"Kubeflow at {server.host} does not allow that{where} ({message}): check --namespace and your credentials"
        )
    if error.status == 404:
        return UnknownIdError(f"Kubeflow at {server.host} does not know that ({message}): check the name or id")
    if error.status == 429 or ((error.status or 0) >= 500 and not USER_ERRORS.search(message)):
        return TransientError(f"Kubeflow at {server.host} fails (HTTP {error.status}: {message})")
    kind = ConflictError if error.status == 409 else InputError
    return kind(f"Kubeflow at {server.host} rejects the request (HTTP {error.status}: {message})")


def _message(body: str | None) -> str:
    """The server's words: ``message`` of its gRPC services, ``error_message`` of the endpoints for uploads, or text."""
    try:
        words = json.loads(body or "")
    except ValueError:
        return body or ""
    text = str(words.get("message") or words.get("error_message") or "") if isinstance(words, dict) else str(words)
    return text.partition("\n")[0] if "\n\t" in text else text  # a stack follows the cause


def shortened(text: Any) -> str:
    """``text`` in one line of at most 300 characters; of a longer one its end, which holds the cause."""
    line = " ".join(str(text).split()).rstrip(".")
    return line if len(line) <= 300 else f"…{line[-299:]}"
