"""K-Net: group features and updates against loops, where kernels begin, the order of outputs, what instance
segmentation needs.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.kernel_update import AdaptiveUpdate, KernelUpdate, group_features, one_mask_per_pixel
from segmodels.models.registry import create_model, model_entry

NAMES = ["knet_fcn_r50_d8", "knet_pspnet_r50_d8", "knet_deeplab_v3_r50_d8", "knet_upernet_r50"]


def test_group_features_are_sums_over_pixels_weighted_by_the_masks():
    torch.manual_seed(0)
    masks, features = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    got = group_features(one_mask_per_pixel(masks), features)
    expected = torch.zeros(2, 3, 6)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                weights = masks[image, :, row, column].exp()
                weights /= weights.sum()
                for kernel in range(3):
                    expected[image, kernel] += weights[kernel] * features[image, :, row, column]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_adaptive_update_mixes_features_and_kernels_by_gates():
    torch.manual_seed(0)
    module = AdaptiveUpdate(width=4)
    grouped, kernels = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    with torch.no_grad():
        got = module(grouped, kernels)
        for half in (slice(0, 4), slice(4, 8)):  # kernels of 8 channels are two of 4
            feature, kernel = grouped[..., half], kernels[..., half]
            phi_feature, psi_feature = F.linear(feature, module.dynamic_layer.weight, module.dynamic_layer.bias).split(
                4, dim=2
            )
            phi_kernel, psi_kernel = F.linear(kernel, module.input_layer.weight, module.input_layer.bias).split(
                4, dim=2
            )
            mixture = phi_feature * phi_kernel
            of_feature = torch.sigmoid(module.norm_in(module.update_gate(mixture)))
            of_kernel = torch.sigmoid(module.input_norm_in(module.input_gate(mixture)))
            expected = of_feature * module.norm_out(psi_feature) + of_kernel * module.input_norm_out(psi_kernel)
            torch.testing.assert_close(got[..., half], torch.relu(module.fc_norm(module.fc_layer(expected))))


def test_the_first_kernels_are_the_weights_of_the_static_classifier():
    torch.manual_seed(0)
    model = create_model("knet_fcn_r50_d8", 3, encoder="resnet18").eval()
    seen = []
    model.kernel_update_head[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs))
    with torch.no_grad():
        features = torch.randn(2, 512, 4, 6)
        static, *rounds = model.masks(features)
    ((_, kernels, masks),) = seen
    assert torch.equal(kernels, model.conv_seg.weight[:, :, 0, 0].expand(2, 3, 512))
    assert torch.equal(masks, model.conv_seg(features))
    assert torch.equal(static, masks)
    assert len(rounds) == 3


def test_new_masks_are_the_features_under_the_new_kernels():
    torch.manual_seed(0)
    module = KernelUpdate(256).eval()
    features, kernels, masks = torch.randn(2, 256, 3, 4), torch.randn(2, 5, 256), torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        new_masks, new_kernels = module(features, kernels, masks)
        filters = module.fc_mask(module.mask_fcs(new_kernels))
        for image in range(2):
            expected = F.conv2d(module.feat_transform(features)[image : image + 1], filters[image][:, :, None, None])
            torch.testing.assert_close(new_masks[image : image + 1], expected, rtol=1e-4, atol=1e-4)


def test_any_number_of_kernels_with_masks_of_their_own_as_instances_need():
    """With sigmoids a pixel can lie under several masks, and the order of the kernels means nothing."""
    torch.manual_seed(0)
    module = KernelUpdate(256, masks_to_weights=torch.sigmoid).eval()
    features, kernels, masks = torch.randn(1, 256, 3, 4), torch.randn(1, 7, 256), torch.randn(1, 7, 3, 4)
    order = torch.randperm(7)
    with torch.no_grad():
        new_masks, new_kernels = module(features, kernels, masks)
        shuffled_masks, shuffled_kernels = module(features, kernels[:, order], masks[:, order])
    torch.testing.assert_close(shuffled_masks, new_masks[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shuffled_kernels, new_kernels[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_static_kernels_and_earlier_rounds_are_auxiliary_with_the_papers_weights(name):
    torch.manual_seed(0)
    model = create_model(name, 2, encoder="resnet18").train()
    model.dropout.p = 0.0
    kept = {}
    masks = model.masks
    model.masks = lambda features: kept.setdefault("masks", masks(features))
    prediction = model(torch.randn(2, 3, 64, 64))
    assert len(prediction.auxiliary) == len(model_entry(name).card.auxiliary_weights) == 4
    assert model_entry(name).card.auxiliary_weights == (1.0, 1.0, 1.0, 0.4)
    for logits, expected in zip((*prediction.auxiliary[:3], prediction.logits), kept["masks"], strict=True):
        assert torch.equal(logits, F.interpolate(expected, (64, 64), mode="bilinear"))


@pytest.mark.parametrize(("name", "stride"), [(name, 4 if name == "knet_upernet_r50" else 8) for name in NAMES])
def test_features_of_the_decoders(name, stride):
    model = create_model(name, 2, encoder="resnet18").eval()
    with torch.no_grad():
        assert model.decoder(model.encoder(torch.zeros(1, 3, 64, 96))).shape == (1, 512, 64 // stride, 96 // stride)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_round_is_computed_in_float32_under_autocast(half):
    torch.manual_seed(0)
    update = KernelUpdate(256)
    update.feat_transform = nn.Identity()
    features, kernels, masks = torch.randn(2, 256, 6, 6).to(half), torch.randn(2, 5, 256), torch.randn(2, 5, 6, 6)
    expected = update(features.float(), kernels, masks.to(half).float())
    with torch.autocast("cpu", half):
        found = update(features, kernels, masks.to(half))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
