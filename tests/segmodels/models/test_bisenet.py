"""BiSeNet V1 and V2: strides and wiring of the two branches, the gates, the boosters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.encoders.registry import create_encoder
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.bisenet_v1 import AttentionRefinement, FeatureFusion
from segmodels.models.bisenet_v2 import GatherExpand, GuidedAggregation
from segmodels.models.registry import create_model, list_models


def outputs_of(model: nn.Module, images: torch.Tensor, *names: str) -> list[torch.Tensor]:
    """The outputs of the named submodules in one forward pass."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name in names
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


# --- V1
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("bisenet_v1")])
def test_v1_paths_meet_at_stride_8(name):
    model, images = on_meta(name, size=(128, 256))
    spatial, (context8, context16), fused = outputs_of(model.eval(), images, "spatial_path", "context_path", "fusion")
    assert spatial.shape[-2:] == context8.shape[-2:] == fused.shape[-2:] == (16, 32)
    assert context16.shape[-2:] == (8, 16)


def test_v1_auxiliary_heads_of_mmseg_have_the_reference_count():
    assert count_parameters(on_meta("bisenet_v1_r18")[0].auxiliary_heads) == 150_182
    assert count_parameters(on_meta("bisenet_v1_r50")[0].auxiliary_heads) == 2_370_086
    assert count_parameters(on_meta("bisenet_v1_r18")[0].head) == 595_219


def test_attention_refinement_weighs_channels_by_their_global_mean():
    torch.manual_seed(0)
    module = AttentionRefinement(3, 4).eval()
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        features = module.conv(x)
        gate = module.gate(features.mean(dim=(2, 3), keepdim=True)).sigmoid()
        torch.testing.assert_close(module(x), features * gate)
    assert gate.shape == (2, 4, 1, 1)


def test_fusion_adds_the_gated_features_to_themselves():
    torch.manual_seed(0)
    module = FeatureFusion(4, 4, nn.Conv2d(4, 4, 1)).eval()
    nn.init.zeros_(module.gate.weight)
    nn.init.constant_(module.gate.bias, -50)  # a closed gate leaves the features as they are, an open one doubles them
    spatial, context = torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    with torch.no_grad():
        features = module.conv(torch.cat([spatial, context], dim=1))
        torch.testing.assert_close(module(spatial, context), features)
        nn.init.constant_(module.gate.bias, 50)
        torch.testing.assert_close(module(spatial, context), 2 * features)


def test_v1_spatial_path_of_the_paper_is_three_strided_3x3_convolutions_and_its_gate_has_no_batch_norm():
    model, _ = on_meta("bisenet_v1_resnet18")
    assert [(layer.conv.kernel_size, layer.conv.stride) for layer in model.spatial_path] == [((3, 3), (2, 2))] * 3
    assert [type(layer) for layer in model.fusion.gate] == [nn.Conv2d, nn.ReLU, nn.Conv2d]


def test_v1_context_reaches_the_output_only_through_the_context_path():
    """The first auxiliary head reads the path's output, the second the map at stride 16: neither sees the
    spatial path.
    """
    torch.manual_seed(0)
    model = create_model("bisenet_v1_xception39", 2).train()
    prediction = model(torch.randn(2, 3, 64, 64))
    sum(auxiliary.sum() for auxiliary in prediction.auxiliary).backward()
    assert all(parameter.grad is None for parameter in model.spatial_path.parameters())
    assert all(parameter.grad is not None for parameter in model.context_path.parameters())


def test_striding_shortcuts_of_xception39_are_separable_3x3_convolutions_under_the_releases_names():
    with torch.device("meta"):
        encoder = create_encoder("xception39")
    depthwise, pointwise = encoder.layer2[0].shortcut
    assert (depthwise.kernel_size, depthwise.stride, depthwise.groups) == ((3, 3), (2, 2), 64)
    assert (pointwise.conv.kernel_size, pointwise.conv.out_channels) == ((1, 1), 128)
    names = {
        "conv1.bn.running_var": "stem.norm.running_var",
        "layer1.0.proj.conv1.weight": "layer1.0.shortcut.0.weight",
        "layer1.0.proj.point_wise_cbr.bn.bias": "layer1.0.shortcut.1.norm.bias",
        "layer3.3.residual_branch.2.conv1.weight": "layer3.3.convs.2.0.weight",
        "layer2.1.residual_branch.0.point_wise_cbr.conv.weight": "layer2.1.convs.0.1.conv.weight",
    }
    assert {theirs: encoder.translate(theirs) for theirs in names} == names
    assert set(names.values()) <= encoder.state_dict().keys()


def test_dropout_leaves_out_whole_channels_as_the_reference():
    with torch.device("meta"):
        dropped = [
            layer
            for name in ("bisenet_v1_r18", "bisenet_v2")
            for layer in create_model(name, 3).modules()
            if "Dropout" in type(layer).__name__
        ]
    assert len(dropped) == 3 + 5
    assert {type(layer) for layer in dropped} == {nn.Dropout2d}


# --- V2
# ------------------------------------------------------------------------------------------------------------


def test_v2_counts_without_boosters_and_of_the_parts():
    model, _ = on_meta("bisenet_v2")
    assert count_parameters(model.boosters) == 11_445_372
    assert count_parameters(model) - count_parameters(model.boosters) == 3_358_883
    assert count_parameters(model.head) == 1_201_171


def test_v2_branches_have_the_papers_channels_and_strides():
    model, images = on_meta("bisenet_v2", size=(128, 256))
    names = ["detail", "semantic.0", "semantic.1", "semantic.2", "semantic.3", "context", "aggregation"]
    shapes = [tuple(out.shape[1:]) for out in outputs_of(model.eval(), images, *names)]
    assert shapes == [(128, 16, 32), (16, 32, 64), (32, 16, 32), (64, 8, 16), (128, 4, 8), (128, 4, 8), (128, 16, 32)]


def test_v2_gather_and_expansion_widens_by_six_in_the_depthwise_convolution():
    with torch.device("meta"):
        flat, strided = GatherExpand(32, 32, 1), GatherExpand(32, 64, 2)
    assert (flat.expand.conv.in_channels, flat.expand.conv.out_channels, flat.expand.conv.groups) == (32, 192, 32)
    assert isinstance(flat.shortcut, nn.Identity)
    assert [layer.conv.stride[0] for layer in strided.expand] == [2, 1]
    assert strided.project.conv.kernel_size == (1, 1)


def test_v2_each_branch_gates_the_other():
    """A semantic branch whose gates are closed shuts the detail out, and the other way round."""
    torch.manual_seed(0)
    module = GuidedAggregation(4).eval()
    module.last = nn.Identity()
    detail, semantic = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        fine = module.detail(detail) * F.interpolate(module.semantic_up(semantic), (16, 16), mode="bilinear").sigmoid()
        coarse = module.detail_down(detail) * module.semantic(semantic).sigmoid()
        torch.testing.assert_close(module(detail, semantic), fine + F.interpolate(coarse, (16, 16), mode="bilinear"))
        nn.init.constant_(module.semantic_up.norm.bias, -100)
        torch.testing.assert_close(module(detail, semantic), F.interpolate(coarse, (16, 16), mode="bilinear"))


def test_v2_boosters_read_the_semantic_branch_only():
    torch.manual_seed(0)
    model = create_model("bisenet_v2", 2).train()
    prediction = model(torch.randn(2, 3, 64, 64))
    assert len(prediction.auxiliary) == 4
    sum(auxiliary.sum() for auxiliary in prediction.auxiliary).backward()
    reached = {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"semantic", "boosters"}
