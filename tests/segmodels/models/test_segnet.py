"""SegNet: unpooling at the remembered places, the mirrored decoder, the counts of the literature."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.registry import create_model
from segmodels.models.segnet import unpool


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (2, 3)])
def test_unpooling_is_that_of_torch(size):
    x = torch.randn(2, 3, *size, requires_grad=True)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    ours = unpool(pooled, indices, size)
    reference = nn.MaxUnpool2d(2)(pooled, indices, output_size=size)
    assert torch.equal(ours, reference)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((values * weight).sum(), x, retain_graph=True)[0] for values in (ours, reference)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("classes", "count"), [(11, 29_449_355), (12, 29_449_932), (21, 29_455_125)])
def test_counts_of_the_literature(classes, count):
    assert count_parameters(on_meta("segnet", classes)[0]) == count


def test_the_decoder_mirrors_the_encoder():
    model, _ = on_meta("segnet")
    encoder = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d)]
    decoder = [layer for layer in model.decoder.modules() if isinstance(layer, nn.Conv2d)]
    assert len(encoder) == len(decoder) == 13
    assert [(layer.out_channels, layer.in_channels) for layer in reversed(encoder)][:-1] == [
        (layer.in_channels, layer.out_channels) for layer in decoder
    ][:-1]
    assert all(layer.kernel_size == (3, 3) for layer in decoder)
    norms = [layer for layer in model.decoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 12, "the last convolution gives the scores as they are"


def test_the_finest_decoder_stage_sees_values_only_where_the_encoder_had_its_maxima():
    torch.manual_seed(0)
    model = create_model("segnet", 2).eval()
    seen = {}
    model.encoder.features[5].register_forward_hook(
        lambda _module, _inputs, output: seen.update(encoder=output.clone())
    )  # ReLU before the first pool
    model.decoder[4].register_forward_hook(lambda _module, inputs, _output: seen.update(decoder=inputs[0]))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    maxima = F.interpolate(F.max_pool2d(seen["encoder"], 2), scale_factor=2)
    assert torch.all(seen["encoder"][seen["decoder"] != 0] == maxima[seen["decoder"] != 0])
    assert (F.max_pool2d((seen["decoder"] != 0).float(), 2) * 1.0).sum() == (seen["decoder"] != 0).sum(), (
        "one value in each window at most"
    )


def test_images_that_five_pools_would_empty_are_refused():
    model = create_model("segnet", 2).eval()
    with pytest.raises(InputError, match="image width is 31, expected at least 32, the stride of SegNet"):
        model(torch.zeros(1, 3, 32, 31))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 33)).logits.shape == (1, 2, 32, 33)
