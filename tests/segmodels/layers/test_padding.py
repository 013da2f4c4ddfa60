"""Padding to sizes that a network halves without loss, mirroring, cropping."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segmodels.layers.padding import crop, lacking, linear_of_padded, mirror_index, pad_to_multiple, zeros_to_multiple


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_images_smaller_than_the_border_are_mirrored_repeatedly(size: int) -> None:
    expected = torch.arange(size)
    while size > 1 and len(expected) < 92 + size + 92:
        both = min(size - 1, 92)
        expected = torch.cat([expected[1 : both + 1].flip(0), expected, expected[-both - 1 : -1].flip(0)])
    surplus = (len(expected) - size) // 2 - 92
    expected = expected[surplus : len(expected) - surplus] if size > 1 else torch.zeros(185, dtype=torch.int64)
    assert torch.equal(mirror_index(size, 92, 92, torch.device("cpu")), expected)


@pytest.mark.parametrize("size", [(7, 9), (8, 16), (3, 5, 6)])
def test_padding_repeats_the_last_pixels_and_cropping_takes_them_off(size: tuple[int, ...]) -> None:
    images = torch.randn(2, 3, *size)
    padded = pad_to_multiple(images, 8)
    assert padded.shape[2:] == tuple(-(-extent // 8) * 8 for extent in size)
    assert torch.equal(crop(padded, size), images)
    for axis, extent in enumerate(size, start=2):
        last = crop(padded, size).select(axis, extent - 1)
        beyond = padded
        for other, length in enumerate(size, start=2):
            beyond = beyond if other == axis else beyond.narrow(other, 0, length)
        assert all(torch.equal(beyond.select(axis, i), last) for i in range(extent, padded.shape[axis]))


def test_zeros_stand_on_the_right_and_below_and_nothing_is_copied_for_none() -> None:
    images, tokens = torch.randn(2, 3, 7, 8), torch.randn(2, 7, 8, 3)
    padded = zeros_to_multiple(images, 4)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[:, :, :7], images)
    assert not padded[:, :, 7:].any()
    assert torch.equal(zeros_to_multiple(tokens, 5, first=1), functional.pad(tokens, (0, 0, 0, 2, 0, 3)))
    assert zeros_to_multiple(images[:, :, :4], 4).data_ptr() == images.data_ptr()
    assert zeros_to_multiple(tokens[:, :4], 4, first=1).data_ptr() == tokens.data_ptr()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 12), (9, 10)])
def test_a_linear_layer_of_a_padded_map_computes_nothing_for_the_padding(height: int, width: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 5, bias=bias), torch.randn(2, height, width, 3, requires_grad=True)
    whole = functional.pad(x, (0, 0, 0, lacking(width, 4), 0, lacking(height, 4)))
    expected, found = layer(whole), linear_of_padded(layer, x, 4)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs)
    )
    with FlopCounterMode(display=False) as counter:
        linear_of_padded(layer, x, 4)
    assert counter.get_total_flops() == 2 * x.numel() * 5
