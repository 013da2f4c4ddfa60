"""Prompts from outside: predict --points and --boxes, the server's tensors and queries, and label without any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from object_scenes import DIGITS, digit_scenes
from small_pipeline import LABELS, write_model
from small_server import served

from components.__main__ import main
from components.commands.label import label
from components.commands.predict import predict
from segmodels.data.layouts import open_layout
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.inference.predictor import Predictor
from segmodels.models.registry import create_model
from segmodels.prompts import parse_prompts
from segmodels.results import Instances
from segmodels.tasks.registry import create_task


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segment Anything without training, whose every mask is good enough."""
    torch.manual_seed(0)
    options = {"encoder_options": {"image_size": 64, "out_channels": 32}}
    network = create_model("sam_tiny", 1, **options)
    with torch.no_grad():
        network.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.9)
        for layer in network.mask_decoder.output_hypernetworks_mlps:
            layer.layers[-1].weight.mul_(100)
            layer.layers[-1].bias.mul_(100)
    folder = tmp_path_factory.mktemp("prompts") / "digits"
    task = create_task("promptable", DIGITS, {"grid": 3, "quality": 0.0, "stability": 0.0, "overlap": 0.9})
    facts: dict[str, Any] = {"mean": (110.0,) * 3, "std": (60.0,) * 3, "lineage": {}}
    save_bundle(folder, network, name="sam_tiny", options=options, task=task, **facts)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    for name, image in zip(("a.png", "deep/b.png"), digit_scenes(2)[0], strict=True):
        cv2.imwrite(str(folder / name), np.ascontiguousarray(image[..., ::-1]))
    return folder


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[TestClient]:
    with served(str(model)) as (client, _):
        yield client


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_predict_answers_points_and_boxes_in_every_image(model: Path, images: Path, tmp_path: Path) -> None:
    command = ["predict", "--model", str(model), "--images", str(images), "--out", str(tmp_path)]
    assert main([*command, "--points", "20,30;50,40,0", "44,20", "--boxes", "10,10,40,50", "30,5,60,40"]) == 0
    found = rows(tmp_path / "masks/deep/b.json")
    predictor = Predictor(load_bundle(model))
    prompts = parse_prompts(["20,30;50,40,0", "44,20"], ["10,10,40,50", "30,5,60,40"])
    (expected,) = predictor.results([digit_scenes(2)[0][1]], prompts=[prompts])
    assert found == json.loads(expected.files(predictor.labels)[".json"])
    assert [row["class"] for row in found] == ["object", "object"]
    assert (tmp_path / "overlays/a.jpg").exists()


def test_predict_without_prompts_finds_everything(model: Path, images: Path, tmp_path: Path) -> None:
    predict(str(model), images, tmp_path)
    found = rows(tmp_path / "masks/a.json")
    assert found
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)


def test_points_outside_an_image_name_it_and_models_without_prompts_refuse_them(
    model: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"2 of 2 images .*a.png: point \(70, 3\) lies outside, .* 64 x 64 pixels"):
        predict(str(model), images, tmp_path, points=("70,3",))
    with pytest.raises(InputError, match=r"^box .* has no area"):
        predict(str(model), images, tmp_path, boxes=("30,5,20,40",))
    other = write_model(tmp_path / "unet", steps=0)
    with pytest.raises(InputError, match="points or boxes are given, but the model's task, semantic, takes none"):
        predict(str(other), images, tmp_path, points=("7,3",))


def asked(**tensors: list[list[float]]) -> dict[str, Any]:
    """A request for the two scenes with these tensors of prompts."""
    pixels = np.stack(digit_scenes(2)[0])
    inputs = [{"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}]
    for name, own in tensors.items():
        inputs.append({"name": name, "datatype": "FP32", "shape": [len(own), len(own[0])], "data": own})
    return {"inputs": inputs}


def test_the_server_takes_prompts_as_tensors(model: Path, client: TestClient) -> None:
    described = client.get("/v2/models/digits").json()["inputs"]
    assert [(tensor["name"], tensor["shape"][1:]) for tensor in described] == [
        ("images", [-1, -1, 3]),
        ("points", [5]),
        ("boxes", [6]),
    ]
    request = asked(points=[[1, 0, 44, 20, 1], [0, 0, 20, 30, 1], [0, 0, 50, 40, 0]], boxes=[[0, 1, 10, 10, 40, 50]])
    answer = client.post("/v2/models/digits/infer", json=request)
    assert answer.status_code == 200, answer.text
    outputs = {tensor["name"]: tensor["data"] for tensor in answer.json()["outputs"]}
    predictor = Predictor(load_bundle(model))
    prompts = [
        [*parse_prompts(["20,30;50,40,0"], []), *parse_prompts([], ["10,10,40,50"])],
        parse_prompts(["44,20"], []),
    ]
    expected = predictor.task.tensors(predictor.results(digit_scenes(2)[0], prompts=prompts))
    assert outputs["image"] == [0, 0, 1]
    assert outputs["masks"] == [mask.decode() for mask in expected["masks"]]
    np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"points": [[2, 0, 3, 3, 1]]}, "input 'points' has a row for image 2 and object 0, expected images 0 to 1"),
        ({"points": [[0, 0.5, 3, 3, 1]]}, "image 0 and object 0.5"),
        ({"points": [[0, 0, 99, 3, 1]]}, "point (99, 3) lies outside"),
        ({"points": [[0, 0, 3, 3, 0.5]]}, "point (3, 3) has the label 0.5, expected 1"),
        ({"points": [[0, 0, 3, 3]]}, "expected FP32 of shape [K, 5]: image, object, x, y"),
        ({"boxes": [[0, 0, 9, 3, 3, 9]]}, "box (9, 3, 3, 9) has no area"),
        ({"boxes": [[0, 0, 1, 1, 3, 9], [0, 0, 1, 1, 4, 9]]}, "object 0 of image 0 has two boxes"),
        ({"masks": [[0.0]]}, "expected exactly one tensor: 'images', and beside it at most 'points' and 'boxes'"),
        ({"points": [[0, 0, 3, 3, 1]] * 1001}, "request has 1001 points and boxes, expected at most 1000"),
    ],
)
def test_wrong_tensors_of_prompts_are_answered_with_a_sentence(
    client: TestClient, tensors: dict[str, Any], message: str
) -> None:
    answer = client.post("/v2/models/digits/infer", json=asked(**tensors))
    assert answer.status_code == (413 if "1001" in message else 400)
    assert message in answer.json()["error"]


def test_the_server_takes_prompts_of_an_image_file_in_its_address(
    model: Path, client: TestClient, images: Path
) -> None:
    data = (images / "a.png").read_bytes()
    answer = client.post("/predict", content=data, params={"points": ["20,30", "44,20"]})
    predictor = Predictor(load_bundle(model))
    (expected,) = predictor.results(digit_scenes(1)[0], prompts=[parse_prompts(["20,30", "44,20"], [])])
    assert answer.json() == json.loads(expected.files(predictor.labels)[".json"])
    wrong = client.post("/predict", content=data, params={"boxes": "50,3,20,40"})
    assert wrong.status_code == 400
    assert "has no area" in wrong.json()["error"]


def test_label_proposes_objects_as_a_dataset_and_keeps_masks_that_are_there(
    model: Path, images: Path, tmp_path: Path
) -> None:
    label(str(model), images, tmp_path)
    layout = open_layout("folder", tmp_path)
    assert layout.labels.classes == ("background", "object")
    assert layout.labels.things == {1}
    samples = {sample.id: sample for sample in layout.samples()}
    assert sorted(samples) == ["a", "deep/b"]
    annotation = layout.annotation(samples["a"])
    predictor = Predictor(load_bundle(model))
    (expected,) = predictor.results(digit_scenes(1)[0])
    assert isinstance(expected, Instances)
    masks = np.stack([expected.mask(number) for number in range(len(expected))])
    assert annotation is not None
    np.testing.assert_array_equal(annotation.masks(), masks)
    np.testing.assert_array_equal(annotation.classes, masks.any(axis=0))
    np.testing.assert_array_equal(layout.read_image(samples["deep/b"]), digit_scenes(2)[0][1])

    corrected = tmp_path / "masks/a.png"
    cv2.imwrite(str(corrected), np.zeros((64, 64), np.uint8))
    before = corrected.read_bytes()
    cv2.imwrite(str(tmp_path / "images/c.png"), digit_scenes(3)[0][2])
    label(str(model), tmp_path / "images", tmp_path)  # in its place: an image came, the others have masks
    assert corrected.read_bytes() == before
    assert len(list(open_layout("folder", tmp_path).samples())) == 3


def test_label_names_the_images_in_which_it_finds_nothing(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_: Predictor, pictures: list[np.ndarray]) -> list[Instances]:
        return [Instances.of_masks(np.zeros((0, *picture.shape[:2]), bool), [], []) for picture in pictures]

    monkeypatch.setattr(Predictor, "results", nothing)
    label(str(model), images, tmp_path)
    said = capsys.readouterr().out
    assert "no object was found in 2 images (a.png, deep/b.png): add their objects, or keep them as" in said
    assert "2 images have proposals: correct" in said


def test_label_by_a_champion_of_classes_writes_its_masks_and_refuses_a_dataset_of_others(
    model: Path, images: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "unet", steps=1)
    label(str(other), images, tmp_path / "out")
    layout = open_layout("folder", tmp_path / "out")
    assert layout.labels.classes == LABELS.classes
    (sample, _) = layout.samples()
    annotation = layout.annotation(sample)
    assert annotation is not None
    np.testing.assert_array_equal(annotation.classes, Predictor(load_bundle(other)).masks(digit_scenes(1)[0])[0])
    assert not (tmp_path / "out/objects").exists()
    with pytest.raises(InputError, match=r"has the classes grass, .* but the model knows background, object"):
        label(str(model), images, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
@pytest.mark.parametrize("labelled", [False, True])
def test_label_refuses_another_picture_of_a_name_in_the_dataset(tmp_path: Path, name: str, labelled: bool) -> None:
    for folder, file, value in (("src", name, 9), ("out/images", "a.png", 5), *[("out/masks", "a.png", 0)] * labelled):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / file), np.full((64, 64, 3), value, np.uint8))
    before = (tmp_path / "out/images/a.png").read_bytes()
    with pytest.raises(InputError, match=rf"src/{name} is another picture than \S+out/images/a\.png, .*: rename one$"):
        label("no model", tmp_path / "src", tmp_path / "out")
    assert (tmp_path / "out/images/a.png").read_bytes() == before


def test_label_takes_a_mask_of_any_ending_for_a_mask(model: Path, images: Path, tmp_path: Path) -> None:
    label(str(model), images, tmp_path)
    cv2.imwrite(str(tmp_path / "masks/a.tif"), np.zeros((64, 64), np.uint8))
    (tmp_path / "masks/a.png").unlink()
    label(str(model), images, tmp_path)
    assert not (tmp_path / "masks/a.png").exists()
