"""ViT, MiT and Swin against transformers: its own state_dict loads, and every map is equal."""

import os
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from segmodels.encoders.mit import MiT
from segmodels.encoders.registry import create_encoder
from segmodels.encoders.swin import Swin
from segmodels.encoders.vit import ViT, resample_positions
from segmodels.encoders.weights import load_weights
from segmodels.errors import InputError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def randomise(module: nn.Module) -> nn.Module:
    """Weights as large as after training, so that no layer is hidden behind its shortcut."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if name.endswith("weight") else -0.5))
            else:
                parameter.normal_(std=0.5 * parameter[0].numel() ** -0.5 if "position" not in name else 0.5)
    return module.eval()


def loaded(encoder: nn.Module, reference: nn.Module, tmp_path) -> nn.Module:
    """The encoder with the weights of the reference, read from a file as users have it."""
    state = {key: value.contiguous() for key, value in reference.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    load_weights(
        encoder,
        tmp_path / "weights.safetensors",
        translate=encoder.translate,
        ignore=encoder.classifier,
        adapt=encoder.adapt,
    )
    return encoder.eval()


@pytest.mark.parametrize("size", [(64, 64), (75, 53)])
def test_mit_computes_what_transformers_segformer_computes(size, tmp_path):
    config = transformers.SegformerConfig(depths=[1, 2, 1, 1], hidden_sizes=[16, 24, 20, 32])
    reference = randomise(transformers.SegformerForImageClassification(config))
    encoder = loaded(MiT((16, 24, 20, 32), (1, 2, 1, 1)), reference, tmp_path)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected = reference.segformer(images, output_hidden_states=True).hidden_states
        for ours, theirs in zip(encoder(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_names_of_published_mit_checkpoints_are_known():
    with torch.device("meta"):
        encoder = create_encoder("mit_b0")
    names = {
        "segformer.encoder.patch_embeddings.0.proj.weight": "patch_embed1.proj.weight",
        "segformer.encoder.patch_embeddings.3.layer_norm.bias": "patch_embed4.norm.bias",
        "segformer.encoder.block.1.0.layer_norm_1.weight": "block2.0.norm1.weight",
        "segformer.encoder.block.1.1.attention.self.query.weight": "block2.1.attn.q.weight",
        "segformer.encoder.block.0.0.attention.self.sr.bias": "block1.0.attn.sr.bias",
        "segformer.encoder.block.0.0.attention.self.layer_norm.bias": "block1.0.attn.norm.bias",
        "segformer.encoder.block.0.0.attention.output.dense.bias": "block1.0.attn.proj.bias",
        "segformer.encoder.block.2.0.layer_norm_2.weight": "block3.0.norm2.weight",
        "segformer.encoder.block.2.1.mlp.dense1.weight": "block3.1.mlp.fc1.weight",
        "segformer.encoder.block.2.1.mlp.dwconv.dwconv.weight": "block3.1.mlp.dwconv.dwconv.weight",
        "segformer.encoder.layer_norm.3.weight": "norm4.weight",
        "block1.1.attn.kv.weight": "block1.1.attn.kv.weight",
    }
    assert {theirs: encoder.translate(theirs) for theirs in names} == names
    assert set(names.values()) <= encoder.state_dict().keys()


def under_other_names(state, *names):
    """A ``backbone`` of OpenMMLab, whose names begin with a stage's number from 0."""
    given = {}
    for key, value in state.items():
        for pattern, theirs in names:
            key = re.sub(pattern, theirs, key)
        stage = re.sub(r"STAGE(\d)", lambda found: str(int(found[1]) - 1), key)
        given[f"backbone.{stage}"] = value.contiguous()
    return given


def test_mit_loads_the_names_and_layers_of_openmmlab(tmp_path):
    torch.manual_seed(0)
    given, encoder = (MiT((16, 24, 20, 32), (1, 2, 1, 1)) for _ in range(2))
    state = given.state_dict()
    theirs = {}
    for key, value in state.items():
        if ".attn.q." in key:
            theirs[key.replace(".attn.q.", ".attn.attn.in_proj_")] = torch.cat([value, state[key.replace("q.", "kv.")]])
        elif ".attn.kv." not in key:
            theirs[key] = value[:, :, None, None] if re.search(r"fc\d\.weight", key) else value
    names = (
        *((r"^patch_embed(\d)", r"layers.STAGE\1.0"), (r"^block(\d)", r"layers.STAGE\1.1")),
        *((r"^norm(\d)", r"layers.STAGE\1.2"), (r"\.0\.proj\.", ".0.projection.")),
        *((r"\.attn\.proj\.", ".attn.attn.out_proj."), (r"\.mlp\.fc1", ".ffn.layers.0")),
        *((r"\.mlp\.dwconv\.dwconv", ".ffn.layers.1"), (r"\.mlp\.fc2", ".ffn.layers.4")),
    )
    theirs = under_other_names(theirs, *names)
    assert {"backbone.layers.0.0.projection.weight", "backbone.layers.1.1.1.attn.attn.in_proj_weight"} <= theirs.keys()
    assert {"backbone.layers.3.2.bias", "backbone.layers.0.1.0.ffn.layers.4.weight"} <= theirs.keys()
    save_file(theirs, tmp_path / "mit.safetensors")
    load_weights(encoder, tmp_path / "mit.safetensors", translate=encoder.translate, adapt=encoder.adapt)
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_swin_loads_openmmlabs_merging_whose_channels_are_those_of_unfold(tmp_path):
    torch.manual_seed(0)
    given, encoder = (Swin(24, (1, 1, 1, 1), (1, 2, 3, 6)) for _ in range(2))
    state = given.state_dict()
    merging = {"norm.weight": torch.rand(96), "norm.bias": torch.rand(96), "reduction.weight": torch.rand(48, 96)}
    theirs = state | {f"layers.0.downsample.{key}": value for key, value in merging.items()}
    names = (
        *((r"^layers\.", "stages."), (r"^patch_embed\.proj", "patch_embed.projection"), (r"\.attn\.", ".attn.w_msa.")),
        *((r"\.mlp\.fc1", ".ffn.layers.0.0"), (r"\.mlp\.fc2", ".ffn.layers.1")),
    )
    theirs = under_other_names(theirs, *names)
    assert "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table" in theirs
    theirs["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    save_file(theirs, tmp_path / "swin.safetensors")
    load_weights(encoder, tmp_path / "swin.safetensors", translate=encoder.translate, adapt=encoder.adapt)
    elsewhere = [key for key in state if ".downsample." not in key]
    assert all(torch.equal(encoder.state_dict()[key], state[key]) for key in elsewhere)
    x = torch.randn(2, 24, 6, 4)
    unfolded = functional.unfold(x, 2, stride=2).transpose(1, 2)
    expected = functional.layer_norm(unfolded, (96,), merging["norm.weight"], merging["norm.bias"])
    expected = (expected @ merging["reduction.weight"].T).unflatten(1, (3, 2))
    torch.testing.assert_close(encoder.layers[0].downsample(x.permute(0, 2, 3, 1)), expected)


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_vit_computes_what_transformers_vit_computes_at_any_grid(size, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, image_size=64,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    reference = randomise(transformers.ViTModel(config, add_pooling_layer=False))
    encoder = loaded(ViT(24, 3, 3, image_size=64, out_blocks=(1, 3)), reference, tmp_path)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected = reference(images, output_hidden_states=True, interpolate_pos_encoding=True)
        first, last = encoder(images)
        grid = (size[0] // 16, size[1] // 16)
        for ours, theirs in ((first, expected.hidden_states[1]), (last, expected.last_hidden_state)):
            torch.testing.assert_close(ours, theirs[:, 1:].transpose(1, 2).unflatten(2, grid), **CLOSE)


def test_vit_reads_the_names_of_timm_and_mmsegmentation():
    with torch.device("meta"):
        encoder = create_encoder("vit_tiny")
    names = {
        "cls_token": "embed.cls_token",
        "pos_embed": "embed.pos_embed",
        "patch_embed.proj.weight": "embed.proj.weight",
        "patch_embed.projection.bias": "embed.proj.bias",
        "blocks.3.attn.qkv.weight": "blocks.3.attn.qkv.weight",
        "layers.3.ln1.weight": "blocks.3.norm1.weight",
        "layers.3.attn.attn.in_proj_weight": "blocks.3.attn.qkv.weight",
        "layers.3.attn.attn.out_proj.bias": "blocks.3.attn.proj.bias",
        "layers.11.ffn.layers.0.0.weight": "blocks.11.mlp.fc1.weight",
        "layers.11.ffn.layers.1.bias": "blocks.11.mlp.fc2.bias",
        "encoder.layer.0.attention.output.dense.weight": "blocks.0.attn.proj.weight",
        "encoder.layer.0.output.dense.weight": "blocks.0.mlp.fc2.weight",
        "norm.weight": "norm.weight",
    }
    assert {theirs: encoder.translate(theirs) for theirs in names} == names
    assert set(names.values()) <= encoder.state_dict().keys()


def test_position_embeddings_of_another_grid_are_resampled_and_the_class_tokens_left_out(tmp_path):
    torch.manual_seed(0)
    small, large = ViT(24, 2, 3, image_size=64), ViT(24, 2, 3, image_size=96, class_token=False)
    loaded(large, small, tmp_path)
    expected = resample_positions(small.embed.pos_embed[:, 1:], (6, 6))
    torch.testing.assert_close(large.embed.pos_embed, expected)


@pytest.mark.parametrize("size", [(256, 256), (250, 300)])
def test_swin_computes_what_transformers_swin_computes(size, tmp_path):
    config = transformers.SwinConfig(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 6], window_size=7, layer_norm_eps=1e-5,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    reference = randomise(transformers.SwinBackbone(config))
    encoder = loaded(Swin(24, (2, 2, 2, 2), (1, 2, 3, 6)), reference, tmp_path)
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        for ours, theirs in zip(encoder(images), reference(images).feature_maps, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_swin_tables_of_other_windows_are_resampled_and_timms_merging_moves_to_the_stage_before(tmp_path):
    torch.manual_seed(0)
    narrow, wide = (Swin(24, (2, 2, 2, 2), (1, 2, 3, 6), window=window) for window in (3, 7))
    loaded(wide, narrow, tmp_path)
    table = wide.layers[1].blocks[0].attn.relative_position_bias_table
    assert table.shape == (13**2, 2)
    centre = narrow.layers[1].blocks[0].attn.relative_position_bias_table[(5**2) // 2]
    torch.testing.assert_close(table[(13**2) // 2], centre), "the offset 0 keeps its bias"
    state = {
        key.replace(f"layers.{i}.down", f"layers.{i + 1}.down"): value
        for key, value in narrow.state_dict().items()
        for i in [int(key.split(".")[1]) if ".downsample." in key else 9]
    }
    adapted = narrow.adapt(state)
    assert adapted.keys() == narrow.state_dict().keys()
    assert torch.equal(adapted["layers.2.downsample.reduction.weight"], narrow.layers[2].downsample.reduction.weight)


@pytest.mark.parametrize("name", ["vit_tiny", "mit_b0", "swin_tiny"])
def test_checkpointing_gives_the_same_gradients(name):
    options = {"drop_path": 0.2}
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = create_encoder(name, **options, checkpointing=checkpointing).train()
        torch.manual_seed(1)
        encoder(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
        gradients.append({key: p.grad for key, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=0, atol=1e-6)


def test_layers_of_vit_learn_at_decaying_rates():
    with torch.device("meta"):
        encoder = create_encoder("vit_tiny", layer_decay=0.5)
    groups = encoder.parameter_groups()
    assert [group["lr_factor"] for group in groups] == [0.5**i for i in range(13, 0, -1)]
    assert sum(len(group["params"]) for group in groups) == len(list(encoder.parameters())) - 2, "all but the last norm"


def test_windows_without_tokens_and_images_too_small_to_reduce_are_refused():
    with pytest.raises(InputError, match=r"window of Swin is 0, expected at least 1 token"):
        create_encoder("swin_tiny", window=0)
    encoder = MiT((16, 24, 20, 32), (1, 1, 1, 1)).eval()
    assert len(encoder(torch.zeros(1, 3, 29, 29))) == 4
    with pytest.raises(InputError, match=r"images are 28 x 40 pixels, expected at least 29 x 29"):
        encoder(torch.zeros(1, 3, 28, 40))


def test_blocks_that_vit_does_not_have_are_named():
    for blocks in ([13], [0], [3, 2], [1, 1]):
        with pytest.raises(InputError, match=r"out_blocks of ViT is .* expected rising numbers from 1 to 12"):
            create_encoder("vit_tiny", out_blocks=blocks)
