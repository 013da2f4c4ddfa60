"""DFANet: the published multiply-accumulates, the sizes and channels of its cascade, both aggregations."""

import torch
from torch import nn

from segmodels.models.analysis import count_gmac, on_meta
from segmodels.models.dfanet import ChannelAttention
from segmodels.models.registry import create_model


def test_a_has_the_published_gmac_at_both_published_sizes():
    model, images = on_meta("dfanet_a")
    assert 3.1 <= count_gmac(model, images) <= 3.5  # 3.4 G at 1024 x 1024
    assert 1.6 <= count_gmac(model, images[..., :512, :]) <= 1.8  # 1.7 G at 512 x 1024


def test_stages_are_those_of_the_papers_table_of_its_body():
    model, _ = on_meta("dfanet_a")
    for body in model.bodies:
        for stage, blocks, width in ((body.enc2, 4, 12), (body.enc3, 6, 24), (body.enc4, 4, 48)):
            assert len(stage) == blocks
            depthwise = [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
            assert [layer.stride[0] for layer in depthwise] == [2, *[1] * (3 * blocks - 1)]
            pointwise = [block.convs[i][1].conv.out_channels for block in stage for i in range(3)]
            assert pointwise == [width, width, 4 * width] * blocks


def shapes(model: nn.Module, images: torch.Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shape of every stage of every body, without the batch."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for i, body in enumerate(model.bodies):
        for name, stage in body.named_children():
            key = f"{name}_{i + 1}"
            stage.register_forward_hook(
                lambda _m, inputs, out, key=key: found.update({key: (tuple(inputs[0].shape[1:]), tuple(out.shape[1:]))})
            )
    model(images)
    return found


def test_each_body_starts_from_the_first_stage_and_the_attention_of_the_one_before():
    model, images = on_meta("dfanet_a", size=(256, 512))
    found = shapes(model.eval(), images)
    assert found["enc2_1"] == ((8, 128, 256), (48, 64, 128))
    assert found["enc2_2"] == ((48 + 192, 64, 128), (48, 32, 64))
    assert found["enc2_3"] == ((48 + 192, 32, 64), (48, 16, 32))
    assert [found[f"fca_{i}"][1] for i in (1, 2, 3)] == [(192, 16, 32), (192, 8, 16), (192, 4, 8)]


def test_stages_of_a_body_read_the_stage_of_the_same_depth_of_the_one_before():
    model, images = on_meta("dfanet_a", size=(256, 512))
    found = shapes(model.eval(), images)
    assert found["enc3_1"][0] == found["enc2_1"][1]
    for i in (2, 3):
        assert found[f"enc3_{i}"][0][0] == found[f"enc2_{i}"][1][0] + found[f"enc3_{i - 1}"][1][0] == 48 + 96
        assert found[f"enc4_{i}"][0][0] == found[f"enc3_{i}"][1][0] + found[f"enc4_{i - 1}"][1][0] == 96 + 192
        assert found[f"enc3_{i - 1}"][1][1:] == found[f"enc2_{i}"][1][1:], "maps that are joined have one size"


def test_every_body_reaches_the_decoder_by_detail_and_by_context():
    torch.manual_seed(0)
    model = create_model("dfanet_a", 2).eval()
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        full = model(images).logits
        for i in range(3):
            conv = model.context[i].norm
            weight, bias = conv.weight.clone(), conv.bias.clone()
            conv.weight.zero_(), conv.bias.zero_()
            assert not torch.equal(model(images).logits, full), f"the context of body {i + 1} is not read"
            conv.weight.copy_(weight), conv.bias.copy_(bias)
    model.zero_grad()
    model.detail.register_forward_hook(lambda _m, inputs, _o: inputs[0].sum().backward())  # the summed details alone
    model(images)
    assert all(body.enc2[-1].convs[2][1].conv.weight.grad is not None for body in model.bodies)
    assert model.bodies[2].enc3[0].convs[0][0].weight.grad is None, (
        "no more than the first stage of the last body is detail"
    )


def test_attention_weighs_channels_through_the_1000_classes_of_the_pretraining():
    torch.manual_seed(0)
    module = ChannelAttention(6).eval()
    x = torch.randn(2, 6, 4, 4)
    with torch.no_grad():
        weights = module.conv(module.fc(x.mean(dim=(2, 3)))[:, :, None, None])
        torch.testing.assert_close(module(x), x * weights)
    assert module.fc.out_features == 1000
