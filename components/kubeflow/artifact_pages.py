"""Pages for Kubeflow's UI, which shows single files: HTML with everything inside, Markdown without pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from components.artifacts import MODEL_CARD, OVERVIEW, PICTURES

STYLE = (
    "body{font-family:sans-serif;margin:2em}td,th{padding:.2em"
    " .8em;text-align:right}td:first-child{text-align:left}img{max-width:100%}"
)


def data_docs(validation: Path) -> str:
    """The overview of the data docs; its links lead to pages in the archive ``validation``."""
    return OVERVIEW.read(validation)


def evaluation(folder: Path, metrics: Mapping[str, Any]) -> str:
    """A page with scores and pictures."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{_number(value)}</td></tr>"
        for name, value in metrics.items()
    )
    pictures = "".join(
        f"<h2>{escape(path.stem)}</h2><img src='{_inline(path)}'>" for path in sorted((folder / PICTURES).glob("*.png"))
    )
    return (
        f"<!doctype html><meta charset='utf-8'><title>Evaluation</title><style>{STYLE}</style><h1>Test"
        f" split</h1><table>{rows}</table>{pictures}"
    )


def model_card(folder: Path) -> str:
    """The model card without its pictures, which are files of their own."""
    card = MODEL_CARD.read(folder)
    return re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", card)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _inline(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
