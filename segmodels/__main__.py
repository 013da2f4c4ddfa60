"""What the library holds: ``python -m segmodels models|losses|metrics|layouts`` and ``describe MODEL``."""

from __future__ import annotations

import argparse
import inspect
import signal
import sys

from segmodels.errors import InputError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m segmodels", description="What the library holds.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in {
        "models": "every model",
        "losses": "every loss",
        "metrics": "every metric",
        "layouts": "every dataset layout",
    }.items():
        commands.add_parser(name, help=text)
    description = commands.add_parser("describe", help="structure of a model, with shapes")
    description.add_argument("model")
    description.add_argument("--classes", type=int, help="number of classes (default: as the model's card)")
    description.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the image (default: as the model's card)"
    )
    chosen = parser.parse_args(argv)
    try:
        if chosen.command == "describe":
            from segmodels.models.analysis import describe

            print(describe(chosen.model, chosen.classes, chosen.size))
        else:
            {"models": _models, "losses": _losses, "metrics": _metrics, "layouts": _layouts}[chosen.command]()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _table(rows: list[tuple[str, ...]], *columns: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


def _models() -> None:
    from segmodels.models.registry import list_models, model_entry

    rows: list[tuple[str, ...]] = []
    for name in list_models():
        card = model_entry(name).card
        parameters = f"{card.parameters / 1e6:.2f}" if card.parameters else ""
        gmac = f"{card.gmac:.1f} at {card.size[0]}x{card.size[1]}" if card.gmac else ""
        rows.append((name, ", ".join(card.tasks), parameters, gmac, card.default_encoder or "", card.paper))
    _table(rows, "model", "tasks", "million parameters", "GMAC", "encoder", "paper")


def _losses() -> None:
    from segmodels.losses.registry import LOSSES

    _table(
        [(entry.name, entry.card.source, entry.card.use) for entry in LOSSES],
        "loss",
        "formula",
        "when to use it",
    )


def _metrics() -> None:
    from segmodels.metrics import scores

    functions = [
        (name, function)
        for name, function in vars(scores).items()
        if inspect.isfunction(function) and name in scores.__all__
    ]
    _table(
        [(name, " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())) for name, function in functions],
        "metric",
        "what it is",
    )


def _layouts() -> None:
    from segmodels.data.layouts.base import _layouts as layouts

    _table(
        [
            (name, " ".join((inspect.getdoc(layout) or "").split("\n\n")[0].split()))
            for name, layout in sorted(layouts().items())
        ],
        "layout",
        "what it reads",
    )


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends it without a word
    sys.exit(main())
