"""Real pictures of other kinds than photographs in RGB, in the layout ``folder``."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.params.schema import IngestParams, PreprocessParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess
from components.steps.validate import validate
from segmodels.data.layouts import open_layout
from segmodels.data.shards import ShardReader


def test_electron_micrographs_stay_grey(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "membrane" / "data" / "membrane" / "train"
    for split, numbers in {"train": (0, 1, 2, 3), "val": (4,), "test": (5,)}.items():
        for number in numbers:
            for part, folder in (("image", "images"), ("label", "masks")):
                target = tmp_path / "set" / folder / split / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / part / f"{number}.png", target)
    (tmp_path / "set" / "classes.txt").write_text("membrane, 0\ncell, 255\n")
    folder = str(tmp_path / "set")
    ingest(IngestParams(source="folder", path=folder), tmp_path / "dataset", tmp_path / "cache")
    validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")
    preprocess(PreprocessParams(workers=1), tmp_path / "dataset", tmp_path / "validation", tmp_path / "shards")
    reader = ShardReader(tmp_path / "shards", "train")
    assert (len(reader), reader.channels, reader.dtype) == (4, 1, np.uint8)
    pixels = []
    for index in range(4):
        image, label = (
            cv2.imread(str(source / part / f"{index}.png"), cv2.IMREAD_GRAYSCALE) for part in ("image", "label")
        )
        np.testing.assert_array_equal(reader.image(index)[:, :, 0], image)
        np.testing.assert_array_equal(reader.annotation(index).classes, label == 255)
        pixels.append(image)
    assert abs(reader.statistics.mean[0] - np.mean(pixels)) < 1e-9


def test_objects_of_pascal_voc_have_the_classes_of_its_class_map(shared_data: Path, tmp_path: Path) -> None:
    voc = shared_data / "voc-labelme" / "VOCdevkit" / "VOC2012"
    parts = {"JPEGImages": "images", "SegmentationClass": "masks", "SegmentationObject": "objects"}
    for part, folder in parts.items():
        (tmp_path / folder).mkdir()
        (file,) = (voc / part).iterdir()
        shutil.copy(file, tmp_path / folder / file.name)
    names = (shared_data / "voc-labelme" / "class_names.txt").read_text().splitlines()
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    ids = np.array(Image.open(tmp_path / "objects" / "2011_000003.png"))
    Image.fromarray(np.where(ids == 255, 0, ids).astype(np.uint8)).save(tmp_path / "objects" / "2011_000003.png")
    layout = open_layout("folder", tmp_path)
    (sample,) = layout.samples()
    annotation = layout.annotation(sample)
    assert annotation is not None
    assert layout.read_image(sample).shape[:2] == annotation.size
    truth = np.array(Image.open(voc / "SegmentationClass" / "2011_000003.png"))
    assert [segment.id for segment in annotation.segments] == [id for id in np.unique(ids).tolist() if 0 < id < 255]
    for segment, mask in zip(annotation.segments, annotation.masks(), strict=True):
        np.testing.assert_array_equal(mask, ids == segment.id)
        assert np.unique(truth[mask]).tolist() == [segment.label]
        assert segment.area == mask.sum()
