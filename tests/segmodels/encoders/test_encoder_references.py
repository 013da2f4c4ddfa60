"""Encoders against independent implementations: weights are copied and every map compared."""

import os

import pytest
import torch
from torch import nn

from segmodels.encoders.registry import create_encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")


def randomise(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights as after training: with those of a new model a wrong order of layers may
    not show.
    """
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
    return model.eval()


def same_maps(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> None:
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def torchvision_name(key: str) -> str:
    """Of a tensor of transformers' ResNet, whose stages, shortcuts and layers are named otherwise."""
    key = key.removeprefix("embedder.embedder.").removeprefix("encoder.")
    parts = key.split(".")
    kind, part = parts[-2:]
    if parts[0] != "stages":
        return f"{'conv1' if kind == 'convolution' else 'bn1'}.{part}"
    block = f"layer{int(parts[1]) + 1}.{parts[3]}"
    if parts[4] == "shortcut":
        return f"{block}.downsample.{0 if kind == 'convolution' else 1}.{part}"
    return f"{block}.{'conv' if kind == 'convolution' else 'bn'}{int(parts[5]) + 1}.{part}"


@pytest.mark.parametrize(
    ("name", "kind", "depths", "widths"),
    [
        ("resnet18", "basic", [2, 2, 2, 2], [64, 128, 256, 512]),
        ("resnet50", "bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    ],
)
def test_resnet_computes_what_transformers_resnet_computes(name, kind, depths, widths):
    config = transformers.ResNetConfig(layer_type=kind, depths=depths, hidden_sizes=widths)
    reference = randomise(transformers.ResNetModel(config))
    encoder = create_encoder(name).eval()
    encoder.load_state_dict({torchvision_name(key): value for key, value in reference.state_dict().items()})
    images = torch.randn(2, 3, 75, 64)
    with torch.inference_mode():
        expected = reference(
            images, output_hidden_states=True
        ).hidden_states  # after the stem's pool, then after each layer
        same_maps(encoder(images)[1:], expected[1:])


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_mobilenet_computes_what_transformers_mobilenet_computes_at_every_output_stride(output_stride):
    config = transformers.MobileNetV2Config(
        tf_padding=False, layer_norm_eps=1e-5, output_stride=output_stride, finegrained_output=True
    )
    reference = randomise(transformers.MobileNetV2Model(config))
    encoder = create_encoder("mobilenet_v2", output_stride=output_stride).eval()
    own, given = encoder.state_dict(), list(reference.state_dict().items())
    copied = dict(
        zip(own, [value for key, value in given if not key.startswith("conv_1x1")], strict=True)
    )  # the same order, other names
    encoder.load_state_dict(copied)
    images = torch.randn(2, 3, 75, 64)
    with torch.inference_mode():
        expected = reference(
            images, output_hidden_states=True
        ).hidden_states  # after each of the 16 blocks behind the stem
        same_maps(encoder(images)[1:], [expected[i] for i in (1, 4, 11, 15)])
