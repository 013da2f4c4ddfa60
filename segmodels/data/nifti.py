"""NIfTI files: volumes, label maps and the geometry of both, by nibabel (extra ``medical``).

A NIfTI array is ``(X, Y, Z)``, here a volume is ``(D, H, W)``: Z, Y, X. Voxels keep the order of the file. The affine
holds their place in the patient; ``write_nifti`` copies it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.data.damage import decoding
from segmodels.data.limits import require_size
from segmodels.errors import InputError

SUFFIXES = (".nii", ".nii.gz")

ROUNDING = 1e-4
"""Label ids that a file scales are read with this error at most: 0.99999997 is 1."""

SAME_PLACE = 1e-3
"""Entries of the affines of two files that differ by less are equal: millimetres, or millimetres per voxel."""

MOST_DEFLATED = 1032
"""Bytes that one byte of a gzip file can stand for (RFC 1951: 258 for 2 bits)."""

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_nifti(path: str | Path) -> bool:
    """Whether the file's name is that of a NIfTI file."""
    return str(path).lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    name = Path(path).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def read_volume(path: str | Path) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Intensities ``(D, H, W, C)`` as the file scales them, and millimetres between voxels along D, H and W.

    A fourth axis of the file holds channels (modalities).

    Raises:
        InputError: missing, truncated or broken, another number of axes, or values that are not finite or no real
            numbers (colours); names the file.
    """
    image = _load(path)
    values = _values(image, path).astype(np.float32)
    volume = np.ascontiguousarray(values.transpose(2, 1, 0, 3) if values.ndim == 4 else values.transpose()[..., None])
    if not np.isfinite(volume).all():
        raise InputError(f"volume {path} holds values that are not finite (NaN or infinity): replace them")
    return volume, _spacing(image)


def read_modalities(files: Sequence[str | Path]) -> NDArray[np.float32]:
    """The volumes of one case as one, ``(D, H, W, C)``: each file has a modality, or several as its channels.

    Raises:
        InputError: as ``read_volume``, or the files differ in their size or in the order of their voxels.
    """
    volumes = [read_volume(file)[0] for file in files]
    for file in files[1:]:
        require_same_axes(file, files[0])
    if len({volume.shape[:3] for volume in volumes}) > 1:
        sizes = ", ".join(str(list(volume.shape[:3])) for volume in volumes)
        raise InputError(f"modalities of {files[0]} have the sizes {sizes}, expected one size: replace them")
    return volumes[0] if len(volumes) == 1 else np.concatenate(volumes, axis=-1)


def read_label_volume(path: str | Path) -> tuple[NDArray[np.int32], tuple[float, ...]]:
    """Label ids ``(D, H, W)``, and millimetres between voxels along these axes.

    Raises:
        InputError: as ``read_volume``, values that are not whole numbers, or lengths that are none.
    """
    image = _load(path)
    values = _values(image, path)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(f"label map {path} has {values.ndim} axes, expected 3: replace it")
    labels = np.rint(values)
    if not np.allclose(labels, values, rtol=0, atol=ROUNDING):  # NaN is not close to anything
        raise InputError(f"label map {path} holds values that are not whole numbers, expected label ids: correct it")
    spacing = _spacing(image)
    if not np.isfinite(spacing).all():
        raise InputError(
            f"label map {path} has the lengths {list(spacing)} mm between voxels along D, H and W, expected numbers:"
            " correct pixdim in its header"
        )
    return np.ascontiguousarray(labels.transpose()).astype(np.int32), spacing


def require_same_axes(path: str | Path, volume: str | Path) -> None:
    """Check that the voxels of two files lie in the same order: left to right, or right to left.

    Raises:
        InputError: they do not, as far as the affines tell; names both files.
    """
    import nibabel

    own, other = (_load(one).affine for one in (path, volume))
    found, expected = ("".join(map(str, nibabel.aff2axcodes(affine))) for affine in (own, other))
    # half-way between two axes a rounding error decides on the code
    if found != expected and "None" not in found + expected and not np.allclose(own, other, rtol=0, atol=SAME_PLACE):
        raise InputError(
            f"{path} has the axes {found} but {volume} {expected}, expected the same order of voxels: bring both into"
            " one orientation (nibabel.as_closest_canonical)"
        )


def displacement(path: str | Path, volume: str | Path) -> float:
    """How far the voxels of a file lie from those of the same indices of ``volume``, in voxels of the latter and as far
    as the affines tell: the most of all corners.

    Raises:
        InputError: as ``read_volume``.
    """
    own, other = _load(path), _load(volume)
    if not np.linalg.det(other.affine):
        return 0.0
    corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in own.shape[:3]))]).T
    return float(np.abs((np.linalg.inv(other.affine) @ own.affine @ corners - corners)[:3]).max())


def volume_depth(path: str | Path) -> int:
    """D of a volume, from its header.

    Raises:
        InputError: as ``read_volume``.
    """
    return int(_load(path).shape[2])


def write_nifti(path: str | Path, classes: NDArray, like: str | Path) -> None:
    """Write a class map ``(D, H, W)`` with the affine, orientation and units of the volume ``like``.

    Raises:
        InputError: the map has another size than ``like``.
    """
    import nibabel

    image = _load(like)
    volume = classes.transpose()
    if volume.shape != image.shape[:3]:
        raise InputError(
            f"class map has the size {list(volume.shape)}, the volume {like} {list(image.shape[:3])}, expected the same"
            " size"
        )
    dtype = np.uint8 if volume.min() >= 0 and volume.max() <= 255 else np.int16
    header = image.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    nibabel.save(type(image)(volume.astype(dtype), image.affine, header), str(path))


def _load(path: str | Path) -> Any:
    """The file's header; its values are read when they are asked for."""
    try:
        import nibabel
    except ModuleNotFoundError:
        raise InputError(
            f"{path} is a NIfTI file, expected nibabel to read it: pip install 'segmodels[medical]'"
        ) from None
    with decoding(path):
        try:
            image: Any = nibabel.load(str(path))
        except FileNotFoundError:
            raise InputError(f"file {path} is not there: restore it or remove its sample from the dataset") from None
    if not isinstance(image, nibabel.Nifti1Pair) or image.ndim not in (3, 4):
        kind = f"{type(image).__name__} of {len(image.shape)} axes"
        raise InputError(f"file {path} is a {kind}, expected a NIfTI volume of 3 axes, or 4 with channels: convert it")
    if (dtype := image.get_data_dtype()).kind not in "iuf":
        values = "colours" if dtype.names else f"values of the type {dtype}"
        raise InputError(f"file {path} holds {values}, expected one real number for each voxel: convert it")
    require_size(image.shape[:3], path, image.shape[3] if image.ndim == 4 else 1)
    stated = math.prod(image.shape) * image.get_data_dtype().itemsize
    size = Path(image.file_map["image"].filename or path).stat().st_size
    if stated > size * (MOST_DEFLATED if str(path).lower().endswith(".gz") else 1):
        raise InputError(f"file {path} is truncated ({size:,} bytes for {stated:,} bytes of values): replace it")
    return image


def _values(image: Any, path: str | Path) -> NDArray:
    with decoding(path):
        return np.asanyarray(image.dataobj)


def _spacing(image: Any) -> tuple[float, ...]:
    factor = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    return tuple(float(length) * factor for length in reversed(image.header.get_zooms()[:3]))
