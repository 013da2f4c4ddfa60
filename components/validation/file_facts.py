"""Facts about the files of a sample, as their headers tell them."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.running.digests import file_md5
from segmodels.data.decoding import TURNED, lossy_format, orientation
from segmodels.data.nifti import displacement, is_nifti

MOST_HALF_TRANSPARENT = 0.5
"""Share of an alpha channel's pixels that are neither 0 nor 255; above it, it is no alpha but a band: near infrared."""

ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats that may hold several pictures one after another."""

NO_DATA = 42113
"""GDAL's TIFF tag of the value that stands for none, as text."""


def no_data(path: Path, pixels: NDArray) -> str | None:
    """The value that a TIFF file declares to stand for none, and the share of the pixels ``(H, W, C)`` that have it;
    None without any. Not looked for in 8 bits, and 0 does no harm.
    """
    if path.suffix.lower() not in (".tif", ".tiff") or pixels.dtype == np.uint8:
        return None
    from tifffile import TiffFile

    with suppress(Exception), TiffFile(path) as file:
        text = str(file.pages.first.tags.valueof(NO_DATA)).strip()
        share = float(np.mean(pixels == pixels.dtype.type(float(text))))
        return f"{text}, {share:.1%} of the values" if float(text) and share else None
    return None


@lru_cache(maxsize=64)
def voxel_shift(annotation: Path, image: Path) -> float | None:
    """How far the voxels of a label map lie from those of its volume, in voxels; None for other files."""
    return displacement(annotation, image) if is_nifti(annotation) and is_nifti(image) else None


@lru_cache(maxsize=64)
def of_file(part: str, path: Path) -> dict[str, Any]:
    """Hash, and mode and bit depth from the header where the file is a picture; cached, as samples may share an
    annotation file.
    """
    facts: dict[str, Any] = {f"{part}_md5": file_md5(path)}
    with suppress(Exception), Image.open(path) as picture:  # reading the sample tells what is wrong, if anything is
        coding = picture.tile[0].args if picture.tile else None
        raw = coding if isinstance(coding, str) else str(coding[0]) if coding else ""
        bits = re.search(r";(\d+)", raw)  # raw modes are such as L;4, RGB;16B
        turned = orientation(picture)
        facts |= {
            f"{part}_format": picture.format,
            f"{part}_orientation": turned if turned in TURNED else None,
            f"{part}_mode": picture.mode,
            f"{part}_bits": int(bits[1]) if bits else {"1": 1, "I": 32, "F": 32}.get(picture.mode, 8),
        }
        if part == "annotation":
            facts["annotation_format"] = lossy_format(path.read_bytes()) or picture.format
        if part == "annotation" and picture.mode in ("LA", "PA", "RGBA"):
            *others, alpha = (channel.getextrema() for channel in picture.split())
            facts["alpha_alone"] = alpha[0] != alpha[1] and all(low == high for low, high in others)
        if part == "image" and picture.format in ANIMATED:
            facts["pictures"] = getattr(picture, "n_frames", 1)
        if part == "image" and picture.format == "TIFF" and picture.mode in ("LA", "RGBA"):
            values = np.asarray(picture.getchannel("A"))
            facts["band_as_alpha"] = bool(np.mean((values > 0) & (values < 255)) > MOST_HALF_TRANSPARENT)
    return facts
