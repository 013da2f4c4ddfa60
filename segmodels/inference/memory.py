"""The least memory that a model takes for images of some size, found without data and without memory.

Fake tensors run it: they have no values, but choose the kernels of their device. Tensors of the meta device would
count the scores of every attention, which the CPU's kernel does not keep.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segmodels.outputs import PixelOutput, QueryOutput


def training_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes that a training step keeps for its backward pass, weights and gradients included.

    The loss and what layers use in passing come on top.

    Args:
        shape: of the images, (B, C, *spatial).

    Returns:
        0 where it cannot be said: the model draws what it learns from by the targets (detectors), needs prompts, or
        cannot be copied.
    """
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no number of a storage is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    try:
        mode = _fake_mode()
        shadow = _shadow(model, mode).train()
        weights = {_storage(tensor) for tensor in _tensors(shadow)}
        with mode, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = shadow(torch.empty(*shape))
    except Exception:  # whatever a model does not do without values
        return 0
    if not isinstance(output, PixelOutput | QueryOutput):
        return 0
    learned = sum(2 * own.nbytes for own in shadow.parameters() if own.requires_grad)
    return learned + sum(own.untyped_storage().nbytes() for key, own in kept.items() if key not in weights)


@torch.no_grad()
def prediction_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes of what the largest layer reads and writes in a prediction.

    Args:
        shape: of the images, (B, C, *spatial).

    Returns:
        Of the layers before the first that needs values (detectors, which keep some boxes), or prompts; 0 where
        there is none, or the model cannot be copied.
    """
    most = 0

    def look(_module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal most
        values = [*inputs, *(output if isinstance(output, list | tuple) else [output])]
        own = {_storage(value): value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor)}
        most = max(most, sum(own.values()))

    with suppress(Exception):  # of whatever a model does not do without values
        mode = _fake_mode()
        shadow = _shadow(model, mode).eval()
        for module in shadow.modules():
            if not any(module.children()):
                module.register_forward_hook(look)
        with mode:
            shadow(torch.empty(*shape))
    return most


def _fake_mode() -> FakeTensorMode:
    """Takes a model's plain tensors for fake ones, and runs no kernel for operations that have none without values."""
    return FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)


def _shadow(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of the model without memory for its weights."""
    given = {id(own): mode.from_tensor(own) for own in _tensors(model)}
    return copy.deepcopy(model, given)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
