"""Objects and panoptic maps as files for COCO's tools: pycocotools and panopticapi read what predict writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from object_models import registered
from object_scenes import DIGITS, digit_scenes
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.commands.coco_results import CocoResults
from components.commands.predict import predict
from segmodels.data import large_images
from segmodels.data.decoding import ORIENTATION, read_pixels
from segmodels.data.geometry import upright
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model, known_arguments
from segmodels.results import ClassMap, Instances
from segmodels.tasks.registry import create_task

ANIMALS = LabelMap(
    ("ground", "cat", "dog"), ((0, 0, 0), (9, 9, 9), (5, 5, 5)), {1: 0, 17: 1, 18: 2}, things=frozenset({1, 2})
)


def test_objects_are_read_by_pycocotools_and_the_truth_has_an_average_precision_of_one(tmp_path: Path) -> None:
    _, annotations = digit_scenes(3)
    task = create_task("instance", DIGITS)
    written = CocoResults(tmp_path, tmp_path, DIGITS)
    names = ["a/000000000139.jpg", "000000000007.jpg", "000000000632.jpg"]
    for name, annotation in zip(names, annotations, strict=True):
        written.add(Path(name), task.truth(annotation))
    written.close()
    truth = json.loads((tmp_path / "images.json").read_text())
    assert {row["file_name"]: row["id"] for row in truth["images"]} == {name: int(Path(name).stem) for name in names}
    truth["annotations"] = [
        row
        | {"id": number, "iscrowd": 0, "area": float(coco_mask.area(row["segmentation"]))}
        | {"bbox": coco_mask.toBbox(row["segmentation"]).tolist()}
        for number, row in enumerate(json.loads((tmp_path / "results.json").read_text()), start=1)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    whole = COCO(str(tmp_path / "truth.json"))
    masks = whole.loadRes(str(tmp_path / "results.json"))
    assert [row["area"] for row in masks.dataset["annotations"]] == [row["area"] for row in truth["annotations"]]
    assert average_precision(whole, masks, "segm") == 1.0
    assert average_precision(whole, whole.loadRes(str(tmp_path / "boxes.json")), "bbox") == 1.0


def average_precision(truth: COCO, found: COCO, kind: str) -> float:
    counted = COCOeval(truth, found, kind)
    counted.evaluate()
    counted.accumulate()
    counted.summarize()
    return float(counted.stats[0])


def test_without_an_object_in_any_image_the_images_are_the_results(tmp_path: Path) -> None:
    _, (annotation,) = digit_scenes(1)
    truth = create_task("instance", DIGITS).truth(annotation)
    nothing = Instances.of_masks(np.zeros((0, *truth.size), bool), [], [])
    for folder, found in (("truth", truth), ("none", nothing)):
        written = CocoResults(tmp_path, tmp_path / folder, DIGITS)
        written.add(Path("1.png"), found)
        assert written.close() == (found is nothing)
    assert json.loads((tmp_path / "none/results.json").read_text()) == []
    whole = COCO(str(tmp_path / "truth/images.json"))
    whole = whole.loadRes(str(tmp_path / "truth/results.json"))
    assert average_precision(whole, COCO(str(tmp_path / "none/images.json")), "segm") == 0.0


def test_categories_have_the_ids_of_the_dataset(tmp_path: Path) -> None:
    _, (annotation,) = digit_scenes(1)
    found = create_task("instance", DIGITS).truth(annotation)
    labels = np.where(np.arange(len(found)) % 2, 1, 2)
    written = CocoResults(tmp_path, tmp_path, ANIMALS)
    written.add(Path("pond.png"), replace(found, labels=labels))
    written.add(Path("mask.png"), ClassMap(np.zeros((4, 4), np.uint8)))
    written.close()
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["category_id"] for row in rows] == [17 if label == 1 else 18 for label in labels]
    assert {row["image_id"] for row in rows} == {1}
    loaded = COCO(str(tmp_path / "images.json"))
    assert {row["id"]: row["name"] for row in loaded.loadCats(loaded.getCatIds())} == {17: "cat", 18: "dog"}


def test_panoptic_maps_are_written_as_panopticapi_reads_them(tmp_path: Path) -> None:
    _, annotations = digit_scenes(2)
    task = create_task("panoptic", DIGITS)
    written = CocoResults(tmp_path, tmp_path, DIGITS)
    maps = {"deep/b.jpg": task.truth(annotations[0]), "a.png": task.truth(annotations[1])}
    for name, found in maps.items():
        written.add(Path(name), found)
    written.close()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    categories = {row["id"]: row for row in content["categories"]}
    names = {row["id"]: row["file_name"] for row in content["images"]}
    assert {row["name"] for row in categories.values() if not row["isthing"]} == {DIGITS.classes[0]}
    for row in content["annotations"]:
        found = maps[names[row["image_id"]]]
        pixels = np.asarray(Image.open(tmp_path / "panoptic" / row["file_name"])).astype(np.int64)
        ids = pixels @ np.array([1, 256, 65536])  # rgb2id of panopticapi
        np.testing.assert_array_equal(ids, found.ids)
        assert {info["id"]: info["area"] for info in row["segments_info"]} == {
            segment.id: int((found.ids == segment.id).sum()) for segment in found.segments
        }
        assert [DIGITS.ids[info["category_id"]] for info in row["segments_info"]] == [s.label for s in found.segments]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_results_of_a_turned_photo_lie_over_its_stored_pixels(orientation: int, tmp_path: Path) -> None:
    """As COCO's annotations do; ``--annotations coco`` and layout ``coco_export`` agree (test_predict_formats)."""
    _, (annotation,) = digit_scenes(1)
    stored = annotation.cropped((slice(0, 60), slice(0, 40)))
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    Image.fromarray(stored.classes).save(tmp_path / "a.png", exif=tag)
    seen = stored.changed(lambda map: upright(map, orientation))
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png")[..., 0], seen.classes)  # as predict shows the model
    written = CocoResults(tmp_path, tmp_path, DIGITS)
    written.add(Path("a.png"), create_task("instance", DIGITS).truth(seen))
    written.close()
    rows = COCO(str(tmp_path / "images.json")).loadRes(str(tmp_path / "results.json"))
    (image,) = rows.dataset["images"]
    assert (image["height"], image["width"]) == stored.size
    found = [(rows.annToMask(row), row["bbox"]) for row in rows.dataset["annotations"]]
    boxes = [row["bbox"] for row in json.loads((tmp_path / "boxes.json").read_text())]
    assert len(found) == len(boxes) == len(stored.segments) > 1
    for (mask, around), box, segment in zip(found, boxes, seen.segments, strict=True):
        np.testing.assert_array_equal(mask, stored.masks([segment])[0])
        np.testing.assert_allclose(around, box)
    written = CocoResults(tmp_path, tmp_path, DIGITS)
    written.add(Path("a.png"), create_task("panoptic", DIGITS).truth(seen))
    written.close()
    ids = np.asarray(Image.open(tmp_path / "panoptic" / "a.png")).astype(np.int64) @ np.array([1, 256, 65536])
    (row,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    for info in row["segments_info"]:
        own = ids == info["id"]
        assert info["area"] == own.sum()
        assert info["bbox"] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(own.astype(np.uint8)))).tolist()
    classes = np.zeros(256, np.uint8)
    for info in row["segments_info"]:
        classes[info["id"]] = DIGITS.ids[info["category_id"]]
    np.testing.assert_array_equal(classes[ids], stored.classes)


@pytest.mark.parametrize("largest", [large_images.LARGE, 64 * 100], ids=["small", "large"])
@pytest.mark.parametrize(("model", "task"), [("centers_tiny", "instance"), ("kernels_tiny", "panoptic")])
def test_predict_writes_objects_of_windows(
    model: str, task: str, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_images, "LARGE", largest)
    images, _ = digit_scenes(2)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.tile(image, (2, 1, 1))).save(tmp_path / "images" / f"{number}.png")
    settings = {"score": 0.0} | ({"flip": True} if task == "instance" else {})
    with registered():
        own = create_task(task, DIGITS, settings)
        options = known_arguments(model, own.model_arguments(DIGITS))
        save_bundle(
            tmp_path / "model",
            create_model(model, **options),
            name=model,
            options=options,
            task=own,
            mean=(128.0,) * 3,
            std=(64.0,) * 3,
            lineage={},
        )
        if largest < 64 * 128:
            with pytest.raises(InputError, match=r"image has 128 x 64 pixels, expected .* without a sliding window"):
                predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out")
        with pytest.raises(InputError, match=f"--crf is given, but the model is of {task} segmentation, which has no"):
            predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out", crf=True)
        predict(str(tmp_path / "model"), tmp_path / "images", tmp_path / "out", window=64, overlap=0.25, crf=False)
        predictor = Predictor(
            load_bundle(tmp_path / "model"), settings=settings | {"sliding_window": {"size": [64, 64], "overlap": 0.25}}
        )
        expected = predictor.results([np.tile(image, (2, 1, 1)) for image in images])
    for number, result in enumerate(expected):
        for suffix, content in result.files(DIGITS).items():
            assert (tmp_path / "out/masks" / f"{number}{suffix}").read_bytes() == content
        assert (tmp_path / "out/overlays" / f"{number}.jpg").is_file()
    if task == "instance":
        rows = json.loads((tmp_path / "out/results.json").read_text())
        assert len(rows) == sum(map(len, expected)) > 0
    else:
        assert len(json.loads((tmp_path / "out/panoptic.json").read_text())["annotations"]) == 2
