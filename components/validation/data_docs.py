"""The HTML pages about a validation: an overview for everybody, and Great Expectations' own pages behind it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.artifacts import OVERVIEW
from components.running.wording import first_few

EXAMPLES = 8


def write_overview(report: dict[str, Any], docs: Path, suites: Path) -> None:
    """Write ``index.html`` into the folder ``docs``.

    Args:
        report: what ``validate`` writes as ``report.json``.
        suites: folder in ``docs`` that holds Great Expectations' pages.
    """
    failed, warned = len(report["critical"]), len(report["warnings"])
    verdict = (
        f"critical checks that failed: {failed}" if failed else f"passed, warnings: {warned}" if warned else "passed"
    )
    pages = sorted(suites.glob("validations/*/**/*.html"))
    links = [(page.relative_to(suites).parts[1], quote(page.relative_to(docs).as_posix())) for page in pages]
    source = ", ".join(f"{name} {value}" for name, value in report["source"].items() if value is not None)
    facts = {"source": source, "revision": report["revision"], "digest": report["digest"], "layout": report["layout"]}
    body = [
        "<h1>Validation of the dataset</h1>",
        f'<p class="verdict {"critical" if failed else "warning" if warned else "passed"}">{verdict}</p>',
        _table(
            [], [[name, f"<code>{escape(str(value))}</code>"] for name, value in facts.items() if value is not None]
        ),
        "<h2>What was checked</h2>",
        _table(
            ["", "expected", "found", "what to do"],
            [_check(check) for check in sorted(report["checks"], key=lambda check: not check["count"])],
        ),
        "<h2>Samples</h2>",
        _table(
            ["split", "samples", "objects", "void pixels"],
            [
                [split, f"{count:,}", f"{report['objects'][split]:,}", f"{report['void_share'][split]:.2%}"]
                for split, count in report["samples"].items()
            ],
        ),
        _table(["size", "images"], [[escape(size), f"{count:,}"] for size, count in report["sizes"].items()]),
        _table(
            ["", "format", "files"],
            [
                [part, escape(name), f"{n:,}"]
                for part in ("image", "annotation")
                for name, n in report[f"{part}_formats"].items()
            ],
        ),
        (
            "<h2>Classes</h2><p>Share of the labelled pixels of a split; in brackets, how many of its samples hold the"
            " class.</p>"
        ),
        _classes(report["classes"]),
        "<h2>Details</h2><ul>",
        *(f'<li><a href="{link}">{escape(name)}</a>, as Great Expectations shows it</li>' for name, link in links),
        '<li><a href="../facts.parquet">facts.parquet</a>, all facts of every sample</li>',
        '<li><a href="../report.json">report.json</a>, this page for programs</li></ul>',
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Validation:'
        f" {verdict}</title><style>{STYLE}</style></head>"
    )
    (docs / Path(OVERVIEW.name).name).write_text(
        f"{page}<body><main>{''.join(body)}</main></body></html>\n", encoding="utf-8"
    )


def make_offline(pages: Path) -> None:
    """Remove from Great Expectations' pages all that a browser would fetch from other hosts, and give them a style of
    their own.

    The pages must work offline and must not contact third-party hosts.
    """
    shutil.rmtree(pages / "static", ignore_errors=True)
    (pages / "index.html").unlink()  # a table that only a script from elsewhere fills: the overview takes its place
    for page in pages.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<(script|style|footer)\b.*?</\1>|<(link|img)\b[^>]*>", "", text, flags=re.DOTALL)
        text = re.sub(r'href="([./]*)index\.html"', r'href="\1../index.html"', text)
        page.write_text(text.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")


def _check(check: dict[str, Any]) -> Sequence[str]:
    if not check["count"]:
        return ['<span class="mark passed">passed</span>', escape(check["expected"]), "", ""]
    examples = f"<br><small>{escape(first_few(check['examples'], EXAMPLES))}</small>" if check["examples"] else ""
    found = f"{escape(check['problem'])}: {check['count']:,}{examples}"
    return [
        f'<span class="mark {check["severity"]}">{check["severity"]}</span>',
        escape(check["expected"]),
        found,
        escape(check["advice"]),
    ]


def _classes(classes: dict[str, dict[str, dict[str, int]]]) -> str:
    """Split -> class -> pixels and samples, as one row per class with a bar per split."""
    totals = {
        split: max(1, sum(counts["pixels"] for counts in by_class.values())) for split, by_class in classes.items()
    }

    def cell(split: str, name: str) -> str:
        counts = classes[split][name]
        share = counts["pixels"] / totals[split]
        return (
            f'<span class="bar" style="width:{share * 10:.2f}em"></span>{share:.2%}'
            f" <small>({counts['samples']:,})</small>"
        )

    names = list(next(iter(classes.values())))
    return _table(["class", *classes], [[escape(name), *(cell(split, name) for split in classes)] for name in names])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr></thead>" if header else ""
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{head}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 0 }
main, .container-fluid { max-width: 75rem; margin: 0 auto; padding: 1rem 1.5rem }
h1, h4 { font-size: 1.6rem }
h2, h5 { font-size: 1.2rem; margin: 2rem 0 .5rem } h6 { font-size: 1rem; margin: 1rem 0 .3rem }
a { color: #1b5fa8 } small, .lead { color: #5c6675 } code { font-size: .92em }
table { border-collapse: collapse; margin: .5rem 0 1rem }
td, th { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e7ec }
th { color: #5c6675; font-weight: 600 }
.verdict { display: inline-block; padding: .3rem .9rem; border-radius: .3rem; font-weight: 600 }
.mark { display: inline-block; width: 5em; text-align: center; border-radius: .3rem; font-size: .85em }
.passed { background: #e2f4e6; color: #1d6b32 }
.warning { background: #fff1d0; color: #7c5200 }
.critical { background: #fde3e1; color: #a3231a }
.bar { display: inline-block; height: .7em; margin-right: .5em; background: #6a9fd4; vertical-align: baseline }
ol.breadcrumb { list-style: none; padding: 0 } ol.breadcrumb li { display: inline; margin-right: 1em }
.sticky, thead[hidden] { display: none }
.fa-check-circle::after { content: "passed"; color: #1d6b32 } .fa-times::after { content: "failed"; color: #a3231a }
.fa-comment::after { content: "notes"; font-style: normal }
.fa-exclamation-triangle::after { content: "error"; color: #a3231a }
"""
