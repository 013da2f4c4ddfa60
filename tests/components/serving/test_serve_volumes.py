"""serve: a model of volumes takes tensors, and no image files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from volume_model import write_volume_model

from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor

VOLUMES = np.random.default_rng(0).normal((-300, 0.5), (200, 0.1), (2, 6, 10, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volume_model(tmp_path_factory.mktemp("serve") / "lesions")


def infer(client: TestClient, **changes: Any) -> Any:
    tensor = {"name": "images", "shape": list(VOLUMES.shape), "datatype": "FP32", "data": VOLUMES.ravel().tolist()}
    return client.post("/v2/models/lesions/infer", content=json.dumps({"inputs": [tensor | changes]}))


def test_the_metadata_tell_shape_and_type_of_volumes_and_of_their_masks(client: TestClient) -> None:
    description = client.get("/v2/models/lesions").json()
    assert description["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, -1, -1, -1, 2]}]
    assert description["outputs"] == [{"name": "masks", "datatype": "UINT8", "shape": [-1, -1, -1, -1]}]


def test_masks_of_volumes_are_those_of_the_predictor(client: TestClient, model: Path) -> None:
    expected = np.stack(Predictor(load_bundle(model)).masks(VOLUMES))
    assert 0 < expected.mean() < 1
    for data in (VOLUMES.ravel().tolist(), VOLUMES.tolist()):
        response = infer(client, data=data)
        assert response.status_code == 200, response.text
        (masks,) = response.json()["outputs"]
        assert (masks["name"], masks["datatype"], masks["shape"]) == ("masks", "UINT8", [2, 6, 10, 8])
        np.testing.assert_array_equal(np.reshape(masks["data"], masks["shape"]), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [12, 10, 8, 2]}, "has shape [12, 10, 8, 2], expected [N, depth, height, width, 2], all positive"),
        ({"datatype": "UINT8"}, "has datatype 'UINT8', expected 'FP32'"),
        ({"data": [float("nan")] * VOLUMES.size}, "holds other values than finite numbers, as FP32 needs"),
    ],
)
def test_tensors_that_are_no_such_volumes_are_refused(client: TestClient, changes: dict[str, Any], said: str) -> None:
    response = infer(client, **changes)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_more_voxels_than_allowed_are_refused_by_the_shape_alone(client: TestClient) -> None:
    response = infer(client, shape=[1, 100, 100, 100, 2], data=[])
    assert response.status_code == 413
    assert "1.0 megapixels, expected at most 0.2" in response.json()["error"]


def test_image_files_are_refused_with_one_sentence(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    data = file.getvalue()
    for response in (client.post("/predict", content=data), client.post("/predict", files={"image": ("a.png", data)})):
        assert response.status_code == 400
        assert response.json() == {
            "error": "model 'lesions' takes volumes, and image files are refused: send the tensor 'images' to"
            " /v2/models/lesions/infer"
        }
