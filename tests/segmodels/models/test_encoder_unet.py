"""U-Net and UNet++ on pretrained encoders: counts of segmentation_models.pytorch, wiring, encoders of all families."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.models.analysis import count_parameters
from segmodels.models.encoder_unet import EncoderUNet, EncoderUNetPlusPlus
from segmodels.models.registry import create_model

FAMILIES = ["vgg16_bn", "mobilenet_v2", "xception65", "hrnet_w18_small", "mscan_t", "vit_tiny", "mit_b0", "swin_tiny"]
"""An encoder of each family; ResNet is the one of the variants."""


@pytest.mark.parametrize(("kind", "count"), [(EncoderUNet, 24_436_369), (EncoderUNetPlusPlus, 26_078_609)])
def test_counts_of_segmentation_models_at_one_class(kind, count):
    with torch.device("meta"):
        assert count_parameters(kind(create_model("unet_resnet34", 2).encoder, 1)) == count


@pytest.mark.parametrize("name", ["unet", "unet_plus_plus"])
@pytest.mark.parametrize("encoder", FAMILIES)
def test_any_encoder_carries_them(name, encoder):
    with torch.device("meta"):
        model = create_model(name, 4, encoder=encoder).eval()
        assert model(torch.empty(1, 3, 129, 70)).logits.shape == (1, 4, 129, 70)


def test_an_encoder_of_unet_is_the_variant_on_it():
    with torch.device("meta"):
        short = create_model("unet", 3, encoder="resnet18", encoder_options={"deep_stem": True})
        variant = create_model("unet_resnet34", 3, encoder="resnet18", encoder_options={"deep_stem": True})
    assert {k: v.shape for k, v in short.state_dict().items()} == {k: v.shape for k, v in variant.state_dict().items()}


def test_each_step_doubles_and_joins_the_map_of_its_stride():
    torch.manual_seed(0)
    model = create_model("unet_resnet34", 3, encoder="resnet18").eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        half, quarter, eighth, sixteenth, x = model.encoder(images)
        for block, skip in zip(model.decoder, (sixteenth, eighth, quarter, half, None), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block.convs(x if skip is None else torch.cat([x, skip], dim=1))
        torch.testing.assert_close(model(images).logits, model.head(x))


def test_nodes_of_unet_plus_plus_join_all_before_them_on_their_level():
    torch.manual_seed(0)
    model = create_model("unet_plus_plus_resnet34", 3, encoder="resnet18").eval()
    shapes = {}
    for name, node in model.nodes.items():
        node.register_forward_hook(
            lambda _module, inputs, output, name=name: shapes.update(
                {name: ([x.shape[1] for x in inputs], output.shape)}
            )
        )
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert len(shapes) == 1 + 2 + 3 + 4 + 1, "all nodes on the levels of the encoder's maps, one at the image's size"
    assert shapes["2_2"] == ([128, 64, 64], (1, 64, 16, 16)), "inside: the encoder's channels"
    assert shapes["1_4"] == ([64, 64, 64, 64, 64], (1, 32, 32, 32)), "the last of a level: the decoder's"
    assert shapes["0_5"] == ([32], (1, 16, 64, 64))
