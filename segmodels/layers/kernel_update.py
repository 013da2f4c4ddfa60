"""A round of K-Net (Zhang 2021, 2106.14855): kernels see the features under their masks, and make new masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmodels.layers.attention import SelfAttention
from segmodels.layers.blocks import ConvNormAct


def one_mask_per_pixel(masks: Tensor) -> Tensor:
    """Mask logits ``(B, N, h, w)`` as weights: a pixel's add up to 1 over the kernels, as those of classes do."""
    return masks.softmax(dim=1)


class KernelUpdate(nn.Module):
    """A round (section 3.2): group features, adaptive update, kernels look at each other, new masks.

    Args:
        channels: of features and kernels.
        masks_to_weights: mask logits ``(B, N, h, w)`` to what each pixel gives to each kernel.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        hidden: int = 2048,
        masks_to_weights: Callable[[Tensor], Tensor] = one_mask_per_pixel,
    ) -> None:
        super().__init__()
        self.masks_to_weights = masks_to_weights
        self.attention = SelfAttention(channels, heads)
        self.attention_norm = nn.LayerNorm(channels)
        self.kernel_update_conv = AdaptiveUpdate()
        self.feat_transform = ConvNormAct(channels, channels, 1, norm=None, activation=None)
        self.ffn = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.ffn_norm = nn.LayerNorm(channels)
        self.mask_fcs = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU())
        self.fc_mask = nn.Linear(channels, channels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, C, h, w)``, kernels ``(B, N, C)`` and their mask logits ``(B, N, h, w)`` to new mask logits
        and kernels.

        After the convolution of pixels, all is computed in float32 and cheap: in float16 the gradients of gates and
        grouped features overflow, and each round's masks weigh what the next one groups, which multiplies roundings.
        """
        features = self.feat_transform(features)
        with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
            return self._update(*(_full_precision(x) for x in (features, kernels, masks)))

    def _update(self, features: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        kernels = self.kernel_update_conv(group_features(self.masks_to_weights(masks), features), kernels)
        kernels = self.attention_norm(self.attention(kernels))
        kernels = self.ffn_norm(kernels + self.ffn(kernels))
        masks = self.fc_mask(self.mask_fcs(kernels)) @ features.flatten(2)
        return masks.unflatten(2, features.shape[-2:]), kernels


class AdaptiveUpdate(nn.Module):
    """Kernels and the features of their groups, mixed by gates that both decide (section 3.2): ``(B, N, C)`` each to
    ``(B, N, C)``.

    As in the authors' configuration it works on ``width`` channels at a time: a kernel of 512 is two of 256 for it.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.dynamic_layer = nn.Linear(width, 2 * width)
        self.input_layer = nn.Linear(width, 2 * width)
        self.input_gate = nn.Linear(width, width)
        self.update_gate = nn.Linear(width, width)
        self.norm_in = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(width)
        self.input_norm_in = nn.LayerNorm(width)
        self.input_norm_out = nn.LayerNorm(width)
        self.fc_layer = nn.Linear(width, width)
        self.fc_norm = nn.LayerNorm(width)

    def forward(self, grouped: Tensor, kernels: Tensor) -> Tensor:
        feature_in, feature_out = self.dynamic_layer(grouped.unflatten(2, (-1, self.width))).chunk(2, dim=3)
        kernel_in, kernel_out = self.input_layer(kernels.unflatten(2, (-1, self.width))).chunk(2, dim=3)
        gates = kernel_in * feature_in
        kernel_gate = self.input_norm_in(self.input_gate(gates)).sigmoid()
        feature_gate = self.norm_in(self.update_gate(gates)).sigmoid()
        mixed = feature_gate * self.norm_out(feature_out) + kernel_gate * self.input_norm_out(kernel_out)
        return torch.relu(self.fc_norm(self.fc_layer(mixed))).flatten(2)


def group_features(weights: Tensor, features: Tensor) -> Tensor:
    """The features under each mask, summed (section 3.2): weights ``(B, N, h, w)``, features ``(B, C, h, w)`` to ``(B,
    N, C)``.
    """
    return weights.flatten(2) @ features.flatten(2).transpose(1, 2)


def _full_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
