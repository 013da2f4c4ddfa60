"""NIfTI files as nibabel writes them: values, axes, spacing, geometry, damage."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from segmodels.data.nifti import is_nifti, read_label_volume, read_volume, require_same_axes, stem, write_nifti
from segmodels.errors import InputError

AFFINE = np.array([[-0.8, 0, 0, 90.0], [0, 0.7, 0.1, -126.0], [0, 0, 2.5, -72.0], [0, 0, 0, 1]])


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.fixture(params=[".nii", ".nii.gz"])
def volume(request, tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(0).normal(-300, 700, (5, 6, 7)).astype(np.float32)
    return save(tmp_path / f"case{request.param}", values), values


def test_a_volume_is_read_with_depth_first_and_its_spacing(volume: tuple[Path, np.ndarray]) -> None:
    path, values = volume
    read, spacing = read_volume(path)
    assert read.shape == (7, 6, 5, 1)
    assert read.dtype == np.float32
    assert read.min() < 0
    np.testing.assert_array_equal(read[..., 0], values.transpose(2, 1, 0))
    assert spacing == pytest.approx(nibabel.affines.voxel_sizes(AFFINE)[::-1], rel=1e-6)


def test_a_fourth_axis_is_channels_and_scaled_integers_are_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5, 2)).astype(np.int16)
    read, _ = read_volume(save(tmp_path / "a.nii", values))
    np.testing.assert_array_equal(read, values.transpose(2, 1, 0, 3))
    scaled = nibabel.Nifti1Image(values.astype(np.float64) / 8, AFFINE)
    scaled.header.set_data_dtype(np.int16)
    nibabel.save(scaled, tmp_path / "b.nii")
    read, _ = read_volume(tmp_path / "b.nii")
    np.testing.assert_allclose(read, values.transpose(2, 1, 0, 3) / 8, atol=0.01)


def test_lengths_are_millimetres_whatever_the_files_unit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.float32), np.diag([500.0, 500, 2000, 1]), "micron")
    assert read_volume(path)[1] == (2.0, 0.5, 0.5)


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, 4, 5))
    for number, dtype in enumerate((np.uint8, np.int16, np.float32)):
        read, _ = read_label_volume(save(tmp_path / f"{number}.nii.gz", labels.astype(dtype)))
        np.testing.assert_array_equal(read, labels.transpose(2, 1, 0))
    with pytest.raises(InputError, match=r"wrong\.nii holds values that are not whole numbers"):
        read_label_volume(save(tmp_path / "wrong.nii", labels.astype(np.float32) / 2))


def test_a_prediction_lies_where_its_volume_lies(volume: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = volume
    classes = np.random.default_rng(0).integers(0, 3, (7, 6, 5), dtype=np.uint8)
    write_nifti(tmp_path / "out.nii.gz", classes, path)
    out, given = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(path)
    np.testing.assert_array_equal(out.affine, given.affine)
    np.testing.assert_array_equal(np.asarray(out.dataobj), classes.transpose(2, 1, 0))
    assert out.get_data_dtype() == np.uint8
    assert out.header.get_zooms() == given.header.get_zooms()
    assert out.header.get_xyzt_units() == given.header.get_xyzt_units()
    np.testing.assert_array_equal(read_label_volume(tmp_path / "out.nii.gz")[0], classes)
    first = (tmp_path / "out.nii.gz").read_bytes()
    write_nifti(tmp_path / "out.nii.gz", classes, path)
    assert (tmp_path / "out.nii.gz").read_bytes() == first
    with pytest.raises(InputError, match=r"class map has the size \[5, 6, 6\], the volume .* \[5, 6, 7\]"):
        write_nifti(tmp_path / "small.nii", classes[:6], path)


def test_a_prediction_of_several_modalities_has_three_axes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((3, 4, 5, 2), np.float32))
    write_nifti(tmp_path / "out.nii", np.full((5, 4, 3), 300, np.int16), path)
    out = nibabel.load(tmp_path / "out.nii")
    assert out.shape == (3, 4, 5)
    assert (np.asarray(out.dataobj) == 300).all()
    np.testing.assert_array_equal(out.affine, nibabel.load(path).affine)


def test_what_is_no_volume_is_named(volume: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, values = volume
    with pytest.raises(InputError, match=r"none\.nii is not there"):
        read_volume(tmp_path / "none.nii")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"case\.nii(\.gz)? is truncated or broken"):
        read_volume(path)
    (tmp_path / "text.nii").write_text("no volume")
    with pytest.raises(InputError, match=r"text\.nii is truncated or broken"):
        read_volume(tmp_path / "text.nii")
    with pytest.raises(InputError, match=r"flat\.nii is a Nifti1Image of 2 axes, expected a NIfTI volume"):
        read_volume(save(tmp_path / "flat.nii", values[0]))
    values[0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"nan\.nii holds values that are not finite"):
        read_volume(save(tmp_path / "nan.nii", values))


def test_colours_and_complex_numbers_are_no_volume(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 5), [("R", np.uint8), ("G", np.uint8), ("B", np.uint8)])
    for read in (read_volume, read_label_volume):
        with pytest.raises(InputError, match=r"rgb\.nii holds colours, expected one real number for each voxel"):
            read(save(tmp_path / "rgb.nii", colours))
        with pytest.raises(InputError, match=r"phase\.nii holds values of the type complex64, expected one real"):
            read(save(tmp_path / "phase.nii", np.ones((3, 4, 5), np.complex64)))


def test_labels_at_no_distance_are_refused_before_surfaces_are_measured(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), AFFINE)
    image.header["pixdim"][3] = np.nan
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii has the lengths \[nan, .* correct pixdim"):
        read_label_volume(tmp_path / "a.nii")


def test_a_rounding_error_turns_no_oblique_volume_about(tmp_path: Path) -> None:
    """Half-way between two axes, 1e-6 decides whether the first axis goes to the right or to the front."""
    paths = []
    for name, angle in (("image.nii", np.pi / 4 + 1e-6), ("labels.nii", np.pi / 4 - 1e-6), ("turned.nii", np.pi / 3)):
        affine = np.eye(4)
        affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        paths.append(save(tmp_path / name, np.zeros((3, 4, 5), np.uint8), affine))
    image, labels, turned = paths
    require_same_axes(labels, image)
    with pytest.raises(InputError, match=r"turned\.nii has the axes ALS but .*labels\.nii RAS"):
        require_same_axes(turned, labels)


def test_names() -> None:
    assert [is_nifti(name) for name in ("a.nii", "a.NII.GZ", "a.gz", "a.png")] == [True, True, False, False]
    assert [stem(name) for name in ("x/a.b.nii", "a.nii.gz", "A.NII.GZ")] == ["a.b", "a", "A"]
