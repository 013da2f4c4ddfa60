"""Google's ``.npz`` files and torchvision's ViT: random weights, written by the published names and layouts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.encoders.registry import create_encoder
from segmodels.errors import InputError

ATTENTION = "MultiHeadDotProductAttention_1"


def flax_transformer(state: dict[str, Tensor], heads: int) -> dict[str, np.ndarray]:
    """The transformer's tensors as Flax has them: MultiHeadDotProductAttention keeps (in, heads, channels) and, for its
    output, (heads, channels, out); Dense keeps (in, out); Conv keeps (height, width, in, out).
    """
    arrays = {}
    for key, value in state.items():
        array, parts = value.numpy(), key.split(".")
        part = {"weight": "kernel"}.get(parts[-1], parts[-1])
        if parts[0] == "blocks":
            block = f"Transformer/encoderblock_{parts[1]}"
            if parts[2] == "attn" and parts[3] == "qkv":
                for name, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                    flax = third.T.reshape(-1, heads, third.shape[0] // heads) if third.ndim == 2 else None
                    arrays[f"{block}/{ATTENTION}/{name}/{part}"] = third.reshape(heads, -1) if flax is None else flax
            elif parts[2] == "attn":
                arrays[f"{block}/{ATTENTION}/out/{part}"] = (
                    array.T.reshape(heads, -1, array.shape[0]) if array.ndim == 2 else array
                )
            elif parts[2] == "mlp":
                dense = {"fc1": "Dense_0", "fc2": "Dense_1"}[parts[3]]
                arrays[f"{block}/MlpBlock_3/{dense}/{part}"] = array.T
            else:
                norm = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}[parts[2]]
                arrays[f"{block}/{norm}/{'scale' if part == 'kernel' else part}"] = array
        elif parts[0] == "norm":
            arrays[f"Transformer/encoder_norm/{'scale' if part == 'kernel' else part}"] = array
        elif key == "embed.pos_embed":
            arrays["Transformer/posembed_input/pos_embedding"] = array
        elif key == "embed.cls_token":
            arrays["cls"] = array
        elif parts[0] == "embed":
            arrays[f"embedding/{part}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return arrays


def flax_resnet(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    arrays = {}
    names = {"root.conv": "conv_root", "root.gn": "gn_root"}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        if not layer.startswith(("root", "block1", "block2", "block3")):
            continue
        name = names.get(layer, layer.replace("downsample", "conv_proj")).replace(".", "/")
        array = value.numpy()
        if array.ndim == 4:
            arrays[f"{name}/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            arrays[f"{name}/{'scale' if part == 'weight' else part}"] = array.reshape(1, 1, 1, -1)
    return arrays


def randomised(name: str, **options: object) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    encoder = create_encoder(name, **options)
    state = {key: torch.rand_like(value) for key, value in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    return encoder.eval(), state


@pytest.fixture
def small(monkeypatch):
    """``vit_base`` and ``r50_vit_base`` of a few channels, so that each transposition has sizes of its own."""
    from segmodels.encoders import hybrid_vit, vit
    from segmodels.encoders.registry import ENCODERS

    def small_vit(in_channels: int = 3, output_stride: int = 16, image_size: int = 64) -> vit.ViT:
        return vit.ViT(24, 2, 3, in_channels, output_stride, image_size=image_size)

    def small_hybrid(in_channels: int = 3, output_stride: int = 16, image_size: int = 64) -> hybrid_vit.HybridViT:
        return hybrid_vit.HybridViT(24, 2, 3, in_channels, output_stride, (1, 1, 1), image_size)

    for name, build in (("vit_base", small_vit), ("r50_vit_base", small_hybrid)):
        entry = ENCODERS[name]
        monkeypatch.setitem(ENCODERS._entries, name, type(entry)(**{**vars(entry), "build": build}))


def assert_same(loaded: torch.nn.Module, given: torch.nn.Module, state: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(loaded.eval()(images), given(images), strict=True):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("small")
def test_googles_vit_loads_from_npz(tmp_path):
    given, state = randomised("vit_base")
    extra = {"head/kernel": np.zeros((24, 1000)), "head/bias": np.zeros(1000), "pre_logits/bias": np.zeros(24)}
    np.savez(tmp_path / "vit.npz", **flax_transformer(state, heads=3), **extra)
    assert_same(create_encoder("vit_base", weights=tmp_path / "vit.npz"), given, state)
    larger = create_encoder("vit_base", weights=tmp_path / "vit.npz", image_size=96)
    assert larger.embed.pos_embed.shape == (1, 37, 24)


@pytest.mark.usefixtures("small")
def test_googles_resnet_hybrid_loads_from_npz_without_its_class_token(tmp_path):
    given, state = randomised("r50_vit_base")
    arrays = flax_transformer(state, heads=3) | flax_resnet(state) | {"cls": np.zeros((1, 1, 24), np.float32)}
    positions = arrays["Transformer/posembed_input/pos_embedding"]
    arrays["Transformer/posembed_input/pos_embedding"] = np.concatenate([positions[:, :1] + 9, positions], axis=1)
    np.savez(tmp_path / "hybrid.npz", **arrays)
    assert_same(create_encoder("r50_vit_base", weights=tmp_path / "hybrid.npz"), given, state)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mlp", [("0", "3"), ("linear_1", "linear_2")])  # of a model now, and of the published files
def test_torchvisions_vit_loads(mlp, tmp_path):
    given, state = randomised("vit_base")
    names = {
        "embed.cls_token": "class_token",
        "embed.pos_embed": "encoder.pos_embedding",
        "embed.proj": "conv_proj",
        "norm.": "encoder.ln.",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj": "self_attention.out_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "blocks.": "encoder.layers.encoder_layer_",
        "mlp.fc1": f"mlp.{mlp[0]}",
        "mlp.fc2": f"mlp.{mlp[1]}",
    }
    published = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        published[key] = value
    assert "encoder.layers.encoder_layer_1.self_attention.in_proj_weight" in published
    torch.save(published | {"heads.head.weight": torch.zeros(1000, 24)}, tmp_path / "vit.pth")
    assert_same(create_encoder("vit_base", weights=tmp_path / "vit.pth"), given, state)


def test_an_npz_file_of_pickled_objects_or_a_damaged_one_is_refused_in_a_sentence(tmp_path):
    np.savez(tmp_path / "code.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"code\.npz cannot be read \(Object arrays cannot be loaded"):
        create_encoder("vit_tiny", weights=tmp_path / "code.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "code.npz").read_bytes()[:60])
    with pytest.raises(InputError, match=r"cut\.npz cannot be read .*damaged"):
        create_encoder("vit_tiny", weights=tmp_path / "cut.npz")
