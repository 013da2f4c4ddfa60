"""Datasets that are no photographs go through every step: volumes with negative values in NIfTI files, and satellite
images of four channels and 16 bits in TIFF files.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import mlflow
import nibabel
import numpy as np
import pytest
import tifffile
from small_pipeline import use_local_store

from components.commands.predict import predict
from components.params.checking import checked
from components.params.schema import (
    EvaluateParams,
    IngestParams,
    PreprocessParams,
    RegisterParams,
    TrainParams,
    ValidateParams,
)
from components.steps.evaluate import evaluate
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.validate import validate
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor

AFFINE = np.array([[-0.9, 0, 0, 40.0], [0, 0.9, 0, -30.0], [0, 0, 2.0, 12.0], [0, 0, 0, 1]])
NO_COLOUR = {"saturation": 0.0, "hue": 0.0, "scale": [0.9, 1.1], "flip": 0.5}


def write_volumes(root: Path, cases: int = 10) -> Path:
    """Two modalities of a ball, bright and dark, in noise about -300."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for number in range(cases):
        rng = np.random.default_rng(number)
        size = (24, 22 + 2 * (number % 2), 12)  # X, Y, Z as in the file
        center = np.array(size) * rng.uniform(0.4, 0.6, 3)
        grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
        inside = (((grid - center) / (7, 7, 4)) ** 2).sum(axis=-1) < 1
        values = np.stack([np.where(inside, 200, -300), np.where(inside, -900, -300)], axis=-1)
        values = (values + rng.normal(0, 60, values.shape)).astype(np.float32)
        for part, array in (("imagesTr", values), ("labelsTr", inside.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), root / part / f"case_{number}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "ball"}}))
    return root


def write_satellite_images(root: Path, images: int = 10) -> Path:
    """Four channels of 12 bits, of which the last alone tells water from land."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for number in range(images):
        rng = np.random.default_rng(number)
        water = cv2.resize(rng.integers(0, 2, (3, 4), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
        pixels = rng.integers(0, 4096, (48, 64, 4), dtype=np.uint16)
        pixels[:, :, 3] = np.where(water, 300, 3000) + rng.integers(0, 500, (48, 64))
        tifffile.imwrite(root / "images" / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
        cv2.imwrite(str(root / "masks" / f"{number}.png"), water)
    (root / "classes.txt").write_text("land\nwater\n")
    return root


def shards_of(root: Path, layout: str, folder: Path) -> ShardReader:
    given: dict[str, Any] = {"source": "folder", "path": str(root), "layout": layout}
    given["split"] = {"val": 0.2, "test": 0.2}
    ingest(checked(IngestParams, given), folder / "dataset", folder / "cache")
    validate(ValidateParams(workers=1), folder / "dataset", folder / "validation")
    preprocess(PreprocessParams(workers=1), folder / "dataset", folder / "validation", folder / "shards")
    return ShardReader(folder / "shards", "train")


def trained(folder: Path, **settings: Any) -> dict[str, float]:
    """The scores of the model that these settings train."""
    given = {"accelerator": "cpu", "precision": "float32", "batch_size": 2, "lr": 0.01, "schedule": "constant"}
    params = checked(TrainParams, {**given, **settings})
    train(params, folder / "shards", folder / "model", folder / "checkpoints")
    measuring = EvaluateParams(accelerator="cpu", overlays=1)
    return evaluate(measuring, folder / "shards", folder / "model", folder / "evaluation")


@pytest.mark.slow
def test_volumes_go_from_nifti_files_to_nifti_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_local_store(tmp_path, monkeypatch)
    root = write_volumes(tmp_path / "set")
    reader = shards_of(root, "nifti", tmp_path)
    assert (reader.channels, reader.dtype, reader.spatial_dims) == (2, np.float32, 3)
    assert reader.statistics.mean[0] < -200
    with pytest.raises(InputError, match=r"model 'unet' has no such option: .* vnet or attention_unet_original for"):
        trained(tmp_path, model="unet")
    metrics = trained(
        tmp_path,
        model="vnet",
        options={"widths": [4, 8]},
        loss={"cross_entropy": 1.0, "dice": 1.0},
        augment={"crop": [8, 16, 16], **NO_COLOUR},
        epochs=8,
    )
    assert metrics["mean_iou"] > 0.7
    assert metrics["mean_dice_per_case"] > 0.7
    assert metrics["mean_hausdorff_95"] < 10
    assert (tmp_path / "evaluation" / "pictures" / "best.png").is_file()
    with (tmp_path / "evaluation" / "per_case.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["ball"] * 2
    bundle = load_bundle(tmp_path / "model")
    assert (bundle.channels, bundle.spatial_dims) == (2, 3)

    folders = [tmp_path / name for name in ("shards", "model", "evaluation", "registration")]
    facts = register(RegisterParams(name="balls"), *folders)
    assert facts["export"] == (
        "float32 volumes (B, 2, D, H, W) to logits, free batch size, depth, height and width of at least 3 pixels"
    )
    card = (tmp_path / "registration" / "model_card.md").read_text()
    assert "float32 volumes of 2 channels of any size in" in card
    version = mlflow.pyfunc.load_model("models:/balls@champion")
    (images,), (masks,) = version.metadata.signature.inputs.inputs, version.metadata.signature.outputs.inputs
    assert (images.type, images.shape) == (np.float32, (-1, -1, -1, -1, 2))
    assert (masks.type, masks.shape) == (np.uint8, (-1, -1, -1, -1))
    assert np.asarray(version.input_example).shape == (1, 12, 16, 16, 2)
    volumes = np.stack([reader.image(index) for index in range(len(reader)) if reader.image(index).shape[1] == 22])
    expected = np.stack(Predictor(bundle).masks(volumes))
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(version.predict(volumes), expected)
    np.testing.assert_array_equal(version.predict(volumes[0].tolist()), expected[0])

    predict(str(tmp_path / "model"), root / "imagesTr", tmp_path / "out")
    shares = []
    for path in sorted((root / "imagesTr").iterdir()):
        predicted = nibabel.load(tmp_path / "out" / "masks" / path.name)
        truth = np.asarray(nibabel.load(root / "labelsTr" / path.name).dataobj)
        np.testing.assert_array_equal(predicted.affine, nibabel.load(path).affine)
        assert predicted.shape == truth.shape
        shares.append((np.asarray(predicted.dataobj) == truth).mean())
        assert (tmp_path / "out" / "overlays" / path.name.replace(".nii.gz", ".jpg")).is_file()
    assert len(shares) == 10
    assert np.mean(shares) > 0.9


def test_images_of_four_channels_and_16_bits_train_a_unet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_local_store(tmp_path, monkeypatch)
    root = write_satellite_images(tmp_path / "set")
    reader = shards_of(root, "folder", tmp_path)
    assert (reader.channels, reader.dtype, reader.spatial_dims) == (4, np.uint16, 2)
    assert 1000 < reader.statistics.mean[0] < 3000
    augment = {"crop": [32, 32], **NO_COLOUR}
    metrics = trained(tmp_path, model="unet", options={"widths": [4, 8]}, augment=augment, epochs=12)
    assert metrics["mean_iou"] > 0.9
    assert (tmp_path / "evaluation" / "pictures" / "worst.png").is_file()
    predict(str(tmp_path / "model"), root / "images", tmp_path / "out")
    for path in sorted((root / "masks").iterdir()):
        predicted = cv2.imread(str(tmp_path / "out" / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert predicted.shape[:2] == truth.shape
        assert (tmp_path / "out" / "overlays" / f"{path.stem}.jpg").is_file()
