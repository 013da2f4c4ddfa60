"""Attention against torch's own."""

import torch
from torch import nn

from segmodels.layers.attention import SelfAttention


def test_self_attention_is_torchs_with_a_shortcut():
    torch.manual_seed(0)
    ours, torchs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    torchs.load_state_dict(dict(zip(torchs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), x + torchs(x, x, x)[0])
