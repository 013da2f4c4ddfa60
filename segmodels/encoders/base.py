"""What every encoder is: feature maps with known channels and strides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmodels.errors import InputError


class Encoder(nn.Module):
    """A body without its classifier: ``encoder(images)`` gives one map per stage, from fine to coarse.

    Attributes:
        in_channels: channels of the images, ``(B, in_channels, H, W)``.
        channels, strides: of each map. Map i is ``(B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`` for
            inputs that the stride divides; other sizes are rounded as the paper's padding rounds them.
        first_layer: key of the weight of the first convolution, which ``load_weights`` adapts to ``in_channels``.
        classifier: prefixes of the keys of published checkpoints that belong to the classifier and are left out.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    first_layer: str | None = None
    classifier: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, in_channels, H, W)`` to one map per stage."""
        raise NotImplementedError

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """The modules that make each map from the one before: ``freeze`` stops whole stages."""
        raise NotImplementedError

    def translate(self, key: str) -> str:
        """Our name of a tensor that published checkpoints know under another name."""
        return key


def check_output_stride(encoder: str, output_stride: int, supported: Sequence[int]) -> None:
    """Raise InputError unless the encoder can work at that output stride."""
    if output_stride not in supported:
        raise InputError(f"output_stride of {encoder} is {output_stride}, expected {' or '.join(map(str, supported))}")
