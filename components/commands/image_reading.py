"""Images of a folder for a model: found, read ahead in threads, gathered into batches."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from segmodels.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from segmodels.inference.predictor import Predictor
    from segmodels.prompts import Prompt

    # an image, what is wrong with it, or that it is too large to be read with others
    Content = np.ndarray | InputError | None

THREADS = min(8, (os.cpu_count() or 1) + 2)
IMAGES_AT_ONCE, PIXELS_AT_ONCE = 8, 2**24


def find_images(images: Path, out: Path) -> tuple[Path, list[Path]]:
    """The folder of the images, and their paths relative to it, without those of an earlier result."""
    from segmodels.data import nifti
    from segmodels.data.decoding import SUFFIXES
    from segmodels.data.folder_files import files_below

    results = out / "masks" if images.is_file() else out
    if images.exists() and images.resolve().is_relative_to(results.resolve()):
        raise InputError(f"{images} lies in {out}, where the results go: give another --out")
    if images.is_file():
        return images.parent, [Path(images.name)]
    if not images.is_dir():
        raise InputError(f"folder of images {images} does not exist: check --images")
    found = [
        path
        for path in map(Path, files_below(images))
        if (path.suffix.lower() in SUFFIXES or nifti.is_nifti(path)) and not path.name.startswith(".")
    ]
    paths = [path for path in found if not (images / path).resolve().is_relative_to(out.resolve())]
    if not paths:
        raise InputError(
            f"folder {images} holds no image, expected files that end in {', '.join((*SUFFIXES, *nifti.SUFFIXES))}"
        )
    first: dict[Path, Path] = {}
    for path in paths:
        name = path.with_name(nifti.stem(path))
        if (other := first.setdefault(name, path)) != path:
            result = f"{name}.nii.gz" if nifti.is_nifti(path) else f"{name}.png"
            raise InputError(f"images {other} and {path} in {images} would both become {result}: rename one")
    return images, paths


def read_ahead(
    pool: ThreadPoolExecutor,
    read: Callable[[Path, Sequence[Path]], Content],
    images: Path,
    paths: Mapping[Path, Sequence[Path]],
) -> Iterator[tuple[Path, Content]]:
    """Every path with its image, or what is wrong with it; a few images are read ahead of their use.

    Args:
        paths: relative to ``images``, with the files of each, as ``cases`` gives them.
    """
    waiting: deque[tuple[Path, Future[Content]]] = deque()
    for path, files in paths.items():
        waiting.append((path, pool.submit(read, images / path, [images / file for file in files])))
        if len(waiting) > IMAGES_AT_ONCE:
            path, future = waiting.popleft()
            yield path, future.result()
    for path, future in waiting:
        yield path, future.result()


def read_image(
    predictor: Predictor,
    narrow: list[str],
    prompts: Sequence[Prompt] | None,
    path: Path,
    files: Sequence[Path] = (),
) -> Content:
    """The image as the model takes it. Images of other channels and types than RGB of 8 bits are always read whole.

    Args:
        narrow: takes the name of an image that becomes nearly black.
        prompts: must lie in the image.
        path: of the image, or of a case.
        files: of the case's modalities, where they are several.
    """
    from segmodels.data.decoding import converted, read_pixels
    from segmodels.data.image_form import NARROW
    from segmodels.data.large_images import is_large
    from segmodels.data.nifti import is_nifti, read_modalities

    channels, dtype = predictor.channels, predictor.dtype
    try:
        if is_nifti(path):  # no promptable model takes volumes
            volume, expected = read_modalities(files or [path]), predictor.volume_channels
            if volume.shape[-1] != expected:
                raise InputError(
                    f"volume {path} has {volume.shape[-1]} channels, expected {expected}: give every modality of a"
                    " case, on the fourth axis or as CASE_0000.nii.gz, CASE_0001.nii.gz, ..."
                )
            return converted(volume, expected, dtype, path)
        if predictor.spatial_dims == 3:
            raise InputError(f"{path} is an image, but the model takes volumes: give a NIfTI file")
        if (channels, dtype.name) == (3, "uint8") and is_large(path):
            return None
        pixels = read_pixels(path)
        if (pixels.dtype.name, dtype.name) == ("uint16", "uint8") and 0 < pixels.max() < NARROW:
            narrow.append(path.name)
        image = converted(pixels, channels, dtype, path)
    except InputError as error:
        return error
    try:
        predictor.check_prompts(prompts, image.shape[:-1])
    except InputError as error:
        return InputError(f"{path}: {error}")
    return image


def batches(
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
        if len(batch) == IMAGES_AT_ONCE or sum(math.prod(image.shape[:-1]) for _, image in batch) >= PIXELS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
