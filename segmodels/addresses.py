"""Addresses: whether they can be read, and as they may be shown, without passwords, tokens and signatures."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from segmodels.errors import InputError, on_one_line

SECRET_NAME = (
    r"(?:[\w.-]*(?:token|secret|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key(?:id)?|credential|signature|auth)[\w.-]*"
    r"|sig|key|x-(?:amz|goog|oss|cos)-[\w-]+)"
)
"""Names of query parameters that hold a secret or a part of a signed address (S3, Google, Azure, GitLab, databases)."""

_USER = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)(?P<mark>://)(?P<user>[^\s/?#'\"<>]*@)", re.IGNORECASE)
_USER_WITH_SLASH = re.compile(
    r"(?P<start>[a-z][a-z0-9+.-]*://)[^\s/?#@\['\"<>]*:(?!\d*(?:[/?#]|$))[^\s@'\"<>]*@", re.IGNORECASE
)
_USER_IN_PATH = re.compile(  # of an address that was taken for a path, which has one slash
    r"(?P<start>https?:/(?!/)|[a-z][a-z0-9+.-]+:/(?=[^\s/?#@'\"<>]+:))[^\s/?#'\"<>]*@", re.IGNORECASE
)
_SECRET = re.compile(rf"(?P<mark>[?&;#]){SECRET_NAME}=[^\s&;#'\"<>)]*", re.IGNORECASE)
_EMPTY = re.compile(r"[?#&;]+(?=[\s'\"<>),]|$)|(?<=[?#&])[&;]+")


def without_credentials(text: str) -> str:
    """A text with the credentials of all addresses in it removed: user and password before ``@``, and query parameters
    that are tokens, passwords or parts of a signature. The rest of an address stays, so does a user without a password
    in ``ssh://git@host``.

    >>> without_credentials("https://me:pw@example.org/data.git?ref=v1&private_token=x is not there")
    'https://example.org/data.git?ref=v1 is not there'
    """
    if "@" in text and "://" in text:
        text = _USER.sub(_without_user, _USER_WITH_SLASH.sub(r"\g<start>", text))
    if "@" in text and ":/" in text:
        text = _USER_IN_PATH.sub(r"\g<start>", text)
    if "=" in text and (shorter := _SECRET.sub(r"\g<mark>", text)) != text:
        text = _EMPTY.sub("", shorter)
    return text


def holds_credentials(text: str) -> bool:
    """Whether a text holds an address with a password, a token or a signature."""
    return without_credentials(text) != text


def check_address(address: str, name: str) -> None:
    """Check that programs can read an address: ``urllib.parse`` raises at a bracket that is not closed, for example,
    and ``http`` and ``https`` need a host.

    Args:
        name: of the parameter or the variable that holds it.

    Raises:
        InputError: they cannot.
    """
    try:
        parts = urlsplit(address)
        if fault := _host_fault(parts.hostname or "") if parts.scheme in ("http", "https") else "":
            raise ValueError(fault)
    except ValueError as error:
        raise InputError(
            f"{name} is {without_credentials(address)!r}, an address that cannot be read ({on_one_line(error)}),"
            " expected one such as https://example.org/path: correct it"
        ) from None


def _host_fault(host: str) -> str:
    """Why no server can have this name; empty if one can."""
    if not host:
        return "it names no host"
    if blank := re.search(r"\s", host):
        return f"its host holds {blank[0]!r}"
    if ":" not in host and any(not 0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        return "a part of its host's name between dots is empty or longer than 63 characters"
    return ""


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found["scheme"].lower(), found["user"]
    named = scheme.endswith("ssh") and ":" not in user
    return f"{found['scheme']}{found['mark']}{user if named else ''}"
