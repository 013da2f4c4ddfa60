"""The HTML pages about a validation: an overview for everybody, and Great Expectations' own pages behind it."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.artifacts import OVERVIEW
from components.running.wording import first_few_alike
from components.validation.shown_samples import Shown
from segmodels.labels import LabelMap

EXAMPLES, LEGEND, SIZES = 8, 40, 10
"""Names of rows that failed a check, classes in a legend, sizes of images that the page shows."""


def write_overview(
    report: dict[str, Any],
    sheets: Mapping[str, Sequence[Shown]],
    behind: Mapping[str, Sequence[Shown]],
    labels: LabelMap,
    docs: Path,
    suites: Path,
) -> None:
    """Write ``index.html`` into the folder ``docs``: findings with pictures, a contact sheet of each split, classes,
    sizes, all checks. Pictures are part of the page, as Kubeflow's UI shows single files.

    Args:
        report: what ``validate`` writes as ``report.json``.
        sheets: split -> samples to look at.
        behind: check -> samples that failed it.
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
    checks = report["checks"]
    wrong = [line for check in checks if check["count"] for line in _finding(check, behind.get(check["check"], ()))]
    body = [
        "<h1>Validation of the dataset</h1>",
        f'<p class="verdict {"critical" if failed else "warning" if warned else "passed"}">{verdict}</p>',
        _table(
            [], [[name, f"<code>{escape(str(value))}</code>"] for name, value in facts.items() if value is not None]
        ),
        *(["<h2>What was found</h2>", _table(["", "found", "what to do"], wrong)] if wrong else []),
        "<h2>Samples</h2>",
        _table(
            ["split", "samples", "objects", "void pixels", "edge agreement"],
            [
                [
                    split,
                    f"{count:,}",
                    f"{report['objects'][split]:,}",
                    f"{report['void_share'][split]:.2%}",
                    _agreement(report["edge_agreement"].get(split)),
                ]
                for split, count in report["samples"].items()
            ],
        ),
        (
            "<p><small>Edge agreement: how many times steeper images are on the borders of their labels than elsewhere;"
            " in brackets, what masks reach over other images of the split.</small></p>"
        ),
        *(_sheet_of_split(split, report, shown, labels) for split, shown in sheets.items()),
        (
            "<h2>Classes</h2><p>Share of the labelled pixels of a split; in brackets, how many of its samples hold the"
            " class.</p>"
        ),
        _classes(report["classes"], labels),
        "<h2>Sizes and formats</h2>",
        _sizes(report["sizes_of_splits"], report["sizes"], report["samples"]),
        _table(
            ["", "format", "files"],
            [
                [part, escape(name), f"{n:,}"]
                for part in ("image", "annotation")
                for name, n in report[f"{part}_formats"].items()
            ],
        ),
        "<h2>What was checked</h2>",
        _table(
            ["", "expected"],
            [
                [_mark("passed" if not check["count"] else check["severity"]), escape(check["expected"])]
                for check in sorted(checks, key=lambda check: not check["count"])
            ],
        ),
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


RANDOM_ID = r"(?<=collapse-body)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIMES = r"<tr>((?!</tr>).)*>(Run Time|ge_load_time)<.*?</tr>| / 1970-01-01T00:00:00Z"
"""Parts of Great Expectations' pages that differ from run to run."""


def make_offline(pages: Path) -> None:
    """Remove from Great Expectations' pages all that a browser would fetch from other hosts, and all that differs from
    run to run, and give them a style of their own.

    The pages must work offline and must not contact third-party hosts; the same dataset gives the same bytes.
    """
    shutil.rmtree(pages / "static", ignore_errors=True)
    (pages / "index.html").unlink()  # a table that only a script from elsewhere fills: the overview takes its place
    for page in pages.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<(script|style|footer)\b.*?</\1>|<(link|img)\b[^>]*>", "", text, flags=re.DOTALL)
        text = re.sub(f"{RANDOM_ID}|{TIMES}", "", text, flags=re.DOTALL)
        text = re.sub(r'href="([./]*)index\.html"', r'href="\1../index.html"', text)
        page.write_text(text.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")


def _finding(check: dict[str, Any], behind: Sequence[Shown]) -> list[Sequence[str]]:
    """The rows of a check that failed: words, then pictures."""
    examples = f"<br><small>{escape(first_few_alike(check['examples'], EXAMPLES))}</small>" if check["examples"] else ""
    words = [
        _mark(check["severity"]),
        f"{escape(check['problem'])}: {check['count']:,}{examples}",
        escape(check["advice"]),
    ]
    return [words, ["", _sheet(behind)]] if behind else [words]


def _mark(word: str) -> str:
    return f'<span class="mark {word}">{word}</span>'


def _sheet_of_split(split: str, report: dict[str, Any], shown: Sequence[Shown], labels: LabelMap) -> str:
    """A contact sheet and the colours of the classes in the split, the largest first."""
    if not shown:
        return ""
    pixels = {name: counts["pixels"] for name, counts in report["classes"][split].items() if counts["pixels"]}
    color = dict(zip(labels.classes, labels.palette, strict=True))
    legend = [_named(name, color[name]) for name in sorted(pixels, key=lambda name: -pixels[name])]
    more = f" and {len(legend) - LEGEND} more" if len(legend) > LEGEND else ""
    return (
        f"<h2>{len(shown)} of {report['samples'][split]:,} samples of {split}</h2>"
        + (f'<p class="legend">{" ".join(legend[:LEGEND])}{more} Void is hatched.</p>' if legend else "")
        + _sheet(shown)
    )


def _named(name: str, color: tuple[int, int, int]) -> str:
    """A class with its colour."""
    return f'<span class="key"><span class="swatch" style="background:{_css(color)}"></span>{escape(name)}</span>'


def _sheet(samples: Sequence[Shown]) -> str:
    """Pictures with their captions."""
    figures = []
    for shown in samples:
        caption = escape(shown.caption)
        picture = '<p class="none">cannot be read</p>'
        if shown.picture is not None:
            data = base64.b64encode(shown.picture).decode()
            picture = f'<img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        figures.append(f'<figure>{picture}<figcaption title="{caption}">{caption}</figcaption></figure>')
    return f'<div class="sheet">{"".join(figures)}</div>'


def _agreement(pairs: dict[str, Any] | None) -> str:
    return f"{pairs['mean']:.2f} <small>({pairs['shuffled']:.2f})</small>" if pairs else ""


def _classes(classes: dict[str, dict[str, dict[str, int]]], labels: LabelMap) -> str:
    """Split -> class -> pixels and samples, as one row per class with a bar per split."""
    totals = {
        split: max(1, sum(counts["pixels"] for counts in by_class.values())) for split, by_class in classes.items()
    }
    color = dict(zip(labels.classes, labels.palette, strict=True))

    def cell(split: str, name: str) -> str:
        counts = classes[split][name]
        share = counts["pixels"] / totals[split]
        return f"{_bar(share, _css(color[name]))}{share:.2%} <small>({counts['samples']:,})</small>"

    return _table(
        ["class", *classes],
        [[_named(name, color[name]), *(cell(split, name) for split in classes)] for name in labels.classes],
    )


def _sizes(of_splits: dict[str, dict[str, int]], overall: dict[str, int], samples: dict[str, int]) -> str:
    """A row for each common size, with a bar per split."""

    def cell(split: str, size: str) -> str:
        count = of_splits[split].get(size, 0)
        return f"{_bar(count / max(samples[split], 1))}{count:,}"

    shown = list(overall)[:SIZES]
    rest = len(overall) - len(shown)
    return _table(
        ["size", *of_splits], [[escape(size), *(cell(split, size) for split in of_splits)] for size in shown]
    ) + (f"<p><small>and {rest} or more further sizes, see report.json</small></p>" if rest else "")


def _bar(share: float, color: str = "#6a9fd4") -> str:
    return f'<span class="track"><span class="bar" style="width:{share:.1%};background:{color}"></span></span>'


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A short row's last cell takes the place of those that it lacks."""
    head = f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr></thead>" if header else ""
    width = max(map(len, rows), default=0)
    lines = (
        "".join(f"<td>{cell}</td>" for cell in row[:-1]) + f'<td colspan="{width - len(row) + 1}">{row[-1]}</td>'
        for row in rows
    )
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
.track { display: inline-block; width: 7em; height: .7em; margin-right: .6em; background: #eef1f4 }
.bar { display: block; height: 100%; box-shadow: inset 0 0 0 1px #0002 }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 1px solid #0003 }
.key { margin-right: .8em; white-space: nowrap } .legend { font-size: .85em }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: .8rem }
figure { margin: 0; min-width: 0 }
figure img { width: 100%; max-height: 16rem; object-fit: contain; object-position: left }
figcaption { font-size: .8em; color: #5c6675; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
figure .none { padding: 2rem; background: #eef1f4; text-align: center; margin: 0 }
ol.breadcrumb { list-style: none; padding: 0 } ol.breadcrumb li { display: inline; margin-right: 1em }
.sticky, thead[hidden] { display: none }
.fa-check-circle::after { content: "passed"; color: #1d6b32 } .fa-times::after { content: "failed"; color: #a3231a }
.fa-comment::after { content: "notes"; font-style: normal }
.fa-exclamation-triangle::after { content: "error"; color: #a3231a }
"""
