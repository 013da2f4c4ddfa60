"""Objects as pictures: masks with outlines over an image, and truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.labels import LabelMap
from segmodels.plots import LEGEND_CLASSES, SHOWN_PIXELS, TEXT, WRONG, Comparison, resize_image
from segmodels.run_lengths import Crop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Color = tuple[int, int, int]

OUTLINE: Color = (255, 255, 255)
OUTCOMES: dict[str, Color] = {"found": (44, 160, 44), "missed": (255, 187, 40), "wrong": WRONG}
"""What became of an object, and its colour."""

CAPTION_PIXELS = 200  # of the shorter side; in smaller pictures captions would hide the objects


def draw_masks(
    image: NDArray, masks: Sequence[Crop], colors: Sequence[Color], alpha: float, captions: Sequence[str] = ()
) -> NDArray:
    """Masks in their colours over ``image`` (H, W, 3) uint8 RGB, the last on top, each with an outline.

    Args:
        alpha: opacity of the colours.
        captions: a line beside each mask, shortened to its first word, or left out, where the mask is small; none in
            pictures whose shorter side is below 200 pixels.
    """
    picture = np.ascontiguousarray(image).copy()
    thick = max(1, round(min(picture.shape[:2]) / 300))
    for (left, top, pixels), color in zip(masks, colors, strict=True):
        part = picture[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        part[pixels] = np.rint((1 - alpha) * part[pixels] + alpha * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(
            pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
        )
        cv2.drawContours(picture, outlines, -1, OUTLINE, thick)
    if min(picture.shape[:2]) >= CAPTION_PIXELS:
        for mask, color, caption in zip(masks, colors, captions, strict=False):
            _write(picture, mask, color, caption)
    return picture


def compare_objects(
    image: NDArray,
    truth: NDArray,
    prediction: NDArray,
    outcomes: Sequence[tuple[Crop, str]],
    classes: Sequence[int],
    labels: LabelMap,
    caption: str,
) -> Comparison:
    """An image, its drawn truth and prediction, and what became of every object.

    Args:
        image, truth, prediction: ``(H, W, 3)`` uint8 RGB of one size.
        outcomes: masks of true objects that were found or missed and of wrong predictions, each with a key
            of ``OUTCOMES``.
        classes: train ids to name in the legend.
    """
    names = [name for _, name in outcomes]
    title = ", ".join(f"{names.count(name)} {name}" for name in OUTCOMES)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    found = draw_masks(grey, [mask for mask, _ in outcomes], [OUTCOMES[name] for name in names], 0.6)
    pictures = {"image": image, "truth": truth, "prediction": prediction, title: found}
    legend = {labels.classes[c]: labels.palette[c] for c in sorted(set(classes))}
    return Comparison(caption, {name: _shown(picture) for name, picture in pictures.items()}, legend | OUTCOMES)


def precision_recall(curves: NDArray, labels: LabelMap) -> Figure:
    """Precision over recall of each class in its colour, and of their mean in black.

    Args:
        curves: ``(C, 101)`` at recalls 0, 0.01, ..., 1; NaN for a class without objects.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    recalls = np.linspace(0, 1, curves.shape[1])
    present = np.flatnonzero(~np.isnan(curves[:, 0]))
    for label in present:
        red, green, blue = labels.palette[label]
        axes.plot(recalls, curves[label], color=(red / 255, green / 255, blue / 255), label=labels.classes[label])
    if len(present):
        axes.plot(recalls, curves[present].mean(axis=0), color=TEXT, linewidth=2, label="mean")
    if len(present) <= LEGEND_CLASSES:
        axes.legend(fontsize=8, ncols=1 + len(present) // 16)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("Precision and recall of masks at IoU 0.5", fontsize=11, color=TEXT, loc="left")
    return figure


def _shown(picture: NDArray) -> NDArray:
    """No larger than a page shows."""
    height, width = picture.shape[:2]
    scale = min(1.0, SHOWN_PIXELS / max(height, width))
    return resize_image(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _write(picture: NDArray, mask: Crop, color: Color, caption: str) -> None:
    """The caption on a plate of the colour at the top left corner of the mask's box; its first word alone where the
    plate would hide the neighbours, nothing where that is wider than the box too.
    """
    scale = max(0.35, min(picture.shape[:2]) / 1400)
    for text, times in ((caption, 1.5), (caption.split(" ")[0], 1.0)):
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        if width <= times * mask.pixels.shape[1]:
            break
    else:
        return
    left = int(np.clip(mask.left, 0, max(picture.shape[1] - width - 4, 0)))
    bottom = int(np.clip(mask.top, height + base + 2, picture.shape[0] - 1))
    cv2.rectangle(picture, (left, bottom - height - base - 2), (left + width + 4, bottom), color, -1)
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    cv2.putText(picture, text, (left + 2, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
