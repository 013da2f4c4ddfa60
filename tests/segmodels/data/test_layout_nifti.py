"""Layout nifti: sets in the form of the Medical Segmentation Decathlon and of nnU-Net."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segmodels.data.layouts import open_layout
from segmodels.errors import InputError

AFFINE = np.diag([0.7, 0.8, 2.5, 1.0])


def write(root: Path, *, modalities: int = 1, apart: bool = False, labels: object = None, cases: int = 3) -> Path:
    """A dataset of random volumes with negative values; ``apart``: a file for each modality."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    (root / "imagesTs").mkdir()
    rng = np.random.default_rng(0)
    for number in range(cases):
        values = rng.normal(-200, 300, (6, 7, 8, modalities)).astype(np.float32)
        name = f"heart_{number:03d}"
        if apart:
            for modality in range(modalities):
                file = root / "imagesTr" / f"{name}_{modality:04d}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(values[..., modality], AFFINE), file)
        else:
            shape = values[..., 0] if modalities == 1 else values
            nibabel.save(nibabel.Nifti1Image(shape, AFFINE), root / "imagesTr" / f"{name}.nii.gz")
        ids = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(ids, AFFINE), root / "labelsTr" / f"{name}.nii.gz")
    (root / "imagesTr" / "._heart_000.nii.gz").write_text("left by an archive of macOS")
    facts = {"name": "Heart", "labels": labels or {"0": "background", "1": "left atrium", "2": "aorta"}}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def test_a_decathlon_set_is_read(tmp_path: Path) -> None:
    layout = open_layout("nifti", write(tmp_path / "set", modalities=2))
    samples = list(layout.samples())
    assert layout.labels.classes == ("background", "left atrium", "aorta")
    assert [sample.id for sample in samples] == ["heart_000", "heart_001", "heart_002"]
    assert samples[0].image == "imagesTr/heart_000.nii.gz"
    assert samples[0].files == ("labelsTr/heart_000.nii.gz",)
    assert {(sample.split, sample.group == sample.id) for sample in samples} == {(None, True)}
    image, annotation = layout.read_image(samples[1]), layout.annotation(samples[1])
    stored = np.asarray(nibabel.load(tmp_path / "set" / samples[1].image).dataobj)
    np.testing.assert_array_equal(image, stored.transpose(2, 1, 0, 3))
    assert (image.shape, image.dtype) == ((8, 7, 6, 2), np.float32)
    assert image.min() < 0
    ids = np.asarray(nibabel.load(tmp_path / "set" / samples[1].files[0]).dataobj)
    np.testing.assert_array_equal(annotation.classes, ids.transpose(2, 1, 0))
    assert annotation.classes.dtype == np.uint8
    assert annotation.spacing == pytest.approx((2.5, 0.8, 0.7))


def test_modalities_in_files_of_their_own_are_channels_and_names_may_come_first(tmp_path: Path) -> None:
    named = {"aorta": 2, "background": 0, "left atrium": 1, "ignore": 3}
    apart = open_layout("nifti", write(tmp_path / "a", modalities=3, apart=True, labels=named))
    together = open_layout("nifti", write(tmp_path / "b", modalities=3))
    assert apart.labels.classes == together.labels.classes
    assert apart.labels.ids == {0: 0, 1: 1, 2: 2, 3: 255}
    for one, other in zip(apart.samples(), together.samples(), strict=True):
        assert one.id == other.id
        assert one.files[1:] == tuple(f"imagesTr/{one.id}_000{modality}.nii.gz" for modality in (1, 2))
        np.testing.assert_array_equal(apart.read_image(one), together.read_image(other))
        np.testing.assert_array_equal(apart.annotation(one).classes, together.annotation(other).classes)


def test_without_label_maps_nothing_is_annotated(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    for path in (root / "labelsTr").iterdir():
        path.unlink()
    layout = open_layout("nifti", root)
    assert [layout.annotation(sample) for sample in layout.samples()] == [None] * 3


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no imagesTr, expected imagesTr/, labelsTr/ and dataset\.json"):
        open_layout("nifti", tmp_path)
    root = write(tmp_path / "set", modalities=2, apart=True)
    layout = open_layout("nifti", root)
    first = next(iter(layout.samples()))
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), AFFINE), root / "imagesTr/heart_000_0001.nii.gz")
    with pytest.raises(InputError, match=r"heart_000_0000\.nii\.gz have the sizes \[8, 7, 6\], \[2, 2, 2\]"):
        layout.read_image(first)
    nibabel.save(nibabel.Nifti1Image(np.full((6, 7, 8), 9, np.uint8), AFFINE), root / "labelsTr/heart_000.nii.gz")
    with pytest.raises(InputError, match=r"labelsTr/heart_000\.nii\.gz.*unknown labels \[9\]"):
        layout.annotation(first)
    (root / "imagesTr/heart_002_0001.nii.gz").rename(root / "imagesTr/heart_002_0002.nii.gz")
    with pytest.raises(InputError, match=r"1 of 3 cases have other modalities .* \(heart_002 has 0000, 0002\)"):
        list(layout.samples())
    (root / "imagesTr/heart_002_0002.nii.gz").rename(root / "imagesTr/heart_002_0001.nii.gz")
    (root / "labelsTr/heart_002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 cases in .* have only one of volume and label map: heart_002"):
        list(layout.samples())
    for text in ("{", '{"labels": [1, 2]}', '{"labels": {"whole": [1, 2]}}', "{}"):
        (root / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=r"dataset\.json cannot be understood \(.*\), expected .*: correct it"):
            _ = open_layout("nifti", root).labels
    (root / "dataset.json").write_text('{"labels": {"background": 0, "whole": [1, 2]}}')  # a region of nnU-Net
    with pytest.raises(InputError, match=r"'whole' is the region \[1, 2\], not one label: name each label alone"):
        _ = open_layout("nifti", root).labels


def test_files_whose_voxels_lie_in_another_order_are_one_sentence(tmp_path: Path) -> None:
    root = write(tmp_path / "set", modalities=2, apart=True)
    layout = open_layout("nifti", root)
    sample = next(iter(layout.samples()))
    for file, read in ((sample.files[0], layout.annotation), (sample.files[1], layout.read_image)):
        turned = nibabel.load(root / file)
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), AFFINE @ np.diag([-1.0, 1, 1, 1])), root / file)
        with pytest.raises(InputError, match=rf"{file} has the axes LAS but .*_0000\.nii\.gz RAS, expected the same"):
            read(sample)
