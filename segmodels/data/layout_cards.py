"""Descriptions of layouts for people: on the terminal and in docs/datasets.md."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, cast

from segmodels.data.layouts.base import LAYOUTS, Layout
from segmodels.labels import LabelMap

if TYPE_CHECKING:
    from rich.console import RenderableType


def markdown_card(name: str) -> str:
    """A section of docs/datasets.md."""
    layout = _layout(name)
    facts = "\n".join(f"* {title}: {text}" for title, text in _facts(name))
    classes = "; ".join(f"{text} `#{red:02x}{green:02x}{blue:02x}`" for text, (red, green, blue) in _classes(layout))
    parts = [f"## {name}", _description(layout), facts, f"```\n{layout.tree.strip()}\n```"]
    return "\n\n".join([*parts, *([f"{_heading(layout)}: {classes}"] if classes else [])])


def printed_card(name: str) -> RenderableType:
    """The same for a terminal, with a strip of the palette."""
    from rich.console import Group
    from rich.text import Text

    layout = _layout(name)
    facts = Text("\n").join(Text(f"{title}: ", "bold").append(text, "default not bold") for title, text in _facts(name))
    parts: list[RenderableType] = [Text(name, "bold"), Text(f"{_description(layout)}\n"), facts, Text()]
    parts += [Text("expected folder", "bold"), Text(layout.tree)]
    if classes := _classes(layout):
        strip = Text("").join(Text("██", f"rgb({red},{green},{blue})") for _, (red, green, blue) in classes)
        names = Text(", ").join(
            Text("■ ", f"rgb({red},{green},{blue})").append(text, "default") for text, (red, green, blue) in classes
        )
        parts += [Text(_heading(layout), "bold"), strip, names]
    return Group(*parts)


def how_to_get(name: str) -> str:
    """The command that fetches a dataset with public addresses, and these; else where to register or look."""
    card = LAYOUTS[name].card
    if not card.archives:
        return card.get
    addresses = " ".join(file.url for file in card.archives)
    return "; ".join(filter(None, [f"`python -m components fetch {name}` ({addresses})", card.get]))


def _layout(name: str) -> type[Layout]:
    return cast("type[Layout]", LAYOUTS[name].build)


def _description(layout: type[Layout]) -> str:
    """The docstring; without its section of attributes."""
    return (inspect.getdoc(layout) or "").partition("\n\nAttributes:")[0].replace("``", "`")


def _facts(name: str) -> list[tuple[str, str]]:
    layout, card = _layout(name), LAYOUTS[name].card
    facts = {
        "reads": card.reads,
        "reference": card.source,
        "samples": card.samples,
        "licence": card.licence,
        "how to get it": how_to_get(name),
        "`layout: auto` looks for": layout.marks,
    }
    return [(title, text) for title, text in facts.items() if text]


def _heading(layout: type[Layout]) -> str:
    labels = layout.published()
    count = labels.num_classes if labels else 0
    things = f", {len(labels.things)} of them countable (*)" if labels and labels.things else ""
    return f"{count} classes{things}"


def _classes(layout: type[Layout]) -> list[tuple[str, tuple[int, int, int]]]:
    """Name, with a star for things, and colour of each published class."""
    labels: LabelMap | None = layout.published()
    if labels is None:
        return []
    names = (name + "*" * (train in labels.things) for train, name in enumerate(labels.classes))
    return list(zip(names, labels.palette, strict=True))
