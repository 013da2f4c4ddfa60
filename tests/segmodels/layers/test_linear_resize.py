"""Linear interpolation by matrix products: torch's numbers, whatever the sizes, types and memory formats."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segmodels
from segmodels.layers import blocks
from segmodels.layers.linear_resize import linear_resize

SIZES = [
    ((2, 3, 7, 5), (28, 20)),
    ((2, 3, 16, 16), (33, 65)),
    ((2, 5, 32, 24), (256, 192)),
    ((1, 4, 1, 1), (9, 5)),
    ((2, 3, 20, 30), (7, 11)),
    ((2, 3, 8, 8), (1, 1)),
    ((2, 1, 9, 9), (9, 9)),
    ((2, 3, 5, 6, 7), (10, 13, 9)),
]
CASES = [
    (shape, size, aligned, last)
    for (shape, size), aligned, last in product(SIZES, (False, True), (False, True))
    if not (last and len(shape) == 5)
]


def torchs(features: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return F.interpolate(features, size, mode=mode, align_corners=align_corners)


@pytest.mark.parametrize(("shape", "size", "align_corners", "channels_last"), CASES)
def test_numbers_gradients_and_memory_format_are_torchs(
    shape: tuple[int, ...], size: tuple[int, ...], align_corners: bool, channels_last: bool
) -> None:
    torch.manual_seed(0)
    features = torch.rand(shape) * 2 - 1
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    features.requires_grad_()
    expected, found = torchs(features, size, align_corners), linear_resize(features, size, align_corners)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert found.is_contiguous(memory_format=memory_format) or features.numel() == features.shape[1]
    weights = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), features)
    (gradient,) = torch.autograd.grad((weights * found).sum(), features)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6 * float(expected_gradient.abs().max()), rtol=0)

    half = features.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_resize(half, size, align_corners)
        whole = linear_resize(features.detach(), size, align_corners)
    assert found.dtype == torch.bfloat16
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole, torchs(features.detach(), size, align_corners), atol=1e-6, rtol=0)
    exact = torchs(half.float(), size, align_corners)
    assert ((found.float() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all(), "rounded once"


def test_double_precision_stays() -> None:
    features = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(linear_resize(features, (11, 3)), torchs(features, (11, 3), False), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("align_corners", [False, True])
def test_it_exports_with_free_sizes(align_corners: bool) -> None:
    class Resize(nn.Module):
        def forward(self, features: Tensor, like: Tensor) -> Tensor:
            return linear_resize(features, like.shape[2:], align_corners)

    free = torch.export.Dim.AUTO
    shapes = {name: {0: free, 2: free, 3: free} for name in ("features", "like")}
    program = torch.export.export(Resize(), (torch.randn(2, 3, 8, 9), torch.randn(2, 1, 20, 31)), dynamic_shapes=shapes)
    features, like = torch.rand(5, 3, 6, 4), torch.rand(5, 1, 11, 12)
    found = program.module()(features, like)
    torch.testing.assert_close(found, torchs(features, (11, 12), align_corners), atol=1e-6, rtol=0)


class OnGpu(Tensor):
    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize(("deterministic", "mode"), [(True, "bilinear"), (False, "bilinear"), (True, "nearest")])
def test_models_use_it_on_gpus_where_deterministic_algorithms_are_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool, mode: str
) -> None:
    used: list[Tensor] = []
    monkeypatch.setattr(blocks, "linear_resize", lambda features, *_: (used.append(features), features)[1])
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    features = torch.randn(1, 2, 4, 4)
    blocks.resize(features, (8, 8), mode)
    assert not used, "on the CPU the bits are torch's"
    blocks.resize(features.as_subclass(OnGpu), (8, 8), mode)
    assert bool(used) == (deterministic and mode == "bilinear")


def linear_interpolations(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "interpolate"
            and not any(mode in ast.unparse(node) for mode in ("nearest", "bicubic"))  # bicubic: position embeddings
        ):
            yield f"{path.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_features_of_the_wanted_size_are_returned_as_they_are(mode: str) -> None:
    features = torch.randn(1, 2, 5, 7)
    assert blocks.resize(features, (5, 7), mode) is features
    assert torch.equal(torch.nn.functional.interpolate(features, (5, 7), mode=mode), features)
    volume = torch.randn(1, 2, 3, 5, 7)
    assert blocks.resize(volume, [3, 5, 7]) is volume


def test_no_linear_interpolation_of_a_training_goes_past_resize() -> None:
    root = Path(segmodels.__file__).parent
    files = [file for room in ("models", "encoders", "layers", "losses") for file in (root / room).glob("*.py")]
    found = [call for file in [*files, root / "object_reading.py"] for call in linear_interpolations(file)]
    # resize itself; smaller copies of the images and images of the encoder's size, without a gradient
    allowed = ("blocks.py", "deeplab_v2.py", "sam.py: functional.interpolate(images")
    assert [call for call in found if not call.startswith(allowed)] == []
