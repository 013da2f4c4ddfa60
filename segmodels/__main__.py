"""The library's catalogue: ``python -m segmodels models|encoders|losses|tasks|metrics|layouts [NAME]``, ``describe
MODEL``.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from segmodels.exit_codes import guarded


class Listing(NamedTuple):
    """A table of all entries of one kind."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        """The table as docs/ has it: names as code."""
        rows = [self.columns, ("---",) * len(self.columns), *((f"`{name}`", *rest) for name, *rest in self.rows)]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def main(argv: list[str] | None = None) -> int:
    return guarded(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m segmodels", description="The library's catalogue.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind in LISTINGS:
        listing = commands.add_parser(kind, help=f"every {kind.removesuffix('es' if kind == 'losses' else 's')}")
        listing.add_argument("--markdown", action="store_true", help="as a table for a document")
        if kind == "layouts":
            listing.add_argument("name", nargs="?", help="one layout: its folder, classes, licence and how to get it")
    description = commands.add_parser("describe", help="structure of a model, with shapes")
    description.add_argument("model")
    description.add_argument("--classes", type=int, help="number of classes (default: that of the model's card)")
    description.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the image (default: that of the model's card)",
    )
    chosen = parser.parse_args(argv)
    if chosen.command == "describe":
        from segmodels.models.analysis import describe

        print(describe(chosen.model, chosen.classes, chosen.size))
    elif getattr(chosen, "name", None):
        _print_layout(chosen.name)
    elif chosen.markdown:
        print(LISTINGS[chosen.command]().markdown())
    else:
        _print(LISTINGS[chosen.command]())


def _print(listing: Listing) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*listing.columns, box=SIMPLE)
    for row in listing.rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


def _print_layout(name: str) -> None:
    from rich.console import Console

    from segmodels.data.layout_cards import printed_card

    console = Console()
    (console if console.is_terminal else Console(width=200)).print(printed_card(name))


def models() -> Listing:
    """Every model with its tasks, size and paper."""
    from segmodels.models.registry import MODELS, model_body

    rows: list[tuple[str, ...]] = []
    for entry in MODELS:
        card = entry.card
        parameters = f"{card.parameters / 1e6:.2f}" if card.parameters else ""
        gmac = f"{card.gmac:.1f} at {card.size[0]}x{card.size[1]}" if card.gmac else ""
        encoder = body.encoder if (body := model_body(entry.name)) else ""
        rows.append((entry.name, ", ".join(card.tasks), parameters, gmac, encoder, card.paper))
    return Listing(("model", "tasks", "million parameters", "GMAC", "encoder", "paper"), rows)


def encoders() -> Listing:
    """Every encoder; ``timm:NAME`` works beside them."""
    from segmodels.encoders.registry import ENCODERS

    return Listing(("encoder", "description"), [(entry.name, entry.summary) for entry in ENCODERS])


def losses() -> Listing:
    """Every loss with its formula's source."""
    from segmodels.losses.registry import LOSSES

    rows = [(entry.name, entry.card.source, entry.card.use) for entry in LOSSES]
    return Listing(("loss", "formula", "when to use it"), rows)


def tasks() -> Listing:
    """Every task with its scores; the first one chooses weights and champions."""
    from segmodels.tasks.registry import TASKS, task_class

    rows = [(entry.name, ", ".join(task_class(entry.name).headline.values()), entry.summary) for entry in TASKS]
    return Listing(("task", "scores", "description"), rows)


def metrics() -> Listing:
    """Every score of a confusion matrix."""
    from segmodels.metrics import scores

    return Listing(("metric", "description"), [(name, _summary(getattr(scores, name))) for name in scores.__all__])


def layouts() -> Listing:
    """Every dataset layout."""
    from segmodels.data.layouts import LAYOUTS

    rows = [(entry.name, entry.card.reads, entry.card.source) for entry in LAYOUTS]
    return Listing(("layout", "dataset", "defined in"), rows)


def _summary(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


LISTINGS: dict[str, Callable[[], Listing]] = {
    "models": models,
    "encoders": encoders,
    "losses": losses,
    "tasks": tasks,
    "metrics": metrics,
    "layouts": layouts,
}

if __name__ == "__main__":
    sys.exit(main())
