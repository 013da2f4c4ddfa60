"""transformers' MaskFormer and Mask2Former in the small, and a model of ours with their weights."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segmodels.encoders.resnet import Bottleneck, ResNet
from segmodels.encoders.swin import Swin
from segmodels.models.base import Model
from segmodels.models.published import load_published
from segmodels.outputs import QueryOutput
from segmodels.tasks.targets import Segments

CLASSES = 5
SWIN = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 3, 6], "window_size": 7, "layer_norm_eps": 1e-5}
RESNET = {"depths": [1, 1, 1, 1]}
OUT = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def swin() -> Swin:
    return Swin(24, (2, 2, 2, 2), (1, 2, 3, 6))


def resnet() -> ResNet:
    return ResNet(Bottleneck, (1, 1, 1, 1))


def drawn(module: nn.Module) -> nn.Module:
    """Weights as large as after training, each drawn from a seed that its name gives."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or name.startswith("criterion."):
            continue
        random = np.random.default_rng(crc32(name.encode()))
        if tensor.dim() == 1:
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.5
            values = random.uniform(low, low + 1, tensor.shape)
        elif "sampling_offsets" in name:
            values = random.normal(0, 0.02, tensor.shape)
        else:
            values = random.normal(0, 1.0 if "embed" in name else tensor[0].numel() ** -0.5, tensor.shape)
        tensor.copy_(torch.from_numpy(values))
    return module.eval()


def with_weights_of(reference: nn.Module, model: Model, folder: Path) -> Model:
    """From a file, as users have it."""
    state = {key: value.contiguous() for key, value in reference.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    load_published(model, folder / "weights.safetensors")
    return model.eval()


def scene(size: tuple[int, int]) -> tuple[Tensor, list[Segments]]:
    """Two images, with 3 objects and with 1."""
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, *size))).float()
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, :20, :31], masks[1, 20:50], masks[2, 10:40, 40:] = True, True, True
    masks[1] &= ~masks[2]
    valid = torch.ones(size, dtype=torch.bool)
    return images, [Segments(torch.tensor([1, 1, 4]), masks, valid), Segments(torch.tensor([2]), masks[1:2], valid)]


def labels_of(segments: list[Segments]) -> dict[str, list[Tensor]]:
    """As transformers' models take them."""
    return {"mask_labels": [own.masks.float() for own in segments], "class_labels": [own.labels for own in segments]}


def assert_same(ours: QueryOutput, class_logits: Tensor, mask_logits: Tensor) -> None:
    scale = mask_logits.abs().max().item()
    torch.testing.assert_close(ours.class_logits, class_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.mask_logits, mask_logits, rtol=1e-4, atol=1e-4 * max(scale, 1))
