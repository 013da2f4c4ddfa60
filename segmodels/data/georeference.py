"""What places the pixels of a picture on the Earth: tags of GeoTIFF files (OGC 19-008r4), or a world file beside it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from segmodels.data.decoding import picture_orientation

TAGS = {
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
}
"""Code -> name."""

SUFFIXES = (".tif", ".tiff")

PROJECTION = ".prj"
"""Ending of the file that names the coordinates' system."""


def georeference(path: Path) -> list[tuple[Any, ...]]:
    """The tags of the first page as ``TiffWriter.write`` takes them for ``extratags``; none for other files, and for
    pictures that their orientation turns, as the tags are of the stored pixels.
    """
    if path.suffix.lower() not in SUFFIXES:
        return []
    from tifffile import TiffFile

    with suppress(Exception), TiffFile(path) as file:  # of a damaged file what can be read is of use
        tags = file.pages.first.tags
        if "GeoKeyDirectoryTag" not in tags or tags.valueof("Orientation", default=1) != 1:
            return []
        return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags if tag.code in TAGS]
    return []


def files_beside(picture: Path, suffix: str) -> dict[str, bytes]:
    """World file and projection that ``picture`` has beside it: ending -> content, for a mask with the ending
    ``suffix``. None for pictures that their orientation turns.

    A world file ends in the first and the last letter of the picture's ending and a w (``.pgw`` of ``.png``), in the
    whole ending and a w (``.pngw``), or in ``.wld``.
    """
    own = picture.suffix.lower()
    if not own:
        return {}
    world = _first(picture, _world_suffix(own), f"{own}w", ".wld")
    if world is None or picture_orientation(picture) is not None:
        return {}
    found = {_world_suffix(suffix): world, PROJECTION: _first(picture, PROJECTION)}
    return {ending: file.read_bytes() for ending, file in found.items() if file is not None}


def _world_suffix(suffix: str) -> str:
    """``.pgw`` of ``.png``."""
    return f".{suffix[1:2]}{suffix[-1:]}w"


def _first(picture: Path, *suffixes: str) -> Path | None:
    """The first file of the picture's name with one of these endings, in small or capital letters."""
    paths = (picture.with_suffix(form) for suffix in suffixes for form in (suffix, suffix.upper()))
    return next((path for path in paths if path.is_file()), None)
