"""Weights of encoders: published key names, files, object stores."""

import hashlib
import pickle
import types
import warnings

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from segmodels.encoders.registry import create_encoder
from segmodels.encoders.weights import adapt_channels, fetch, load_weights
from segmodels.errors import InputError, TransientError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))


def resnet_state_dict(name: str) -> dict[str, torch.Tensor]:
    """Random tensors under the keys and shapes that torchvision and timm publish for ResNet-18, -34 and -50, classifier
    included.
    """
    depths = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}[name]
    bottleneck = name == "resnet50"
    state: dict[str, torch.Tensor] = {}

    def conv(key: str, out: int, channels: int, size: int) -> None:
        state[f"{key}.weight"] = torch.randn(out, channels, size, size) * 0.05

    def norm(key: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{key}.{part}"] = torch.rand(channels)
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    channels = 64
    for layer, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
        for block in range(depth):
            key, out = f"layer{layer}.{block}", width * (4 if bottleneck else 1)
            for i, (after, before, size) in enumerate(
                (
                    [(width, channels, 1), (width, width, 3), (out, width, 1)]
                    if bottleneck
                    else [(width, channels, 3), (width, width, 3)]
                ),
                start=1,
            ):
                conv(f"{key}.conv{i}", after, before, size)
                norm(f"{key}.bn{i}", after)
            if block == 0 and (layer > 1 or bottleneck):
                conv(f"{key}.downsample.0", out, channels, 1)
                norm(f"{key}.downsample.1", out)
            channels = out
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, channels), torch.randn(1000)
    return state


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_published_resnet_weights_load_as_they_are(name, suffix, tmp_path):
    state, path = resnet_state_dict(name), tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = create_encoder(name, weights=path)
    own = encoder.state_dict()
    assert own.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_the_body_is_taken_out_of_a_checkpoint_of_a_whole_model(tmp_path):
    body = {
        f"module.backbone.{key}": value
        for key, value in resnet_state_dict("resnet18").items()
        if not key.startswith("fc.")
    }
    torch.save(
        {"epoch": 3, "state_dict": body | {"module.classifier.4.weight": torch.zeros(21, 512, 1, 1)}},
        tmp_path / "whole.pth",
    )
    encoder = create_encoder("resnet18", weights=tmp_path / "whole.pth")
    assert torch.equal(encoder.layer4[1].conv2.weight, body["module.backbone.layer4.1.conv2.weight"])


def test_keys_of_hrnet_are_those_of_its_authors_and_timm():
    with torch.device("meta"):
        keys = create_encoder("hrnet_w18").state_dict().keys()
    expected = """conv1.weight bn2.running_mean layer1.0.downsample.0.weight layer1.3.conv3.weight
        transition1.0.0.weight transition1.1.0.0.weight stage2.0.branches.1.3.bn2.bias
        stage2.0.fuse_layers.0.1.0.weight stage2.0.fuse_layers.1.0.0.0.weight transition2.2.0.0.weight
        stage3.3.fuse_layers.2.0.0.0.weight stage3.3.fuse_layers.2.0.1.1.bias transition3.3.0.1.weight
        stage4.2.fuse_layers.0.3.1.weight stage4.2.fuse_layers.3.0.2.0.weight"""
    assert set(expected.split()) <= keys


def test_keys_of_xception65_are_timms():
    with torch.device("meta"):
        keys = create_encoder("xception65").state_dict().keys()
    expected = """stem.0.conv.weight stem.1.bn.bias blocks.0.shortcut.conv.weight blocks.0.shortcut.bn.running_var
        blocks.0.stack.conv1.conv_dw.weight blocks.2.stack.conv3.bn_dw.weight blocks.18.stack.conv2.conv_pw.weight
        blocks.19.shortcut.conv.weight blocks.20.stack.conv3.bn_pw.bias"""
    assert set(expected.split()) <= keys
    assert not any(key.startswith(("blocks.3.shortcut", "blocks.20.shortcut", "blocks.21")) for key in keys)


def test_keys_of_mscan_are_its_authors():
    with torch.device("meta"):
        keys = create_encoder("mscan_t").state_dict().keys()
    expected = """patch_embed1.proj.0.weight patch_embed1.proj.4.running_mean patch_embed2.proj.weight
        patch_embed2.norm.bias block1.0.norm1.weight block1.0.attn.proj_1.weight
        block1.0.attn.spatial_gating_unit.conv0.weight block1.0.attn.spatial_gating_unit.conv2_2.bias
        block3.4.attn.spatial_gating_unit.conv3.weight block4.1.mlp.fc1.weight block4.1.mlp.dwconv.dwconv.weight
        block4.1.mlp.fc2.bias block4.1.layer_scale_2 norm1.weight norm4.bias"""
    assert set(expected.split()) <= keys


@pytest.mark.parametrize("names", ["torchvision", "timm"])
def test_published_mobilenet_weights_load_under_both_names(names, tmp_path):
    own = {
        key: torch.rand_like(value)
        for key, value in create_encoder("mobilenet_v2").state_dict().items()
        if value.is_floating_point()
    }
    extra = {"features.18.0.weight": torch.zeros(1280, 320, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    if names == "timm":
        extra = {
            "conv_head.weight": torch.zeros(1280, 320, 1, 1),
            "bn2.weight": torch.zeros(1280),
            "classifier.bias": torch.zeros(1000),
        }
        # timm's order of modules is ours, with other names
        modules = ["conv_stem", "bn1", *(f"blocks.0.0.{layer}" for layer in ("conv_dw", "bn1", "conv_pw", "bn2"))]
        for stage, blocks in enumerate((2, 3, 4, 3, 3, 1), start=1):
            modules += [
                f"blocks.{stage}.{b}.{layer}"
                for b in range(blocks)
                for layer in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            ]
        ours = list(dict.fromkeys(key.rpartition(".")[0] for key in own))
        assert len(ours) == len(modules)
        names_of = dict(zip(ours, modules, strict=True))
        given = {f"{names_of[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in own.items()}
    else:
        given = own
    save_file(given | extra, tmp_path / "weights.safetensors")
    loaded = create_encoder("mobilenet_v2", weights=tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in own.items())


def test_weights_of_another_architecture_are_refused_with_the_keys_that_differ(tmp_path):
    save_file(resnet_state_dict("resnet34"), tmp_path / "resnet34.safetensors")
    with pytest.raises(
        InputError, match=r"resnet34\.safetensors are not of this ResNet.*unexpected: layer1\.2\.bn1\.bias"
    ):
        create_encoder("resnet18", weights=tmp_path / "resnet34.safetensors")
    with pytest.raises(
        InputError,
        match=(
            r"missing: layer1\.0\.conv3\.weight.*of another shape: layer1\.0\.conv1\.weight \(64, 64, 3, 3\) for \(64,"
            r" 64, 1, 1\)"
        ),
    ):
        create_encoder("resnet50", weights=tmp_path / "resnet34.safetensors")


def test_what_fits_is_loaded_and_the_rest_reported_where_that_is_asked_for(tmp_path):
    state = resnet_state_dict("resnet50")
    save_file(state, tmp_path / "resnet50.safetensors")
    encoder = create_encoder("resnet50", deep_stem=True)
    report = load_weights(encoder, tmp_path / "resnet50.safetensors", ignore=encoder.classifier, strict=False)
    assert report.unexpected == ("conv1.weight",)
    assert [key for key in report.missing if key.endswith("weight")] == [f"conv1.{i}.weight" for i in (0, 1, 3, 4, 6)]
    assert torch.equal(encoder.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])


@pytest.mark.parametrize("in_channels", [1, 6])
def test_the_first_layer_is_adapted_so_that_grey_images_give_the_same_maps(in_channels, tmp_path):
    save_file(resnet_state_dict("resnet18"), tmp_path / "weights.safetensors")
    reference = create_encoder("resnet18", weights=tmp_path / "weights.safetensors").eval().double()
    adapted = (
        create_encoder("resnet18", in_channels=in_channels, weights=tmp_path / "weights.safetensors").eval().double()
    )
    grey = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        expected, got = reference(grey.expand(-1, 3, -1, -1)), adapted(grey.expand(-1, in_channels, -1, -1))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 6])
def test_an_adapted_layer_keeps_its_response_to_channels_of_equal_weight(in_channels):
    weight = torch.rand(5, 1, 7, 7).expand(-1, 3, -1, -1)
    adapted = adapt_channels(weight, in_channels)
    assert adapted.shape == (5, in_channels, 7, 7)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1))


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 5, 7])
def test_an_adapted_layer_keeps_its_response_to_equal_channels_of_any_number(in_channels):
    weight = torch.rand(5, 3, 7, 7, dtype=torch.float64)
    adapted = adapt_channels(weight, in_channels)
    assert adapted.shape == (5, in_channels, 7, 7)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1))


def test_weights_without_the_deep_stem_of_an_encoder_name_the_option(tmp_path):
    save_file(resnet_state_dict("resnet18"), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"no deep stem, and this encoder has: set encoder_options \{deep_stem: false"):
        create_encoder("resnet18", deep_stem=True, weights=tmp_path / "plain.safetensors")
    save_file(create_encoder("resnet18", deep_stem=True).state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(InputError, match=r"set encoder_options \{deep_stem: true"):
        create_encoder("resnet18", weights=tmp_path / "deep.safetensors")


def test_the_heads_that_the_weights_of_a_body_leave_out_are_reported(tmp_path, caplog):
    whole = {f"backbone.{key}": value for key, value in resnet_state_dict("resnet18").items() if "fc" not in key}
    save_file(whole | {"classifier.4.weight": torch.zeros(21, 512, 1, 1)}, tmp_path / "whole.safetensors")
    create_encoder("resnet18", weights=tmp_path / "whole.safetensors")
    assert "its body was loaded, 1 tensors of its heads were not; to load them too, give the file as" in caplog.text
    caplog.clear()
    with pytest.raises(InputError, match="are not of this ResNet"):
        create_encoder("resnet34", weights=tmp_path / "whole.safetensors")
    assert not caplog.text, "nothing was loaded"


def test_files_that_are_no_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.pth is not there"):
        create_encoder("resnet18", weights=tmp_path / "nowhere.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a header")
    with pytest.raises(InputError, match=r"damaged.safetensors cannot be read"):
        create_encoder("resnet18", weights=tmp_path / "damaged.safetensors")
    torch.save(types.SimpleNamespace(a=1), tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code.pth holds more than tensors"):
        create_encoder("resnet18", weights=tmp_path / "code.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(types.SimpleNamespace(a=1)))
    with warnings.catch_warnings(action="error"), pytest.raises(InputError, match=r"plain.pkl holds more than tensors"):
        create_encoder("resnet18", weights=tmp_path / "plain.pkl")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"empty.pth holds no named tensors"):
        create_encoder("resnet18", weights=tmp_path / "empty.pth")


# --- weights by URI: fsspec's in-memory file system stands for any object store
# ---------------------------------------------------------------------


@pytest.fixture
def store():
    """A file in an object store: gives a function that writes content, and the URI."""
    memory = fsspec.filesystem("memory")

    def write(content: bytes, name: str = "weights.safetensors") -> str:
        memory.pipe(f"/models/{name}", content)
        return f"memory://models/{name}"

    yield write
    memory.rm("/models", recursive=True)


def test_a_uri_is_fetched_once_and_again_when_it_changed(store, monkeypatch):
    uri = store(b"first")
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(
        memory, "ukey", lambda self, path: hashlib.md5(self.cat_file(path)).hexdigest()
    )  # as S3: the version is the content's
    fetched = []
    get_file = memory.get_file
    monkeypatch.setattr(
        memory, "get_file", lambda self, path, local: fetched.append(path) or get_file(self, path, local)
    )
    assert fetch(uri).read_bytes() == b"first"
    assert fetch(uri).read_bytes() == b"first"
    assert len(fetched) == 1
    store(b"second")
    assert fetch(uri).read_bytes() == b"second"
    assert len(fetched) == 2


def test_a_pinned_copy_needs_no_store_and_a_damaged_one_is_fetched_again(store):
    digest = hashlib.sha256(b"content").hexdigest()
    uri = store(b"content") + f"#sha256={digest}"
    copy = fetch(uri)
    copy.write_bytes(b"damaged")
    assert fetch(uri).read_bytes() == b"content"
    store(b"changed")
    assert fetch(uri).read_bytes() == b"content"
    with pytest.raises(InputError, match=f"expected {'0' * 64}"):
        fetch(uri.partition("#")[0] + "#sha256=" + "0" * 64)


def test_the_checksum_in_a_published_file_name_is_checked_and_a_date_is_none(store):
    digest = hashlib.sha256(b"content").hexdigest()
    assert any(letter in "abcdef" for letter in digest[:8])
    assert fetch(store(b"content", f"resnet18-{digest[:8]}.pth")).read_bytes() == b"content"
    with pytest.raises(InputError, match="expected f37072fd"):
        fetch(store(b"content", "resnet18-f37072fd.pth"))
    assert fetch(store(b"content", "resnet18-20240131.pth")).read_bytes() == b"content"


def test_weights_load_from_a_uri(store, tmp_path):
    state = resnet_state_dict("resnet18")
    save_file(state, tmp_path / "weights.safetensors")
    encoder = create_encoder("resnet18", weights=store((tmp_path / "weights.safetensors").read_bytes()))
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])


def test_stores_that_fail_are_told_apart_from_addresses_that_are_wrong(store, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"memory://models/other.pth are not there"):
        fetch("memory://models/other.pth")
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("nosuchstore://models/other.pth")
    uri = store(b"content")

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", refuse)
    with pytest.raises(TransientError, match="ConnectionResetError: connection reset"):
        fetch(uri)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-fetched stays"
