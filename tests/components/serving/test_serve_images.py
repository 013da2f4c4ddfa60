"""serve: image files in, PNG masks and overlays out; what is too large or broken is refused before it costs
anything.
"""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_pipeline import LABELS

from components.commands.predict import predict


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    picture.save(data, kind)
    return data.getvalue()


def noise(height: int = 30, width: int = 41) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGB", "JPEG"), ("L", "TIFF"), ("P", "GIF"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("1", "BMP")],
)
def test_masks_are_those_that_predict_writes(
    client: TestClient, model: Path, tmp_path: Path, mode: str, kind: str
) -> None:
    data = encoded(noise().convert(mode), kind)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"a.{kind.lower()}").write_bytes(data)
    predict(str(model), tmp_path / "images", tmp_path / "out")
    expected = Image.open(tmp_path / "out" / "masks" / "a.png")
    (version,) = client.get("/v2/models/scenes").json()["versions"]
    for response in (client.post("/predict", content=data), client.post("/predict", files={"image": ("a", data)})):
        assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
        assert (response.headers["x-model-name"], response.headers["x-model-version"]) == ("scenes", version)
        mask = opened(response.content)
        assert (mask.format, mask.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(expected))
        assert mask.getpalette() == expected.getpalette()


def test_overlays_are_the_image_half_covered_by_the_colours_of_its_mask(client: TestClient) -> None:
    data = encoded(noise())
    mask = np.asarray(opened(client.post("/predict?output=mask", content=data).content))
    overlay = opened(client.post("/predict?output=overlay", content=data).content)
    assert (overlay.format, overlay.mode) == ("PNG", "RGB")
    expected = (np.asarray(noise()).astype(int) + np.array(LABELS.palette)[mask]) / 2
    assert np.abs(np.asarray(overlay) - expected).max() <= 1


def test_classes_tell_what_the_values_of_a_mask_mean(client: TestClient) -> None:
    classes = client.get("/classes").json()
    assert [(one["id"], one["class"], tuple(one["color"])) for one in classes] == list(
        zip(range(4), LABELS.classes, LABELS.palette, strict=True)
    )


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is ``side`` x ``side`` pixels, and unpacks as far as it goes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [500, 9_000, 100_000])
def test_images_of_more_pixels_than_allowed_are_refused_before_they_are_unpacked(client: TestClient, side: int) -> None:
    data = bomb(side)
    tracemalloc.start()
    try:
        response = client.post("/predict", content=data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert "megapixels" in response.json()["error"]
    assert peak < 5e6


def test_a_body_is_read_no_further_than_allowed(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    for path in ("/predict", "/v2/models/scenes/infer"):
        for body, headers in (
            (bytes(2_100_000), {}),  # announced by its length
            (iter([bytes(100_000)] * 21), {}),  # in chunks, nobody says how many
            (start + bytes(2_100_000), form),
        ):
            response = client.post(path, content=body, headers=headers)
            assert response.status_code == 413, path
            assert "megabytes or more, expected at most 2: send fewer or smaller images" in response.json()["error"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "request is empty, expected an image file"),
        (b"not an image", "no known image format"),
        (encoded(noise())[:1000], "truncated or broken"),
        (encoded(noise(), "JPEG")[:700], "truncated or broken"),
        (encoded(noise())[:-12], "truncated"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "32-bit pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "no known image format"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_a_sentence(client: TestClient, data: bytes, said: str) -> None:
    for response in (client.post("/predict", content=data), client.post("/predict", files={"image": ("a.png", data)})):
        assert response.status_code == 400
        assert said in response.json()["error"]


def test_a_form_without_exactly_one_file_is_refused(client: TestClient) -> None:
    data = encoded(noise())
    assert (
        "has 2 files, expected one image"
        in client.post("/predict", files={"a": ("a", data), "b": ("b", data)}).json()["error"]
    )
    assert (
        "has 0 files, expected one image"
        in client.post("/predict", data={"a": "b"}, files=[("c", (None, b"d"))]).json()["error"]
    )
    for header in ("multipart/form-data", "multipart/form-data; boundary=x"):
        response = client.post("/predict", content=data, headers={"content-type": header})
        assert response.status_code == 400, header
        assert "form of the request" in response.json()["error"]


def test_an_unknown_output_is_refused(client: TestClient) -> None:
    response = client.post("/predict?output=polygon", content=encoded(noise()))
    assert response.status_code == 400
    assert response.json() == {
        "error": "parameter output of the request is 'polygon': input should be 'mask' or 'overlay'"
    }
