"""predict on images that are read, predicted and written in rows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_pipeline import LABELS, write_model

from components.__main__ import main
from components.commands import mask_files
from components.commands.predict import predict
from segmodels.data import large_images
from segmodels.data.large_images import ArrayRows
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.tasks.semantic import SemanticSettings
from segmodels.windows import SlidingWindow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("predict") / "model", steps=20)


def scenery(height: int, width: int) -> np.ndarray:
    """Blocks of the classes' colours with noise."""
    rng = np.random.default_rng(0)
    mask = (
        rng.integers(0, 3, (height // 50 + 1, width // 50 + 1)).repeat(50, axis=0).repeat(50, axis=1)[:height, :width]
    )
    return (np.array(LABELS.palette)[mask] + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["large.tif", "large.png"])
def test_the_mask_of_a_large_image_is_tiled_and_the_same(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_images, "LARGE", 10_000)
    monkeypatch.setattr(mask_files, "OVERLAY_SIDE", 300)
    (tmp_path / "images").mkdir()
    image = scenery(530, 1100)
    Image.fromarray(image).save(tmp_path / "images" / name)
    Image.fromarray(image[:64, :64]).save(tmp_path / "images" / "small.png")
    predict(str(model), tmp_path / "images", tmp_path / "out", window=128)
    predictor = Predictor(load_bundle(model), settings=SemanticSettings(sliding_window=SlidingWindow((128, 128))))
    expected = predictor.masks([image])[0]
    assert len(np.unique(expected)) >= 3
    with tifffile.TiffFile(tmp_path / "out" / "masks" / "large.tif") as file:
        assert file.pages[0].is_tiled
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    picture = Image.open(tmp_path / "out" / "masks" / "large.tif")
    np.testing.assert_array_equal(np.asarray(picture), expected)
    assert picture.mode == "P"
    assert picture.getpalette()[: 3 * len(LABELS.palette)] == [value for color in LABELS.palette for value in color]
    overlay = Image.open(tmp_path / "out" / "overlays" / "large.jpg")
    assert overlay.size == (300, 145)
    blended = Image.fromarray(image).resize((300, 145), Image.Resampling.BOX)
    color = Image.fromarray(np.array(LABELS.palette, dtype=np.uint8)[expected]).resize(
        (300, 145), Image.Resampling.NEAREST
    )
    assert (
        np.abs(np.asarray(overlay).astype(int) - (np.asarray(blended).astype(int) + np.asarray(color)) / 2).mean() < 10
    )  # what JPEG costs on noise
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"large.tif", "small.png"}


def test_masks_of_many_classes_have_16_bits(tmp_path: Path) -> None:
    labels = LabelMap(
        tuple(f"class {i}" for i in range(300)),
        tuple((i % 256, 0, 0) for i in range(300)),
        {i: i for i in range(300)},
        -1,
    )
    mask = np.arange(40 * 30, dtype=np.int16).reshape(40, 30) % 300
    mask_files.write_large(
        tmp_path, tmp_path, Path("image.tif"), ArrayRows(np.zeros((40, 30, 3), dtype=np.uint8)), mask, labels
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks" / "image.tif"), mask)


def test_large_images_that_cannot_be_predicted_are_named_and_nothing_half_written_is_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(large_images, "LARGE", 10_000)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(
        tmp_path / "images" / "cut.tif", scenery(300, 400), photometric="rgb", tile=(64, 64), compression="zlib"
    )
    Image.fromarray(scenery(64, 64)).save(tmp_path / "images" / "small.png")
    command = ["predict", "--model", str(model), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "expected at most 0.0 million without a sliding window: give one, as --window 512" in capsys.readouterr().err
    data = (tmp_path / "images" / "cut.tif").read_bytes()
    (tmp_path / "images" / "cut.tif").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    assert main([*command, "--window", "64"]) == 2
    assert "cut.tif is truncated or broken in rows" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["small.png"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_a_large_image(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from components.commands.predict import predict
from segmodels.data import large_images
large_images.LARGE = 2**18
small, large, model, out = map(Path, sys.argv[1:])
predict(str(model), small, out, window=128, overlap=0.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predict(str(model), large, out, window=128, overlap=0.0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    for name, height in (("small.tif", 600), ("large.tif", 3600)):
        tiles = (np.full((256, 256, 3), index % 256, dtype=np.uint8) for index in range(-(-height // 256) * 4))
        tifffile.imwrite(
            tmp_path / name,
            tiles,
            shape=(height, 1024, 3),
            dtype=np.uint8,
            photometric="rgb",
            tile=(256, 256),
            compression="zlib",
        )
    labels = LabelMap(tuple(f"class {i}" for i in range(40)), ((0, 0, 0),) * 40, {i: i for i in range(40)})
    model = write_model(tmp_path / "model", steps=0, labels=labels)
    command = [
        sys.executable,
        "-c",
        program,
        str(tmp_path / "small.tif"),
        str(tmp_path / "large.tif"),
        str(model),
        str(tmp_path / "out"),
    ]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert Image.open(tmp_path / "out" / "masks" / "large.tif").size == (1024, 3600)
    assert grown < 100, f"{grown} MB more for 3.7 million pixels of 40 classes; all probabilities would be 562 MB"
