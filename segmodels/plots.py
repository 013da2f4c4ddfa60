"""Pictures of results: confusion matrix, per-class bars, overlays. Each function returns a figure or an array, ``save``
writes a figure.

Figures are made without pyplot: nothing global, safe in threads, no display needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from segmodels.labels import LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, MUTED, WRONG = "#222222", "#8a8a8a", (214, 39, 40)
FIRST_OF_EAST_ASIA = "\u2e80"
EAST_ASIAN_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS"),
)
SHOWN_PIXELS = 512  # of the longer side; more would not show on a page of four pictures side by side
LEGEND_COLUMNS, LEGEND_CLASSES = 9, 60
ANNOTATED_CLASSES = 30  # above, numbers in the cells of a confusion matrix would not be readable
CONFUSED_PAIRS = 20  # listed in place of those numbers


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write ``figure`` as PNG; the same figure gives the same bytes."""
    as_plain_text(figure)
    figure.savefig(path, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})


def as_plain_text(figure: Figure) -> None:
    """Show names as they are written: dollar signs, between which matplotlib would read a formula, and letters of East
    Asia, which its own font lacks, where a font of the machine has them.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if max(text.get_text(), default="") >= FIRST_OF_EAST_ASIA:
            text.set_fontfamily(_families())


@cache
def _families() -> list[str]:
    """matplotlib's own font, and those of ``EAST_ASIAN_FONTS`` that are installed."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with suppress(OSError, RuntimeError):  # matplotlib cannot read every font
            manager.addfont(path)  # installed since matplotlib wrote its list
    installed = {font.name for font in manager.ttflist}
    return ["DejaVu Sans", *(name for name in EAST_ASIAN_FONTS if name in installed)]


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], counted: str = "pixels") -> Figure:
    """Two panels: counts (logarithmic colours) and the share of each true class in percent.

    Args:
        counts: (C, C) int64, rows = truth, columns = prediction.
        classes: C names. Classes that never occur have a grey row in the second panel. Above 30, a list of the most
            confused pairs takes the place of numbers in the cells.
        counted: what the counts are of.
    """
    many = len(classes) > ANNOTATED_CLASSES
    side, names = len(classes) * (0.135 if many else 0.44), 1.6  # inches of a panel and of the class names beside it
    figure = _figure(2 * side + names, side, layout=None)  # save() makes room for what sticks out
    left, right = figure.subplots(
        1, 2, gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": names / side}
    )
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, total, where=total > 0, out=np.full(counts.shape, np.nan))
    logarithm = np.log10(np.maximum(counts, 1)) / max(np.log10(max(counts.max(), 1)), 1)
    _matrix(left, logarithm, classes, counted, None if many else [[_short(n) for n in row] for row in counts])
    _matrix(
        right,
        share / 100,
        classes,
        "share of the true class, %",
        None if many else [[_percent(s) for s in row] for row in share],
    )
    left.set_ylabel("truth", color=TEXT)
    if many:
        lines = [
            f"{true} → {predicted}  {_percent(part)} %" for true, predicted, part in confused_pairs(counts, classes)
        ]
        figure.text(1.02, 1, "\n".join(["most confused", *lines]), va="top", fontsize=14, color=TEXT)
    return figure


def confused_pairs(counts: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, float]]:
    """Truth, prediction and share of the true class in percent, of the cells beside the diagonal with most counts."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    cells = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    rows, columns = np.unravel_index(cells[wrong.reshape(-1)[cells] > 0], counts.shape)
    shares = 100 * counts[rows, columns] / counts.sum(axis=1)[rows]
    return [
        (classes[row], classes[column], float(share)) for row, column, share in zip(rows, columns, shares, strict=True)
    ]


def class_bars(
    values: Sequence[float] | np.ndarray,
    labels: LabelMap,
    name: str,
    mean: float,
    classes: Sequence[int] | None = None,
) -> Figure:
    """One bar per class in the class's colour, best first, with the mean as a line.

    Args:
        values: C numbers 0..1; NaN for a class that does not occur, which is named without a bar.
        name: what the values are ("IoU").
        mean: drawn as it is given.
        classes: train ids to show; None: all.
    """
    scores = np.asarray(values, dtype=float)
    order = np.argsort(np.where(np.isnan(scores), -1, scores), kind="stable")[::-1]
    order = order if classes is None else order[np.isin(order, classes)]
    figure = _figure(7.5, 1.1 + 0.27 * len(order))
    axes = figure.subplots()
    positions = np.arange(len(order))
    colors = [_color(labels.palette[c]) for c in order]
    axes.barh(positions, np.nan_to_num(scores[order]), height=0.72, color=colors, edgecolor="#00000030", linewidth=0.5)
    for position, score in zip(positions, scores[order], strict=True):
        place, text = (0.01, "does not occur") if np.isnan(score) else (1.02, f"{score:.3f}")
        axes.text(place, float(position), text, va="center", fontsize=8, color=MUTED)
    axes.axvline(mean, color=TEXT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_title(f"{name} per class, mean {mean:.3f}", fontsize=11, color=TEXT, loc="left")
    axes.set_yticks(positions, [_clip(labels.classes[c]) for c in order], fontsize=9)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(axis="x", color="#00000018", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=TEXT)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@dataclass(frozen=True)
class Comparison:
    """One predicted image as pictures side by side.

    Attributes:
        caption: a line about the image, above the first picture.
        pictures: title -> (H, W, 3) uint8 RGB, all of one size; the first is the image itself.
        legend: name -> colour of what the pictures show.
    """

    caption: str
    pictures: Mapping[str, np.ndarray]
    legend: Mapping[str, tuple[int, int, int]]


def class_maps(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, labels: LabelMap, caption: str
) -> Comparison:
    """An image (RGB uint8, any size), two class maps (H, W) of it and where they differ."""
    title = f"error: {_error_share(truth, prediction, labels):.1%} of pixels"
    present = np.union1d(np.unique(truth), np.unique(prediction))
    legend = {labels.classes[c]: labels.palette[c] for c in present if 0 <= c < labels.num_classes}
    step = max(max(truth.shape) // SHOWN_PIXELS, 1)
    truth, prediction = truth[::step, ::step], prediction[::step, ::step]
    image = resize_image(image, truth.shape)
    grey = cv2.cvtColor(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB
    )  # the picture's own colours would shift those of the classes
    pictures = {
        "image": image,
        "truth": blend(grey, truth, labels),
        "prediction": blend(grey, prediction, labels),
        title: error_picture(image, truth, prediction, labels),
    }
    return Comparison(caption, pictures, legend | {"wrong": WRONG})


def comparisons(rows: Sequence[Comparison], labels: LabelMap) -> Figure:
    """The pictures of each image side by side, one row per image, and the colours of what they show, classes first."""
    from matplotlib.patches import Patch

    cell = 2.9  # inches
    shapes = [next(iter(row.pictures.values())).shape for row in rows]
    heights = [cell * shape[0] / shape[1] for shape in shapes]
    shown = {name: color for row in rows for name, color in row.legend.items()}
    classes = {name: shown.pop(name) for name in labels.classes if name in shown}
    legend = dict(list(classes.items())[:LEGEND_CLASSES]) | shown
    entries = len(legend)
    columns = -(-entries // -(-entries // LEGEND_COLUMNS))  # as few rows as can be, evenly filled
    legend_height = 0.3 + 0.22 * -(-entries // columns)
    width = max(len(row.pictures) for row in rows)
    figure = _figure(width * cell, sum(heights) + 0.27 * len(rows) + legend_height)
    grid = figure.subplots(len(rows), width, squeeze=False, height_ratios=heights)
    for axes, row in zip(grid, rows, strict=True):
        for number, (axis, (title, picture)) in enumerate(zip(axes, row.pictures.items(), strict=True)):
            axis.imshow(picture, interpolation="nearest" if picture.shape[0] < 200 else "antialiased")
            axis.set_title(
                _between(title if number else row.caption),
                fontsize=8,
                color=MUTED if number else TEXT,
                loc="left",
                pad=3,
            )
            axis.set(xticks=[], yticks=[])  # matplotlib lays out the ticks of hidden axes, too, which takes seconds
            axis.set_axis_off()
    patches = [
        Patch(facecolor=_color(color), edgecolor="#00000060", linewidth=0.5, label=_clip(name))
        for name, color in legend.items()
    ]
    by_rows = [
        patches[i] for column in range(columns) for i in range(column, entries, columns)
    ]  # matplotlib fills column by column
    figure.legend(
        handles=by_rows,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=TEXT,
        handlelength=1.2,
        columnspacing=1.4,
    )
    return figure


def blend(image: np.ndarray, mask: np.ndarray, labels: LabelMap, alpha: float = 0.6) -> np.ndarray:
    """RGB ``image`` (H, W, 3) uint8 with the colours of ``mask`` (H, W) over it; ignored pixels stay as they are."""
    mixed = cv2.addWeighted(image, 1 - alpha, labels.colorize(mask), alpha, 0)
    ignored = mask == labels.ignore_index
    mixed[ignored] = image[ignored]
    return mixed


def error_picture(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, labels: LabelMap) -> np.ndarray:
    """The faded image (H, W, 3) with wrong pixels in red; ignored pixels are dark."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    picture = cv2.cvtColor(cv2.addWeighted(gray, 0.45, np.full_like(gray, 255), 0.5, 0), cv2.COLOR_GRAY2RGB)
    picture[_wrong(truth, prediction, labels)] = WRONG
    picture[truth == labels.ignore_index] = (70, 70, 70)
    return picture


def resize_image(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """RGB ``image`` at (height, width) = ``size``."""
    smaller = size[0] < image.shape[0]
    return (
        image
        if image.shape[:2] == size
        else cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    )


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def _matrix(axes: Axes, shade: np.ndarray, classes: Sequence[str], title: str, texts: list[list[str]] | None) -> None:
    """``shade`` 0..1 gives the colours, NaN is grey."""
    from matplotlib import colormaps

    axes.imshow(shade, cmap=colormaps["Blues"].with_extremes(bad="#eeeeee"), vmin=0, vmax=1, interpolation="nearest")
    size = 8 if texts else 6.5
    names = [_clip(name) for name in classes]
    rotation, anchor = (45, "right") if len(names) <= 12 else (90, "center")
    axes.set_xticks(range(len(names)), names, rotation=rotation, ha=anchor, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, labelcolor=TEXT)
    if texts is None:  # lines every ten classes guide the eye
        for line in range(10, len(names), 10):
            axes.axhline(line - 0.5, color="#00000030", linewidth=0.5)
            axes.axvline(line - 0.5, color="#00000030", linewidth=0.5)
    else:
        for row, cells in enumerate(texts):
            for column, text in enumerate(cells):
                color = "white" if shade[row, column] > 0.6 else MUTED if text in ("0", "<1") else TEXT
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color).set_in_layout(
                    False
                )  # inside anyway: saves time
    axes.set_title(title, fontsize=11 if texts else 20, color=TEXT, loc="left")
    axes.set_xlabel("prediction", color=TEXT)
    for spine in axes.spines.values():
        spine.set_color("#00000030")


def _short(number: int) -> str:
    """At most four characters: 950, 12k, 3.4M."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            value = number / factor
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(number)


def _percent(share: float) -> str:
    if np.isnan(share):
        return ""
    return "0" if share == 0 else "<1" if share < 0.5 else f"{share:.0f}"


def _clip(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _between(caption: str) -> str:
    """The beginning and the end of a caption, as much as a picture is wide."""
    return caption if len(caption) <= 42 else f"{caption[:17]}…{caption[-24:]}"


def _color(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """RGB 0..255 as matplotlib wants it; white is darkened a little, to be seen on the page."""
    red, green, blue = (min(channel, 235) / 255 for channel in color)
    return red, green, blue


def _wrong(truth: np.ndarray, prediction: np.ndarray, labels: LabelMap) -> np.ndarray:
    return (truth != prediction) & (truth != labels.ignore_index)


def _error_share(truth: np.ndarray, prediction: np.ndarray, labels: LabelMap) -> float:
    counted = int((truth != labels.ignore_index).sum())
    return _wrong(truth, prediction, labels).sum() / max(counted, 1)
