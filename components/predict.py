"""Turn a folder of images into masks and overlays."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from components.progress import track
from components.wording import first_few
from segmodels.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from segmodels.inference.bundle import Bundle
    from segmodels.labels import LabelMap

THREADS = min(8, (os.cpu_count() or 1) + 2)
IMAGES_AT_ONCE, PIXELS_AT_ONCE = 8, 2**24


def predict(model: str, images: Path, out: Path, window: int | None = None, flip: bool = False) -> None:
    """Predict every image below a folder.

    Writes to ``out``, with the images' own names and subfolders:
        masks/NAME.png: class ids, with the classes' colours as palette (16-bit grey above 255 classes).
        overlays/NAME.jpg: the image with the classes' colours over it.
        classes.csv: id, class and colour.

    Args:
        model: ``models:/NAME@champion``, ``models:/NAME/VERSION`` or the folder of a trained model.
        images: folder of images; other files in it are left alone.
        out: folder for the results; files that are there are replaced.
        window: side of a sliding window in pixels, for images too large to be predicted whole. None predicts whole images.
        flip: average with the mirrored image.

    Raises:
        InputError: no such model, no images, two images of one name; at the end, if images could not be read: which, the others are done.
        TransientError: the model registry does not answer.
    """
    paths = _find(images, out)
    bundle = _load(model)

    import torch

    from segmodels.inference.predictor import Predictor
    from segmodels.inference.sliding_window import SlidingWindow

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(bundle, device, flip=flip, sliding_window=SlidingWindow((window, window)) if window is not None else None)
    _write_classes(out, bundle.labels)

    problems: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        written: deque[Future[None]] = deque()
        for batch in _batches(track(_read_ahead(pool, images, paths), "predicting", len(paths)), problems):
            for (path, image), mask in zip(batch, predictor.masks([image for _, image in batch]), strict=True):
                written.append(pool.submit(_write, out, path, image, mask, bundle.labels))
            while len(written) > 2 * IMAGES_AT_ONCE:
                written.popleft().result()
        for future in written:
            future.result()
    done = len(paths) - len(problems)
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} images could not be predicted, the other {done} are in {out}: {first_few(problems)}")
    print(f"{done} images: masks and overlays are in {out}")


def _find(images: Path, out: Path) -> list[Path]:
    """Images below the folder, relative to it; none of an earlier result."""
    from segmodels.data.images import SUFFIXES

    if not images.is_dir():
        raise InputError(f"folder of images {images} is not there: check --images")
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path.relative_to(images) for path in found if not path.resolve().is_relative_to(out.resolve())]
    if not paths:
        raise InputError(f"folder {images} holds no image, expected files that end in {', '.join(SUFFIXES)}")
    first: dict[Path, Path] = {}
    for path in paths:
        if (other := first.setdefault(path.with_suffix(""), path)) != path:
            raise InputError(f"images {other} and {path} in {images} would both become {path.with_suffix('.png')}: rename one")
    return paths


def _load(model: str) -> Bundle:
    from segmodels.inference.bundle import load_bundle

    if not model.startswith("models:/"):
        return load_bundle(model)
    from components.registry import download_bundle

    with TemporaryDirectory() as folder:
        return load_bundle(download_bundle(model, Path(folder)))


def _read_ahead(pool: ThreadPoolExecutor, images: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | InputError]]:
    """Every path with its image, or what is wrong with it; a few images are read ahead of their use."""
    waiting: deque[tuple[Path, Future[np.ndarray | InputError]]] = deque()
    for path in paths:
        waiting.append((path, pool.submit(_read, images / path)))
        if len(waiting) > IMAGES_AT_ONCE:
            path, future = waiting.popleft()
            yield path, future.result()
    for path, future in waiting:
        yield path, future.result()


def _read(path: Path) -> np.ndarray | InputError:
    from segmodels.data.images import read_image

    try:
        return read_image(path)
    except InputError as error:
        return error


def _batches(items: Iterable[tuple[Path, np.ndarray | InputError]], problems: list[str]) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Images to be predicted together; the sentences about the others go to ``problems``."""
    batch: list[tuple[Path, np.ndarray]] = []
    for path, image in items:
        if isinstance(image, InputError):
            problems.append(str(image))
            continue
        batch.append((path, image))
        if len(batch) == IMAGES_AT_ONCE or sum(image.shape[0] * image.shape[1] for _, image in batch) >= PIXELS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(out: Path, path: Path, image: np.ndarray, mask: np.ndarray, labels: LabelMap) -> None:
    from PIL import Image

    from segmodels.plots import blend

    _save(mask_picture(mask, labels), out / "masks" / path.with_suffix(".png"))
    _save(Image.fromarray(blend(image, mask, labels, alpha=0.5)), out / "overlays" / path.with_suffix(".jpg"), quality=90)


def mask_picture(mask: np.ndarray, labels: LabelMap) -> Image.Image:
    """The mask (H, W) of class ids with the classes' colours as palette; 16-bit grey above 255 classes."""
    import numpy as np
    from PIL import Image

    if mask.dtype != np.uint8:
        return Image.fromarray(mask.astype(np.uint16))
    picture = Image.fromarray(mask)
    picture.putpalette(np.array(labels.palette, dtype=np.uint8).tobytes())
    return picture


def _save(picture: Image.Image, path: Path, **options: int) -> None:
    """Encode first, so that what appears under the name is whole."""
    data = io.BytesIO()
    picture.save(data, {".png": "PNG", ".jpg": "JPEG"}[path.suffix], **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data.getvalue())
    partial.replace(path)


def _write_classes(out: Path, labels: LabelMap) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "class", "red", "green", "blue"])
        table.writerows([i, name, *color] for i, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True)))
