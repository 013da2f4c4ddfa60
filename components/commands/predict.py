"""Turn a folder of images into masks and overlays."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from components.running.progress_bar import track
from components.running.wording import first_few
from segmodels.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from segmodels.inference.bundle import Bundle
    from segmodels.inference.predictor import Predictor

    Content = (
        np.ndarray | InputError | None
    )  # an image, what is wrong with it, or that it is too large to be read with others

THREADS = min(8, (os.cpu_count() or 1) + 2)
IMAGES_AT_ONCE, PIXELS_AT_ONCE = 8, 2**24


def predict(
    model: str,
    images: Path,
    out: Path,
    window: int | None = None,
    overlap: float = 0.5,
    weighting: str = "gaussian",
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    crf: bool = False,
) -> None:
    """Predict every image below a folder.

    Writes to ``out``, with the images' own names and subfolders:
        masks/NAME.png: class ids, with the classes' colours as palette (16-bit grey above 255 classes).
        overlays/NAME.jpg: the image with the classes' colours over it.
        classes.csv: id, class and colour.

    An image of more than 33.5 million pixels (``image_rows.LARGE``) is predicted row by row and needs ``window``,
    unless the model sees images at a fixed size. Its mask is masks/NAME.tif, tiled and deflated, its overlay has 4096
    pixels at most. With a TIFF file in grey or RGB, uncompressed or deflated, neither the image nor its mask is ever
    whole in memory; files of other kinds are read whole.

    Args:
        model: ``models:/NAME@champion``, ``models:/NAME/VERSION`` or the folder of a trained model.
        images: folder of images, or one image; other files in the folder are left alone.
        out: folder for the results; files that are there are replaced.
        window: side of a sliding window in pixels, for images too large to be predicted whole. None predicts whole
            images.
        overlap: least share of a window that it has in common with the next.
        weighting: of a window's pixels where windows overlap: gaussian or uniform.
        flip: average with the mirrored image.
        scales: average over these scales of the image, or of each window.
        crf: refine by the image's edges with a dense CRF (``DenseCRF``'s defaults); whole images only.

    Raises:
        InputError: no such model, no images, two images of one name; at the end, if images could not be read: which,
            the others are done.
        TransientError: the model registry does not answer.
    """
    folder, paths = _find(images, out)
    bundle = _load(model)

    import torch

    from components.commands.mask_files import write, write_classes
    from segmodels.inference.crf import DenseCRF
    from segmodels.inference.predictor import Predictor
    from segmodels.inference.sliding_window import SlidingWindow

    sliding = SlidingWindow((window, window), overlap, weighting) if window else None  # type: ignore[arg-type]  # it checks
    settings = {
        "flip": flip,
        "scales": scales,
        "sliding_window": sliding,
        "crf": DenseCRF() if crf else None,
    }
    predictor = Predictor(bundle, "cuda" if torch.cuda.is_available() else "cpu", settings)
    write_classes(out, bundle.labels)

    problems: list[str] = []
    large: list[Path] = []
    with ThreadPoolExecutor(THREADS) as pool:
        written: deque[Future[None]] = deque()
        for batch in _batches(track(_read_ahead(pool, folder, paths), "predicting", len(paths)), problems, large):
            for (path, image), mask in zip(batch, predictor.masks([image for _, image in batch]), strict=True):
                written.append(pool.submit(write, out, path, image, mask, bundle.labels))
            while len(written) > 2 * IMAGES_AT_ONCE:
                written.popleft().result()
        for future in written:
            future.result()
    for path in large:
        try:
            _predict_large(predictor, folder, path, out)
        except InputError as error:
            problems.append(str(error))
    done = len(paths) - len(problems)
    if problems:
        raise InputError(
            f"{len(problems)} of {len(paths)} images could not be predicted, the other {done} are in {out}:"
            f" {first_few(problems)}"
        )
    print(f"{done} images: masks and overlays are in {out}")


def _predict_large(predictor: Predictor, folder: Path, path: Path, out: Path) -> None:
    from components.commands.mask_files import write_large
    from segmodels.data.large_images import open_rows

    with open_rows(folder / path) as image:
        rows = (row for rows in predictor.rows(image) for row in rows)
        write_large(out, path, image, track(rows, f"predicting the rows of {path}", image.height), predictor.labels)


def _find(images: Path, out: Path) -> tuple[Path, list[Path]]:
    """The folder of the images, and their paths relative to it; none of an earlier result."""
    from segmodels.data.decoding import SUFFIXES

    if images.is_file():
        return images.parent, [Path(images.name)]
    if not images.is_dir():
        raise InputError(f"folder of images {images} is not there: check --images")
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path.relative_to(images) for path in found if not path.resolve().is_relative_to(out.resolve())]
    if not paths:
        raise InputError(f"folder {images} holds no image, expected files that end in {', '.join(SUFFIXES)}")
    first: dict[Path, Path] = {}
    for path in paths:
        if (other := first.setdefault(path.with_suffix(""), path)) != path:
            raise InputError(
                f"images {other} and {path} in {images} would both become {path.with_suffix('.png')}: rename one"
            )
    return images, paths


def _load(model: str) -> Bundle:
    from segmodels.inference.bundle import load_bundle

    if not model.startswith("models:/"):
        return load_bundle(model)
    from components.tracking.model_registry import download_bundle

    with TemporaryDirectory() as folder:
        return load_bundle(download_bundle(model, Path(folder)))


def _read_ahead(pool: ThreadPoolExecutor, images: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, Content]]:
    """Every path with its image, or what is wrong with it; a few images are read ahead of their use."""
    waiting: deque[tuple[Path, Future[Content]]] = deque()
    for path in paths:
        waiting.append((path, pool.submit(_read, images / path)))
        if len(waiting) > IMAGES_AT_ONCE:
            path, future = waiting.popleft()
            yield path, future.result()
    for path, future in waiting:
        yield path, future.result()


def _read(path: Path) -> Content:
    from segmodels.data.decoding import read_image
    from segmodels.data.large_images import is_large

    try:
        return None if is_large(path) else read_image(path)
    except InputError as error:
        return error


def _batches(
    items: Iterable[tuple[Path, Content]], problems: list[str], large: list[Path]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Images to be predicted together; the sentences about unreadable ones go to ``problems``, and large ones to
    ``large``.
    """
    batch: list[tuple[Path, np.ndarray]] = []
    for path, image in items:
        if isinstance(image, InputError):
            problems.append(str(image))
            continue
        if image is None:
            large.append(path)
            continue
        batch.append((path, image))
        if len(batch) == IMAGES_AT_ONCE or sum(image.shape[0] * image.shape[1] for _, image in batch) >= PIXELS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
