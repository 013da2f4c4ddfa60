"""DMNet: kernels of every image for itself, of the paper's sizes."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.models.dmnet import DMHead, DynamicConv


def test_kernel_sizes_are_1_3_5_7():
    assert [module.kernel_size for module in DMHead(8, 2, channels=4).dcm_modules] == [1, 3, 5, 7]


def test_a_batch_of_two_is_two_batches_of_one():
    torch.manual_seed(0)
    head = DMHead(16, 3, channels=8).eval()
    x = torch.randn(2, 16, 9, 11)
    with torch.no_grad():
        together = head(x)
        torch.testing.assert_close(together, torch.cat([head(x[:1]), head(x[1:])]))
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_every_channel_of_every_image_is_filtered_by_the_kernel_of_its_own_means(kernel_size):
    torch.manual_seed(0)
    module = DynamicConv(6, 4, kernel_size).eval()
    x = torch.randn(2, 6, 8, 10)
    with torch.no_grad():
        got = module(x)
        kernels = module.filter_gen_conv(F.adaptive_avg_pool2d(x, kernel_size))
        reduced = module.input_redu_conv(x)
        for image in range(2):
            for channel in range(4):
                filtered = F.conv2d(
                    reduced[image, channel][None, None], kernels[image, channel][None, None], padding="same"
                )[0, 0]
                expected = torch.relu(filtered / (1 + 1e-5) ** 0.5)  # batch norm at its start
                torch.testing.assert_close(got[image, channel], expected, rtol=1e-4, atol=1e-5)
