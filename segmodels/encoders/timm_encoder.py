"""Every encoder of timm (pytorch-image-models, Wightman) by ``timm:NAME``, where timm is installed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.errors import InputError, on_one_line
from segmodels.layers.blocks import check_images
from segmodels.suggest import near_names

TIMM = "timm:"
"""How the name of such an encoder starts."""


class TimmEncoder(Encoder):
    """A timm model with ``features_only=True``; its maps and strides are timm's ``feature_info``.

    Args:
        name: timm's name of the model.
        options: go to ``timm.create_model``, such as ``pretrained=True`` or ``out_indices``.

    Raises:
        InputError: timm is not installed, has no such model, or the model does not have that output stride.
    """

    def __init__(self, name: str, in_channels: int = 3, output_stride: int = 32, **options: Any) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise InputError(
                f"encoder 'timm:{name}' needs timm, which is not installed: pip install 'segmodels[timm]'"
            ) from None
        if output_stride != 32:
            options["output_stride"] = output_stride
        try:
            self.body = timm.create_model(name, features_only=True, in_chans=in_channels, **options)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
            raise InputError(
                f"timm cannot build {name!r} with in_channels {in_channels}, output_stride {output_stride}: {error}"
            ) from None
        self.name = name
        self.in_channels = in_channels
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        output_format = getattr(self.body, "output_fmt", "NCHW")  # Swin and others put channels last
        self.channels_last = getattr(output_format, "value", output_format) == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        try:
            maps = self.body(images)
        except AssertionError as error:  # of encoders with a fixed input size
            height, width = images.shape[-2:]
            raise InputError(
                f"timm's {self.name} does not take images of {height} x {width} pixels ({on_one_line(error)}): set"
                f" encoder_options {{img_size: [{height}, {width}]}}, or {{strict_img_size: false}} where it has that"
            ) from None
        return [features.movedim(-1, 1) for features in maps] if self.channels_last else maps

    def stages(self) -> list[list[nn.Module]]:
        return [[self.body]]

    def translate(self, key: str) -> str:
        return f"body.{key}"


def check_name(name: str) -> None:
    """Raise InputError for a name that the installed timm does not have. Where timm is not installed, or the name is an
    address (``hf-hub:...``), building the encoder tells.
    """
    try:
        import timm
    except ImportError:
        return
    if ":" in name or timm.is_model(name):
        return
    near = near_names(name, timm.list_models())
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() names all"
    raise InputError(f"timm {timm.__version__} has no model {name!r}: {advice}")
