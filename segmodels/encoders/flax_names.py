"""Weights that Google publishes of its vision transformers: ``.npz`` files of Flax's names and layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.layers.names import Names

ATTENTION = "MultiHeadDotProductAttention_1"

GOOGLE: Names = (
    (r"^Transformer\.encoderblock_(\d+)\.", r"blocks.\1."),
    (r"\.LayerNorm_0\.", ".norm1."),
    (r"\.LayerNorm_2\.", ".norm2."),
    (rf"\.{ATTENTION}\.(q|k|v)(uery|ey|alue)\.", r".attn.\1."),
    (rf"\.{ATTENTION}\.out\.", ".attn.proj."),
    (r"\.MlpBlock_3\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock_3\.Dense_1\.", ".mlp.fc2."),
    (r"^Transformer\.encoder_norm\.", "norm."),
    (r"^Transformer\.posembed_input\.pos_embedding$", "embed.pos_embed"),
    (r"^embedding\.", "embed.proj."),
    (r"^cls$", "embed.cls_token"),
)
"""Names of the tensors in the files of github.com/google-research/vision_transformer, and ours in their place."""


def read_npz(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in torch's layouts, by Flax's names with ``.`` between the parts and ``weight`` for kernel
    and scale: ``Transformer.encoderblock_0.LayerNorm_0.weight``.

    Flax keeps kernels of convolutions as (height, width, in, out), of linear layers as (in, out), those of attention as
    (in, heads, channels of a head) and, of its output, (heads, channels of a head, out).

    Raises:
        ValueError: the file is damaged, or holds pickled objects.
    """
    with np.load(path, allow_pickle=False) as file:
        return {_name(key): torch.from_numpy(_torch_layout(key, file[key])) for key in file.files}


def _name(key: str) -> str:
    path, _, last = key.removeprefix("opt/target/").rpartition("/")
    last = "weight" if last in ("kernel", "scale") else last
    return ".".join(filter(None, [*path.split("/"), last]))


def _torch_layout(key: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    if key.endswith(("/scale", "/bias")):  # a group norm's are (1, 1, 1, channels), a head's (heads, channels)
        return value.reshape(-1)
    if not key.endswith("/kernel"):
        return value
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 3 and key.endswith("/out/kernel"):
        value = value.reshape(-1, value.shape[2]).T
    else:
        value = value.reshape(value.shape[0], -1).T
    return np.ascontiguousarray(value)
