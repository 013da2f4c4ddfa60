"""serve: requests and responses of the Open Inference Protocol, version 2 (kserve/open-inference-protocol,
open_inference_rest.yaml).
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tifffile
import torch
from fastapi.testclient import TestClient
from PIL import Image
from small_pipeline import OPTIONS
from small_server import served

from segmodels.inference.bundle import copy_bundle, load_bundle, save_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task
from segmodels.tasks.semantic import SemanticSettings

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


def of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """JSON schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TENSOR = {
    "name": TEXT,
    "datatype": {
        "enum": [
            "BOOL",
            "UINT8",
            "UINT16",
            "UINT32",
            "UINT64",
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "FP16",
            "FP32",
            "FP64",
        ]
    },
}
SERVER = of({"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}})
MODEL = of(
    {
        "name": TEXT,
        "platform": TEXT,
        "inputs": many(of({**TENSOR, "shape": many(WHOLE)})),
        "outputs": many(of({**TENSOR, "shape": many(WHOLE)})),
    },
    {"versions": many(TEXT)},
)
INFERENCE = of(
    {
        "model_name": TEXT,
        "outputs": many(
            of({**TENSOR, "shape": many({"type": "integer", "minimum": 1}), "data": many({"type": "number"})})
        ),
    },
    {"model_version": TEXT, "id": TEXT, "parameters": {"type": "object"}},
)
ERROR = of({"error": {"type": "string", "minLength": 10}})


def images(count: int = 2, height: int = 24, width: int = 37) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def request(pixels: np.ndarray, nested: bool = False, **fields: Any) -> dict[str, Any]:
    data = (pixels if nested else pixels.ravel()).tolist()
    return {"inputs": [{"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": data}], **fields}


def infer(client: TestClient, body: Any, path: str = "/v2/models/scenes/infer") -> Any:
    return client.post(path, content=body if isinstance(body, bytes | str) else json.dumps(body))


def test_server_and_model_describe_themselves(client: TestClient) -> None:
    server = client.get("/v2").json()
    jsonschema.validate(server, SERVER)
    description = client.get("/v2/models/scenes").json()
    jsonschema.validate(description, MODEL)
    assert description["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert description["outputs"] == [{"name": "masks", "datatype": "UINT8", "shape": [-1, -1, -1]}]
    (version,) = description["versions"]
    assert client.get(f"/v2/models/scenes/versions/{version}").json() == description


def test_health_of_server_and_model(client: TestClient) -> None:
    for path, answer in {
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/scenes/ready": {"name": "scenes", "ready": True},
    }.items():
        assert (client.get(path).status_code, client.get(path).json()) == (200, answer)


@pytest.mark.parametrize("nested", [False, True])
def test_masks_are_those_of_the_predictor(client: TestClient, model: Path, nested: bool) -> None:
    pixels = images()
    response = infer(client, request(pixels, nested, id="42", outputs=[{"name": "masks"}], parameters={"any": 1}))
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = response.json()
    jsonschema.validate(answer, INFERENCE)
    (version,) = client.get("/v2/models/scenes").json()["versions"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("scenes", version, "42")
    (masks,) = answer["outputs"]
    assert (masks["name"], masks["datatype"], masks["shape"]) == ("masks", "UINT8", [2, 24, 37])
    np.testing.assert_array_equal(
        np.reshape(masks["data"], masks["shape"]), Predictor(load_bundle(model)).masks(pixels)
    )
    assert (
        infer(client, request(pixels), f"/v2/models/scenes/versions/{version}/infer").json()["outputs"]
        == answer["outputs"]
    )
    assert "id" not in infer(client, request(pixels)).json()


def test_more_than_255_classes_are_int16(tmp_path: Path) -> None:
    count = 300
    labels = LabelMap(
        tuple(f"class {index}" for index in range(count)),
        tuple((index % 256, index // 256, 0) for index in range(count)),
        {},
        ignore_index=-1,
    )
    mean, std = (127.0,) * 3, (60.0,) * 3
    model = create_model("unet", count, **OPTIONS)
    save_bundle(
        tmp_path / "many",
        model,
        name="unet",
        options=OPTIONS,
        task=create_task("semantic", labels),
        mean=mean,
        std=std,
        lineage={},
    )
    with served(str(tmp_path / "many")) as (client, _):
        assert client.get("/v2/models/many").json()["outputs"][0]["datatype"] == "INT16"
        (masks,) = infer(client, request(images(1)), "/v2/models/many/infer").json()["outputs"]
        assert masks["datatype"] == "INT16"
        np.testing.assert_array_equal(
            np.reshape(masks["data"], (24, 37)), Predictor(load_bundle(tmp_path / "many")).masks(images(1))[0]
        )


def changed(**fields: Any) -> dict[str, Any]:
    """A request whose tensor differs in some fields; None removes one."""
    whole = request(images(1, 4, 5))
    tensor = whole["inputs"][0] | fields
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "request is not JSON"),
        (b"\xff\xfe\x00", "request is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([1], "request is a JSON list, expected an object"),
        ({}, r"inputs are \[\], expected exactly one tensor: 'images'"),
        ({"inputs": 3}, "inputs of the request must be a list of objects, got 3"),
        (changed(name="pictures"), r"inputs are \['pictures'\], expected exactly one tensor: 'images'"),
        (
            {**changed(), "outputs": [{"name": "logits"}]},
            "output 'logits' is requested, the model has one output: 'masks'",
        ),
        ({**changed(), "id": 42}, "id of the request is 42, expected a string"),
        (changed(data=None), "input 'images' lacks data"),
        (changed(shape=None, datatype=None), "input 'images' lacks shape, datatype"),
        (changed(datatype="FP32"), "datatype 'FP32', expected 'UINT8'"),
        (changed(shape=[4, 5, 3]), r"shape \[4, 5, 3\], expected \[N, height, width, 3\]"),
        (changed(shape=[1, 4, 5, 4]), r"shape \[1, 4, 5, 4\], expected \[N, height, width, 3\]"),
        (changed(shape=[0, 4, 5, 3]), "all positive"),
        (changed(shape=[1, 4, 5.0, 3]), "all positive"),
        (changed(shape=[1, 10**400, 1, 3]), "all positive and below 2.31"),
        (changed(shape=[1, 4, 6, 3]), r"has 60 values of shape \[60\], its shape \[1, 4, 6, 3\] holds 72"),
        (changed(data=images(1, 5, 4).tolist()), r"has 60 values of shape \[1, 5, 4, 3\]"),
        (changed(data=[[1, 2], [3]]), "is not regular"),
        (changed(data=[256] * 60), "other values than integers 0 to 255"),
        (changed(data=[-1] * 60), "other values than integers 0 to 255"),
        (changed(data=[0.5] * 60), "other values than integers 0 to 255"),
        (changed(data=["0"] * 60), "other values than integers 0 to 255"),
        (changed(data=[True] * 60), "other values than integers 0 to 255"),
        (changed(data=[2**70] * 60), "other values than integers 0 to 255"),
    ],
)
def test_wrong_requests_are_answered_with_400_and_a_sentence(client: TestClient, body: Any, said: str) -> None:
    response = infer(client, body)
    assert response.status_code == 400
    jsonschema.validate(response.json(), ERROR)
    assert re.search(said, response.json()["error"])


def test_other_models_and_versions_are_not_here(client: TestClient) -> None:
    for path in (
        "/v2/models/other",
        "/v2/models/other/ready",
        "/v2/models/scenes/versions/7",
        "/v2/models/scenes/versions/7/ready",
        "/v3",
    ):
        response = client.get(path)
        assert response.status_code == 404
        jsonschema.validate(response.json(), ERROR)
    assert infer(client, request(images()), "/v2/models/other/infer").json() == {
        "error": "model 'other' is not served here: ask for 'scenes'"
    }
    assert infer(client, request(images()), "/v2/models/scenes/versions/7/infer").status_code == 404
    assert client.delete("/v2/models/scenes").status_code == 405


def test_a_tensor_with_more_pixels_than_allowed_is_refused_by_its_shape_alone(client: TestClient) -> None:
    response = infer(
        client, {"inputs": [{"name": "images", "shape": [10, 10**6, 10**6, 3], "datatype": "UINT8", "data": []}]}
    )
    assert response.status_code == 413
    assert "expected at most 0.2: send fewer or smaller images" in response.json()["error"]


def test_a_model_that_fails_is_500_and_the_server_goes_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    with served(str(model)) as (client, live):
        assert live.current is not None
        with monkeypatch.context() as broken:
            broken.setattr(live.current.predictor, "results", fail)
            response = infer(client, request(images()))
            assert (response.status_code, response.json()) == (
                500,
                {"error": "prediction failed (MemoryError): see the server's log"},
            )
        assert infer(client, request(images())).status_code == 200


def test_until_a_model_is_loaded_the_server_is_live_and_not_ready(model: Path) -> None:
    with served(str(model), loaded=False) as (client, live):
        assert client.get("/v2/health/live").status_code == 200
        assert (client.get("/v2/health/ready").status_code, client.get("/v2/health/ready").json()) == (
            503,
            {"ready": False},
        )
        for response in (
            client.get("/v2/models/scenes"),
            client.get("/v2/models/scenes/ready"),
            infer(client, request(images())),
        ):
            assert (response.status_code, response.json()["error"]) == (
                503,
                "model 'scenes' is still being loaded: try again in a few seconds",
            )
            assert int(response.headers["retry-after"]) > 0
        live.update()
        assert client.get("/v2/health/ready").status_code == 200
        assert infer(client, request(images())).status_code == 200


def test_the_server_predicts_with_the_settings_that_the_model_was_measured_with(model: Path, tmp_path: Path) -> None:
    settings = SemanticSettings(flip=True, scales=(0.5, 1.0))
    copy_bundle(model, tmp_path / "measured", settings)
    pixels = images(1)
    with served(str(tmp_path / "measured")) as (client, _):
        (masks,) = infer(client, request(pixels), "/v2/models/measured/infer").json()["outputs"]
    mask = np.reshape(masks["data"], masks["shape"])[0]
    bundle = load_bundle(model)
    np.testing.assert_array_equal(mask, Predictor(bundle, settings=settings).masks(pixels)[0])
    assert (mask != Predictor(bundle).masks(pixels)[0]).any()


def test_images_of_other_channels_and_types_are_served_unharmed(tmp_path: Path) -> None:
    """16 bits and four channels: as a tensor, and as a TIFF file."""
    torch.manual_seed(0)
    labels = LabelMap(("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1})
    network = create_model("unet", 2, in_channels=4, **OPTIONS)
    pixels = np.random.default_rng(0).integers(0, 2**16, (1, 24, 37, 4), dtype=np.uint16)
    with torch.no_grad():  # as many pixels of one class as of the other
        logits = network.eval()(
            (torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) - 30_000) / 9_000
        ).logits
        *_, head = (layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        head.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    save_bundle(
        tmp_path / "deep",
        network,
        name="unet",
        options=OPTIONS,
        task=create_task("semantic", labels),
        mean=(30_000.0,) * 4,
        std=(9_000.0,) * 4,
        lineage={},
        dtype="uint16",
    )
    (expected,) = Predictor(load_bundle(tmp_path / "deep")).masks(pixels)
    assert 0 < expected.mean() < 1
    tensor = {"name": "images", "shape": [1, 24, 37, 4], "datatype": "UINT16", "data": pixels.ravel().tolist()}
    with served(str(tmp_path / "deep")) as (client, _):
        (described,) = client.get("/v2/models/deep").json()["inputs"]
        assert (described["datatype"], described["shape"]) == ("UINT16", [-1, -1, -1, 4])
        (masks,) = infer(client, {"inputs": [tensor]}, "/v2/models/deep/infer").json()["outputs"]
        np.testing.assert_array_equal(np.reshape(masks["data"], (24, 37)), expected)
        response = infer(client, request(images(1)), "/v2/models/deep/infer")
        assert response.status_code == 400
        assert "datatype 'UINT8', expected 'UINT16'" in response.json()["error"]
        response = infer(client, {"inputs": [tensor | {"data": [-1] * pixels.size}]}, "/v2/models/deep/infer")
        assert "other values than integers 0 to 65535, as UINT16 needs" in response.json()["error"]
        file = io.BytesIO()
        tifffile.imwrite(file, pixels[0], photometric="minisblack", planarconfig="contig")
        answer = client.post("/predict", content=file.getvalue())
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)
        overlay = client.post("/predict?output=overlay", content=file.getvalue())
        assert np.asarray(Image.open(io.BytesIO(overlay.content))).shape == (24, 37, 3)
