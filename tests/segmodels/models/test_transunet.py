"""TransUNet: standardised weights, the maps of the hybrid encoder, the cascaded upsampler, names of the release."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.encoders.hybrid_vit import Bottleneck, StandardisedConv2d
from segmodels.errors import InputError
from segmodels.models.registry import create_model

SMALL = {"encoder_options": {"image_size": 64, "depth": 1, "resnet_depths": [1, 1, 1]}}


def test_weights_are_standardised_for_each_output_channel():
    torch.manual_seed(0)
    conv = StandardisedConv2d(4, 6, 3, stride=2)
    x = torch.randn(1, 4, 9, 9)
    weight = torch.stack([(w - w.mean()) / (w.var(unbiased=False) + 1e-5).sqrt() for w in conv.weight])
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, stride=2, padding=1))


def test_a_bottleneck_strides_in_its_3x3_convolution_and_normalises_the_shortcut_by_channel():
    block = Bottleneck(64, 256, 2)
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))
    assert (block.gn1.num_groups, block.gn1.eps, block.gn_proj.num_groups) == (32, 1e-6, 256)
    assert isinstance(Bottleneck(256, 256, 1).downsample, torch.nn.Identity)


def test_the_map_at_stride_4_lacks_a_row_and_a_column_that_are_filled_with_0():
    torch.manual_seed(0)
    encoder = create_model("transunet_r50_b16", 2, **SMALL).encoder.eval()
    with torch.no_grad():
        half, quarter, eighth, last = encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in (half, quarter, eighth, last)] == [
        (64, 32, 48), (256, 16, 24), (512, 8, 12), (768, 4, 6),
    ]  # fmt: skip
    assert not quarter[..., -1, :].any()
    assert not quarter[..., -1].any()
    assert quarter[..., -2, :-1].any()


def test_the_upsampler_joins_maps_at_strides_8_4_and_2_and_none_at_the_images_size():
    torch.manual_seed(0)
    model = create_model("transunet_r50_b16", 2, **SMALL).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        half, quarter, eighth, x = model.encoder(images)
        x = model.conv_more(x)
        for step, skip in zip(model.decoder, (eighth, quarter, half, None), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = step.convs(x if skip is None else torch.cat([x, skip], dim=1))
        torch.testing.assert_close(model(images).logits, model.head(x))


def test_names_of_the_release_are_known():
    with torch.device("meta"):
        model = create_model("transunet_r50_b16", 9)
    body = "transformer.embeddings.hybrid_model."
    names = {
        f"{body}root.conv.weight": "encoder.root.conv.weight",
        f"{body}body.block2.unit4.gn3.bias": "encoder.block2.unit4.gn3.bias",
        f"{body}body.block1.unit1.downsample.weight": "encoder.block1.unit1.downsample.weight",
        "transformer.embeddings.patch_embeddings.bias": "encoder.embed.proj.bias",
        "transformer.embeddings.position_embeddings": "encoder.embed.pos_embed",
        "transformer.encoder.layer.11.attention_norm.weight": "encoder.blocks.11.norm1.weight",
        "transformer.encoder.layer.0.ffn.fc2.weight": "encoder.blocks.0.mlp.fc2.weight",
        "transformer.encoder.layer.0.attn.out.bias": "encoder.blocks.0.attn.proj.bias",
        "transformer.encoder.encoder_norm.weight": "encoder.norm.weight",
        "decoder.conv_more.1.running_var": "conv_more.norm.running_var",
        "decoder.blocks.2.conv1.0.weight": "decoder.2.convs.0.conv.weight",
        "decoder.blocks.2.conv2.1.bias": "decoder.2.convs.1.norm.bias",
        "segmentation_head.0.bias": "head.bias",
    }
    assert {theirs: model.translate(theirs) for theirs in names} == names
    assert set(names.values()) <= model.state_dict().keys()
    query = "transformer.encoder.layer.3.attn.query.weight"
    assert model.translate(query) == "encoder.blocks.3.attn.q.weight"


def test_images_of_one_place_at_stride_16_are_refused_in_a_sentence():
    model = create_model("transunet_r50_b16", 2, **SMALL).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 1, 17)).logits.shape == (1, 2, 1, 17)
        with pytest.raises(InputError, match="images are 16 x 9 pixels, expected a side above 16"):
            model(torch.zeros(1, 3, 16, 9))
