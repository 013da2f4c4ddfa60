"""The georeference of a GeoTIFF file (OGC 19-008r4): the tags that place its pixels on the Earth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def georeference(path: Path) -> list[tuple[Any, ...]]:
    """The tags of the first page as ``TiffWriter.write`` takes them for ``extratags``; none for other files, and for
    pictures that their orientation turns, as the tags are of the stored pixels.
    """
    if path.suffix.lower() not in SUFFIXES:
        return []
    from tifffile import TiffFile, TiffFileError

    try:
        with TiffFile(path) as file:
            tags = file.pages.first.tags
            if "GeoKeyDirectoryTag" not in tags or tags.valueof("Orientation", default=1) != 1:
                return []
            return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags if tag.code in TAGS]
    except (TiffFileError, OSError, ValueError, KeyError, IndexError):
        return []
