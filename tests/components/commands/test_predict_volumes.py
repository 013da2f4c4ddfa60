"""The command predict on NIfTI files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medical_trees import nifti
from PIL import Image
from small_pipeline import use_local_store
from volume_model import write_volume_model

from components.commands.predict import predict
from components.params.checking import checked
from components.params.schema import IngestParams, PreprocessParams, TrainParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.steps.validate import validate
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor

AFFINE = np.array([[-0.9, 0, 0, 40.0], [0, 0.9, 0, -30.0], [0, 0, 2.0, 12.0], [0, 0, 0, 1]])


@pytest.mark.parametrize("window", [None, 8])
def test_volumes_become_volumes_with_the_same_affine(tmp_path: Path, window: int | None) -> None:
    write_volume_model(tmp_path / "model")
    rng = np.random.default_rng(0)
    volumes = {f"sub/case_{n}": rng.normal(-300, 200, (12, 10 + n, 9, 2)).astype(np.float32) for n in range(2)}
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name, values in volumes.items():
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "images" / f"{name}.nii.gz")
    predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out", window=window)
    predictor = Predictor(load_bundle(tmp_path / "model"))
    for name, values in volumes.items():
        made, given = (nibabel.load(tmp_path / part / f"{name}.nii.gz") for part in ("out/masks", "images"))
        np.testing.assert_array_equal(made.affine, given.affine)
        assert made.shape == values.shape[:3]
        assert (tmp_path / "out" / "overlays" / f"{name}.jpg").is_file()
        if window is None:
            (result,) = predictor.results([values.transpose(2, 1, 0, 3)])
            np.testing.assert_array_equal(np.asarray(made.dataobj), result.classes.transpose())
    assert sorted(path.name for path in (tmp_path / "out/masks/sub").iterdir()) == ["case_0.nii.gz", "case_1.nii.gz"]
    nibabel.save(nibabel.Nifti1Image(values[..., :1].repeat(3, axis=3), AFFINE), tmp_path / "images" / "three.nii")
    with pytest.raises(
        InputError, match=r"1 of 3 images could not be predicted.*three\.nii has 3 channels, expected 2"
    ):
        predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out")
    if window is not None:
        return
    (tmp_path / "images" / "three.nii").rename(tmp_path / "three.nii")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / "picture.png")
    with pytest.raises(InputError, match=r"picture\.png is an image, but the model takes volumes"):
        predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out")
    (tmp_path / "parts").mkdir()
    for name, values in volumes.items():
        for number in range(2):
            path = tmp_path / "parts" / f"{Path(name).name}_{number:04}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values[..., number], AFFINE), path)
    predict(str(tmp_path / "model"), tmp_path / "parts", tmp_path / "merged")
    for name in volumes:
        made, other = (
            nibabel.load(tmp_path / path)
            for path in (f"merged/masks/{Path(name).name}.nii.gz", f"out/masks/{name}.nii.gz")
        )
        np.testing.assert_array_equal(made.affine, other.affine)
        np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(other.dataobj))
    assert len(list((tmp_path / "merged" / "overlays").iterdir())) == 2
    turned = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(nibabel.Nifti1Image(turned, AFFINE @ np.diag([-1.0, 1, 1, 1])), path)
    with pytest.raises(InputError, match=r"0001\.nii\.gz has the axes .* expected the same order of voxels"):
        predict(str(tmp_path / "model"), tmp_path / "parts", tmp_path / "merged")
    path.unlink()
    with pytest.raises(InputError, match=r"case_1_0000\.nii\.gz has 1 channels, expected 2: give every modality"):
        predict(str(tmp_path / "model"), tmp_path / "parts", tmp_path / "merged")


def test_a_model_of_images_predicts_a_volume_slice_by_slice(tmp_path: Path) -> None:
    write_volume_model(tmp_path / "model", spatial_dims=2)
    values = np.random.default_rng(0).normal(-300, 200, (12, 10, 9, 2)).astype(np.float32)
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "images" / "a.nii.gz")
    predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out")
    made = nibabel.load(tmp_path / "out" / "masks" / "a.nii.gz")
    np.testing.assert_array_equal(made.affine, nibabel.load(tmp_path / "images" / "a.nii.gz").affine)
    slices = Predictor(load_bundle(tmp_path / "model")).results(list(values.transpose(2, 1, 0, 3)))
    np.testing.assert_array_equal(np.asarray(made.dataobj).transpose(), [result.classes for result in slices])
    assert (tmp_path / "out" / "overlays" / "a.jpg").is_file()
    with pytest.raises(InputError, match="the model or the input is of volumes: leave it out"):
        predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out", annotations="coco")


def test_a_model_of_slices_with_their_neighbours_takes_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the layout read as channels of an image, predict takes from the volume; regrouped classes change nothing."""
    use_local_store(tmp_path, monkeypatch)
    root = nifti(tmp_path / "set")
    asked = {"source": "folder", "path": str(root), "layout": "nifti_slices_25d", "split": {"val": 0.3, "test": 0.3}}
    ingest(
        checked(IngestParams, asked | {"classes": {"heart": ["left atrium"]}}), tmp_path / "data", tmp_path / "cache"
    )
    validate(ValidateParams(workers=1, min_side=4), tmp_path / "data", tmp_path / "validation")
    preprocess(PreprocessParams(workers=1), tmp_path / "data", tmp_path / "validation", tmp_path / "shards")
    small = {"model": "unet", "options": {"widths": [4, 8]}, "epochs": 1, "batch_size": 2, "accelerator": "cpu"}
    augment = {"crop": None, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    train(
        checked(TrainParams, small | {"augment": augment}), *(tmp_path / one for one in ("shards", "model", "states"))
    )
    predict(str(tmp_path / "model"), root / "imagesTr", tmp_path / "out")
    reader, predictor = ShardReader(tmp_path / "shards", "test"), Predictor(load_bundle(tmp_path / "model"))
    assert (predictor.channels, predictor.volume_channels) == (3, 1)
    expected = [result.classes for result in predictor.results([reader.image(number) for number in range(4)])]
    case = reader.id(0).partition("/")[0]
    made = np.asarray(nibabel.load(tmp_path / "out" / "masks" / f"{case}.nii.gz").dataobj)
    np.testing.assert_array_equal(made.transpose(), expected)
    (tmp_path / "other").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, 3), np.float32), AFFINE), tmp_path / "other" / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz has 3 channels, expected 1"):
        predict(str(tmp_path / "model"), tmp_path / "other", tmp_path / "out2")


@pytest.mark.parametrize(("spatial_dims", "form"), [(3, "volumes of 2 channels float32"), (2, "images of 2 channels")])
def test_a_crf_of_other_images_than_rgb_is_refused(tmp_path: Path, spatial_dims: int, form: str) -> None:
    write_volume_model(tmp_path / "model", spatial_dims=spatial_dims)
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 2), np.float32), AFFINE), tmp_path / "images" / "a.nii.gz")
    with pytest.raises(InputError, match=f"crf is given for {form}.*: leave out crf"):
        predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out", crf=True)
