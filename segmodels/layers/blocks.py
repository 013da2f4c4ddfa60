"""Building blocks that more than one model uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.errors import InputError


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


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1 convolution (Chollet 2017), each followed by batch norm; ReLU after the second
    only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, stride, dilation=dilation, groups=in_channels, activation=None
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, activation=activation)


def resize(features: Tensor, size: Sequence[int], mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """Interpolate ``(B, C, h, w)`` to ``size`` (height, width); ``align_corners`` has a meaning for
    ``bilinear`` only.
    """
    return F.interpolate(features, tuple(size), mode=mode, align_corners=align_corners if mode == "bilinear" else None)


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
    """Raise InputError where the height or width is below what the halvings of ``what`` need."""
    for name, size in zip(("height", "width"), images.shape[-2:], strict=True):
        if size < minimum:
            raise InputError(
                f"image {name} is {size}, expected at least {minimum}, the stride of {what}: enlarge or pad the images"
            )
