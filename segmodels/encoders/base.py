"""The interface of every encoder: feature maps with known channels and strides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segmodels.encoders.weights import adapt_channels
from segmodels.errors import InputError


class Encoder(nn.Module):
    """A body without its classifier: ``encoder(images)`` gives one map per stage, from fine to coarse.

    Attributes:
        in_channels: channels of the images, ``(B, in_channels, H, W)``.
        channels, strides: of each map. Map i is ``(B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`` for
            inputs that the stride divides; other sizes are rounded as the paper's padding rounds them.
        first_layer: key of the weight of the first convolution, which ``adapt`` fits to ``in_channels``.
        classifier: prefixes of the keys of published checkpoints that belong to the classifier and are left out.
        form: of encoders that published weights exist in several forms of, the form's name; see ``pretrained.csv``.
        checkpointing: blocks that go through ``run`` keep no activations for the backward pass, which computes them
            anew: less memory, a third more work.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    first_layer: str | None = None
    classifier: tuple[str, ...] = ()
    form: str = ""
    checkpointing: bool = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, in_channels, H, W)`` to one map per stage."""
        raise NotImplementedError

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """``block(*inputs)``, in training without keeping its activations where ``checkpointing`` is set."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def maps(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """The maps at these strides, in their order; see ``place``."""
        places = [self.place(stride) for stride in strides]
        maps = self(images)
        return [maps[place] for place in places]

    def channels_at(self, strides: Sequence[int]) -> list[int]:
        """Channels of the maps at these strides; see ``place``."""
        return [self.channels[self.place(stride)] for stride in strides]

    def place(self, stride: int) -> int:
        """Index of the map at a stride; of several at the same stride, as dilated encoders have, the last.

        Raises:
            InputError: the encoder has no map at that stride.
        """
        if stride not in self.strides:
            raise InputError(
                f"{type(self).__name__} has maps at the strides {', '.join(map(str, self.strides))}, expected one at"
                f" stride {stride}, which the model reads: choose another encoder or output stride"
            )
        return len(self.strides) - 1 - self.strides[::-1].index(stride)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """The modules that make each map from the one before: ``freeze`` stops whole stages."""
        raise NotImplementedError

    def translate(self, key: str) -> str:
        """Our name of a tensor that published checkpoints know under another name."""
        return key

    def advice(self, keys: Collection[str]) -> str:
        """What to do about published tensors of these names (ours) that belong to another form of this encoder; empty
        where nothing is known about them.
        """
        return ""

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors, already under our names, made to fit this encoder's shapes where that has a meaning.

        The first convolution is adapted to ``in_channels`` (``adapt_channels``); encoders with position embeddings
        resample them too.
        """
        key = self.first_layer
        if key is None or key not in state or state[key].dim() != self.get_parameter(key).dim():
            return state
        return state | {key: adapt_channels(state[key], self.get_parameter(key).shape[1])}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that learn at a rate of their own, see ``Model.parameter_groups``."""
        return []

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that must not decay: position embeddings and the like."""
        return set()


def check_layer_decay(share: float) -> None:
    """Raise InputError unless ``share`` of the next layer's learning rate is above 0 and at most 1."""
    if not 0 < share <= 1:
        raise InputError(f"layer_decay is {share}, expected above 0 and at most 1, which lets all layers learn alike")


def check_output_stride(encoder: str, output_stride: int, supported: Sequence[int]) -> None:
    """Raise InputError unless the encoder can work at that output stride."""
    if output_stride not in supported:
        raise InputError(f"output_stride of {encoder} is {output_stride}, expected {' or '.join(map(str, supported))}")
