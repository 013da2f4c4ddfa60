"""Building blocks that more than one model uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.layers.linear_resize import linear_resize

relu = partial(nn.ReLU, inplace=True)


class ConvNormAct(nn.Sequential):
    """Convolution, normalisation, activation: the children ``conv``, ``norm`` and ``act``; either of the last two may
    be absent.

    Args:
        padding: None keeps the size at stride 1 (odd kernels).
        bias: None gives the convolution a bias only where no normalisation follows.
        norm: builds the normalisation from the number of channels; None leaves it out.
        activation: builds the activation; None leaves it out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2) if padding is None else padding
        bias = norm is None if bias is None else bias
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        if norm is not None:
            self.norm = norm(out_channels)
        if activation is not None:
            self.act = activation()


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution, batch normalisation, ReLU. (B, in, H, W) -> (B, out, H, W)."""
    return nn.Sequential(*(ConvNormAct(i, out_channels, activation=relu) for i in (in_channels, out_channels)))


class UpBlock(nn.Module):
    """2x2 up-convolution that halves the channels, concatenation behind the encoder's map, convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convs = double_conv(2 * out_channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([skip, self.up(deep)], dim=1))


class UpConcat(nn.Module):
    """The coarse map, doubled by nearest neighbours, behind it the finer maps where there are any, and twice: 3x3
    convolution, batch normalisation, ReLU.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = double_conv(in_channels + skip_channels, out_channels)

    def forward(self, coarse: Tensor, *skips: Tensor) -> Tensor:
        up = resize(coarse, [2 * size for size in coarse.shape[-2:]], "nearest")
        return self.convs(torch.cat([up, *skips], dim=1))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of maps ``(B, C, H, W)`` over their channels."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, 1603.09382): in training a residual is left out for a share ``rate`` of the
    images, and scaled up for the others.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, residual: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return residual
        kept = torch.rand(residual.shape[0], *[1] * (residual.dim() - 1), device=residual.device) >= self.rate
        return residual * (kept / (1 - self.rate)).to(residual.dtype)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Rates of ``DropPath`` of a row of blocks: they rise linearly from 0 to ``last``.

    Raises:
        InputError: ``last`` is not from 0 to below 1.
    """
    check_dropped("drop_path", last, "images that skip the last block")
    return torch.linspace(0, last, blocks, device="cpu").tolist()


def initialise_transformer(module: nn.Module) -> None:
    """The usual start of vision transformers: linear layers from a normal distribution of 0.02, cut at two standard
    deviations, biases 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_convolutions(module: nn.Module) -> None:
    """Two-dimensional convolutions from a normal distribution of variance 2 / fan-out, biases 0: the start of
    transformers with convolutions. The fan-out of a grouped convolution is that of one group.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 32 groups, for ``norm`` of ``ConvNormAct``."""
    return nn.GroupNorm(32, channels)


def resize(features: Tensor, size: Sequence[int], mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """Interpolate ``(B, C, *spatial)`` to ``size``, one number per spatial axis; features of that size are returned as
    they are.

    Where deterministic algorithms are asked for on a GPU, ``linear_resize`` computes the same with a gradient that is
    deterministic and fast.

    Args:
        mode: ``nearest``, or ``bilinear``, which is trilinear for volumes.
        align_corners: for ``bilinear``: the centres of the corner pixels coincide, not the outer corners of the image.
    """
    # asked while exporting, this would tie the graph to one answer
    if not torch.compiler.is_exporting() and features.shape[2:] == tuple(size):
        return features
    if mode == "nearest":
        return F.interpolate(features, tuple(size), mode=mode)
    if features.is_cuda and torch.are_deterministic_algorithms_enabled():
        return linear_resize(features, size, align_corners)
    mode = "trilinear" if features.dim() == 5 else mode
    return F.interpolate(features, tuple(size), mode=mode, align_corners=align_corners)


def check_images(images: Tensor, in_channels: int, spatial_dims: int = 2) -> None:
    """Raise InputError unless ``images`` is ``(B, in_channels, H, W)`` (``(B, in_channels, D, H, W)`` for three spatial
    dimensions).
    """
    if images.dim() != spatial_dims + 2 or images.shape[1] != in_channels:
        axes = ", ".join("DHW"[3 - spatial_dims :])
        raise InputError(
            f"images have the shape {tuple(images.shape)}, expected (B, {in_channels}, {axes}): build the model with"
            " in_channels equal to the images' channels"
        )


def check_size(images: Tensor, minimum: int, what: str) -> None:
    """Raise InputError where the height or width is below ``minimum``, the stride of ``what``."""
    for name, size in zip(("height", "width"), images.shape[-2:], strict=True):
        if size < minimum:
            raise InputError(
                f"image {name} is {size}, expected at least {minimum}, the stride of {what}: enlarge or pad the images"
            )


def check_positive(what: str, *numbers: int) -> None:
    """Raise InputError for a number below 1, and where there are none."""
    if not numbers or min(numbers) < 1:
        shown = ", ".join(map(str, numbers)) or "empty"
        raise InputError(f"{what} is {shown}, expected {'numbers' if len(numbers) != 1 else 'a number'} of at least 1")


def check_dropped(what: str, share: float, of: str) -> None:
    """Raise InputError for a share, of things as ``of`` names them, that is not from 0 to below 1."""
    if not 0 <= share < 1:
        raise InputError(f"{what} is {share}, expected from 0 to below 1, the share of {of}")


def check_widths(widths: Sequence[int]) -> list[int]:
    """Channels per level, finest first, as a list; InputError unless they are at least 2 positive numbers."""
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(
            f"widths is {list(widths)}, expected at least 2 positive numbers of channels, finest level first"
        )
    return list(widths)


def check_spatial_dims(spatial_dims: int) -> int:
    """2 for images or 3 for volumes; InputError for anything else."""
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims is {spatial_dims}, expected 2 (images) or 3 (volumes)")
    return spatial_dims
