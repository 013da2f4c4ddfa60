"""Pages of commands: one HTML file with all pictures inside, for any browser, without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.running.atomic import written_file
from segmodels.plots import as_plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; text-align: left }
th { border-bottom: 1px solid #bbb } td.better { color: #177245 } td.worse { color: #b3261e }
figure { display: inline-block; margin: .5rem 0; max-width: 100%; overflow-x: auto; vertical-align: top }
img { max-width: 100% }
"""


def write_html(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of these elements whole or not at all."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    with written_file(path) as partial:
        partial.write_text(f"{head}<style>{STYLE}</style>\n" + "\n".join(parts) + "</html>\n", encoding="utf-8")


def as_picture(figure: Figure) -> str:
    """A figure as an element of a page."""
    data = io.BytesIO()
    as_plain_text(figure)
    figure.savefig(data, format="png", dpi=100)
    return f'<figure><img src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"></figure>'


def as_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as an element of a page. Cells are texts, or pairs of a text and attributes."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = [one if isinstance(one, tuple) else (one, "") for one in row]
        lines.append("<tr>" + "".join(f"<td{more}>{html.escape(text)}</td>" for text, more in cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"
