"""YAML files as plain data, in the dialect of DVC: YAML 1.2 as ruamel.yaml reads it.

DVC reads and writes params.yaml with ruamel.yaml (``dvc exp run -S train.lr=0.00001`` writes ``1e-05``); one reader for
both means that a value has one type: ``1e-3``, ``1e-05`` and ``.5`` are numbers, ``on``, ``no`` and ``12:30`` text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from segmodels.errors import InputError, on_one_line
from segmodels.files import read_plain_text

STAGES = "dvc.yaml"
"""DVC's file of the stages."""

LARGEST = 2**18
"""Bytes of a file."""

MOST_VALUES = 50_000
"""Keys and values of a file once its aliases (``*name``) are replaced by what they stand for."""


def read_yaml(path: Path, missing: str = "") -> Any:
    """The content of a YAML file; None for an empty one.

    Args:
        missing: advice for a file that is not there.

    Raises:
        InputError: the file is not there, no regular file, too large or not UTF-8; it is not YAML, has a key twice, a
            value that its type does not allow, is nested too deeply, or its aliases stand for too many values. Names
            the file and the line.
    """
    return parse_yaml(read_plain_text(path, missing=missing, largest=LARGEST), str(path))


def dvc_stages() -> dict[str, Any]:
    """The stages of dvc.yaml in the working directory; none where it is not there."""
    file = Path(STAGES)
    return dict(read_yaml(file)["stages"]) if file.is_file() else {}


def parse_yaml(text: str, origin: str) -> Any:
    """The content of YAML text; errors as of ``read_yaml``, with ``origin`` in place of the file's path."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        node = yaml.compose(text)
        if node is not None and _expanded(node, {}) > MOST_VALUES:
            raise InputError(
                f"{origin}: its aliases (*name) stand for more than {MOST_VALUES:,} values: write the values out"
            )
        return yaml.load(text)
    except RecursionError:
        raise InputError(f"{origin} is nested too deeply: make it flat") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{origin}{line} is not YAML ({_words(error)}): correct it") from None
    except YAMLError as error:
        raise InputError(f"{origin} is not YAML ({on_one_line(error)}): correct it") from None


class _Constructor(SafeConstructor):
    """Errors of a value (a date that there is not, a number of 5,000 digits) name its line."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ConstructorError(None, None, on_one_line(error, 100), node.start_mark) from None


def _words(error: MarkedYAMLError) -> str:
    text = " ".join((error.problem or error.context or "").split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def _expanded(node: Node, known: dict[int, int]) -> int:
    """Number of keys and values below a node, those that aliases repeat counted each time; a node that contains itself
    has more than any limit.
    """
    if isinstance(node, ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # until its own number is known: for a node that contains itself
        pairs = isinstance(node, MappingNode)
        inside = [one for pair in node.value for one in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_expanded(one, known) for one in inside)
    return known[id(node)]
