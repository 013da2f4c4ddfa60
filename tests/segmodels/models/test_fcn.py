"""FCN: the counts of the paper's and the libraries' forms, the alignment of its cropped maps, its heads."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.encoders.registry import create_encoder
from segmodels.models.analysis import count_gmac, on_meta
from segmodels.models.fcn import VGGFCN, bilinear_upsampling
from segmodels.models.registry import create_model


@pytest.mark.parametrize(
    ("name", "count"), [("fcn32s_vgg16", 136_152_917), ("fcn16s_vgg16", 134_815_994), ("fcn8s_vgg16", 134_489_759)]
)
def test_all_parameters_of_the_papers_nets_with_the_frozen_upsampling(name, count):
    model, _ = on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == ["upscore.weight"]


@pytest.mark.parametrize(
    ("name", "count", "gmac"), [("fcn_resnet50", 32_957_013, 152.72), ("fcn_resnet101", 51_949_141, 232.74)]
)
def test_counts_of_torchvision_without_and_with_its_auxiliary_head(name, count, gmac):
    without, images = on_meta(name, auxiliary=False)
    assert sum(parameter.numel() for parameter in without.parameters()) == count
    model, _ = on_meta(name)
    *_, middle, _ = model.encoder(images)
    assert round(count_gmac(model, images) + count_gmac(model.aux_classifier, middle), 2) == gmac


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upsampling_starts_as_bilinear_interpolation(stride):
    layer = bilinear_upsampling(3, stride)
    x = torch.randn(1, 3, 5, 6)
    expected = F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False)
    with torch.no_grad():
        got = layer(x)[..., stride // 2 : -(stride // 2), stride // 2 : -(stride // 2)]
    inside = (
        ...,
        slice(stride, -stride),
        slice(stride, -stride),
    )  # beyond the border the paper's layer sees zeros, interpolate repeats the edge
    torch.testing.assert_close(got[inside], expected[inside])


class PositionMaps(nn.Module):
    """Stands for VGG-16: its maps' geometry (pools of 2 that round up), and in channel 0 the mean of the input under
    each pixel of a map.
    """

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stride, channels in zip((2, 4, 8, 16, 32), (64, 128, 256, 512, 512), strict=True):
            mean = F.avg_pool2d(images[:, :1], stride, ceil_mode=True)
            maps.append(F.pad(mean, (0, 0, 0, 0, 0, channels - 1)))
        return maps


@pytest.mark.parametrize("fused_pools", [0, 1, 2])
def test_scores_lie_on_the_pixels_they_are_for(fused_pools):
    """On an image whose value is its row (or column) each map holds the position of its pixels; interpolated and
    cropped rightly their sum is that position again, once per map. An offset wrong by one pixel would show as one."""
    model = VGGFCN(PositionMaps(), num_classes=2, fused_pools=fused_pools).eval()
    model.fc6, model.fc7, model.score = (
        nn.Conv2d(512, 8, 7),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 2, 1),
    )  # of the same geometry as the paper's, with fewer channels
    for layer in (model.fc6, model.fc7, model.score, *model.score_pools):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        centre = layer.kernel_size[0] // 2
        layer.weight.data[0, 0, centre, centre] = 1
    size = 300
    rows = (1000 + torch.arange(size, dtype=torch.float32)).view(1, 1, size, 1).expand(1, 3, size, size)
    for position in (rows, rows.transpose(2, 3)):
        with torch.no_grad():
            logits = model(position).logits
        inside = (0, 0, slice(70, -70), slice(70, -70))
        torch.testing.assert_close(logits[inside], (fused_pools + 1) * position[inside], rtol=0, atol=1e-2)


def test_the_classifier_of_published_vgg16_weights_becomes_convolutions(tmp_path):
    features = create_encoder("vgg16").state_dict()
    rows = torch.arange(25088, dtype=torch.float32).expand(
        4096, 25088
    )  # an expanded tensor takes little room in the file
    state = features | {
        "classifier.0.weight": rows,
        "classifier.0.bias": torch.ones(1).expand(4096),
        "classifier.3.weight": torch.arange(4096.0).expand(4096, 4096),
        "classifier.3.bias": torch.full((1,), 2.0).expand(4096),
        "classifier.6.weight": torch.zeros(1).expand(1000, 4096),
        "classifier.6.bias": torch.zeros(1000),
    }
    torch.save(state, tmp_path / "vgg16.pth")
    model = create_model("fcn32s_vgg16", 2, encoder_weights=str(tmp_path / "vgg16.pth"))
    channel, row, column = 5, 2, 6
    assert torch.all(model.fc6.weight[:, channel, row, column] == channel * 49 + row * 7 + column)
    assert torch.all(model.fc7.weight[:, 17, 0, 0] == 17)
    assert torch.all(model.fc7.bias == 2)


def test_keys_of_the_heads_are_torchvisions():
    model, _ = on_meta("fcn_resnet50")
    keys = {key for key in model.state_dict() if "classifier" in key and not key.endswith("num_batches_tracked")}
    norm = [f"1.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    parts = ["0.weight", *norm, "4.weight", "4.bias"]
    assert keys == {f"{head}.{part}" for head in ("classifier", "aux_classifier") for part in parts}


def test_the_auxiliary_head_reads_the_map_before_the_last():
    torch.manual_seed(0)
    model = create_model("fcn_resnet50", 2, encoder="resnet18").train()
    _, (auxiliary,) = model(torch.randn(2, 3, 64, 64))[:2]
    auxiliary.sum().backward()
    reached = {
        key.split(".")[1]
        for key, parameter in model.encoder.named_parameters(prefix="encoder")
        if parameter.grad is not None
    }
    assert reached == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_the_concatenating_head_reads_its_input_twice():
    """Without the two convolutions' result the last one still sees the encoder's map, and the other way round."""
    torch.manual_seed(0)
    head = create_model("fcn_r50_d8", 2, encoder="resnet18").classifier.eval()
    x = torch.randn(1, 512, 8, 8)
    with torch.no_grad():
        full = head(x)
        head.conv_cat.conv.weight[:, :512] = 0
        only_convs = head(x)
        head.conv_cat.conv.weight[:, 512:] = 0
        nothing = head(x)
    assert not torch.allclose(full, only_convs)
    assert not torch.allclose(only_convs, nothing)
    assert torch.allclose(nothing, nothing[..., :1, :1].expand_as(nothing))
