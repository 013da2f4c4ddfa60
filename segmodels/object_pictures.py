"""Objects as pictures: masks with outlines over an image, and truth and prediction side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels import run_lengths
from segmodels.labels import LabelMap
from segmodels.plots import LEGEND_CLASSES, SHOWN_PIXELS, TEXT, WRONG, Comparison, resize_image
from segmodels.run_lengths import Crop, Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Color = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
OUTCOMES: dict[str, Color] = {"found": (44, 160, 44), "missed": (255, 187, 40), "wrong": WRONG}
"""What became of an object, and its colour."""

CAPTION_PIXELS = 200  # of the shorter side; in smaller pictures captions would hide the objects
CELL_PIXELS = 320  # of the longer side of a picture that is shown beside others


def draw_masks(
    image: NDArray,
    masks: Sequence[Crop],
    colors: Sequence[Color],
    alpha: float,
    captions: Sequence[str] = (),
    zoom: float = 1.0,
) -> NDArray:
    """Masks in their colours over ``image`` (H, W, 3) uint8 RGB, the last on top, each with an outline: white, around
    light colours black.

    Args:
        alpha: opacity of the colours.
        captions: a line beside each mask, shortened to what stands before its colon, or left out, where the mask is
            small; none in pictures whose shorter side is below 200 pixels.
        zoom: how many times smaller the picture will be shown; captions are drawn larger by that.
    """
    picture = np.ascontiguousarray(image).copy()
    thick = max(1, round(min(picture.shape[:2]) / 300))
    for (left, top, pixels), color in zip(masks, colors, strict=True):
        part = picture[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        part[pixels] = np.rint((1 - alpha) * part[pixels] + alpha * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(
            pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
        )
        cv2.drawContours(picture, outlines, -1, BLACK if _lightness(color) > 200 else WHITE, thick)
    if min(picture.shape[:2]) >= CAPTION_PIXELS:
        for mask, color, caption in zip(masks, colors, captions, strict=False):
            _write(picture, mask, color, caption, zoom)
    return picture


def drawing_size(size: Size) -> tuple[Size, float]:
    """Height and width at which an image of ``size`` is drawn beside others, and how many times smaller it will be
    shown. Small images are enlarged by a whole number, so that captions find room.
    """
    times = max(1, min(math.ceil(CAPTION_PIXELS / min(size)), SHOWN_PIXELS // max(size)))
    return (times * size[0], times * size[1]), max(1.0, times * max(size) / CELL_PIXELS)


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
        image: ``(H, W, 3)`` uint8 RGB.
        truth, prediction: drawn, at the image's ``drawing_size``.
        outcomes: masks, at the image's own size, of true objects that were found or missed and of wrong predictions,
            each with a key of ``OUTCOMES``.
        classes: train ids to name in the legend.
    """
    names = [name for _, name in outcomes]
    title = ", ".join(f"{names.count(name)} {name}" for name in OUTCOMES)
    own = (image.shape[0], image.shape[1])
    size, _ = drawing_size(own)
    image = enlarged(image, size)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    masks = [run_lengths.resized(mask, own, size) for mask, _ in outcomes]
    found = draw_masks(grey, masks, [OUTCOMES[name] for name in names], 0.6)
    pictures = {"image": image, "truth": truth, "prediction": prediction, title: found}
    legend = {labels.classes[c]: labels.palette[c] for c in sorted(set(classes))}
    return Comparison(caption, {name: _shown(picture) for name, picture in pictures.items()}, legend | OUTCOMES)


def enlarged(image: NDArray, size: Size) -> NDArray:
    """The image at ``size``, a multiple of its own: every pixel becomes a square."""
    times = size[0] // image.shape[0]
    return image.repeat(times, axis=0).repeat(times, axis=1)


def precision_recall(curves: NDArray, labels: LabelMap) -> Figure:
    """Precision over recall of each class in its colour, and of their mean in black; the legend has the means of the
    curves, AP50.

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
        name = f"{labels.classes[label]}  {curves[label].mean():.2f}"
        axes.plot(recalls, curves[label], color=(red / 255, green / 255, blue / 255), label=name)
    if len(present):
        mean = curves[present].mean(axis=0)
        axes.plot(recalls, mean, color=TEXT, linewidth=2, label=f"mean  {mean.mean():.2f}")
    if 0 < len(present) <= LEGEND_CLASSES:
        figure.legend(loc="outside right upper", fontsize=8, ncols=1 + len(present) // 21, frameon=False)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(-0.01, 1.02))
    axes.set_title("Precision and recall of masks at IoU 0.5, and AP50", fontsize=11, color=TEXT, loc="left")
    return figure


def _shown(picture: NDArray) -> NDArray:
    """No larger than a page shows."""
    height, width = picture.shape[:2]
    scale = min(1.0, SHOWN_PIXELS / max(height, width))
    return resize_image(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _lightness(color: Color) -> float:
    return float(np.dot(color, (0.299, 0.587, 0.114)))


def _write(picture: NDArray, mask: Crop, color: Color, caption: str, zoom: float) -> None:
    """The caption on a plate of the colour above the mask's highest pixel; what stands before its colon alone where
    the plate would hide the neighbours, nothing where that is wider than the mask's box too.
    """
    scale = max(0.35 * zoom, min(picture.shape[:2]) / 1400)
    caption = " ".join(caption.split())  # OpenCV would begin a new line
    for text, times in ((caption, 1.5), (caption.split(":")[0], 1.0)):
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        if width <= times * mask.pixels.shape[1]:
            break
    else:
        return
    highest = mask.left + int(mask.pixels[0].argmax())
    left = int(np.clip(min(highest, mask.left + mask.pixels.shape[1] - width), 0, picture.shape[1] - width - 4))
    left = max(left, 0)
    bottom = int(np.clip(mask.top, height + base + 2, picture.shape[0] - 1))
    cv2.rectangle(picture, (left, bottom - height - base - 2), (left + width + 4, bottom), color, -1)
    ink = BLACK if _lightness(color) > 140 else WHITE
    cv2.putText(picture, text, (left + 2, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
