"""The kernels of one model's convolution."""

from contextlib import AbstractContextManager, nullcontext

import torch


def convolutions_of(name: str) -> AbstractContextManager[None]:
    """Without oneDNN where it takes a minute for a gradient that torch's own kernels compute in a second: that of 4096
    dilated convolutions of 7x7.
    """
    return torch.backends.mkldnn.flags(enabled=False) if name == "deeplab_v1_7x7" else nullcontext()
