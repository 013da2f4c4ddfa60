"""Registered models in sizes that tests can train: the smallest variant of each file of models, smaller still where an
option does it.
"""

import inspect
from functools import cache

import torch

from segmodels.models.analysis import on_meta
from segmodels.models.registry import MODELS, create_model, model_body, model_entry, model_options
from segmodels.outputs import PixelOutput, QueryOutput

# of the library: other test files register models of their own
LIBRARY = [entry.name for entry in MODELS if entry.build.__module__.startswith("segmodels.")]
VARIANTS = [name for name in LIBRARY if "semantic" in model_entry(name).card.tasks]


def family(name: str) -> str:
    """The file that a variant is written in."""
    return inspect.unwrap(model_entry(name).build).__module__.rsplit(".", 1)[-1]


# What stands for the encoder of a variant of ``SMALL``, and everywhere for a ResNet (whose sizes the tests of encoders
# compare with torchvision's) and ViT-L: prefix -> (encoder, options).
SMALLER_ENCODERS: dict[str, tuple[str, dict[str, object]]] = {
    "resnet": ("resnet18", {}),
    "vit": ("vit_tiny", {"image_size": 64, "patch": 8, "out_blocks": [3, 6, 9, 12]}),
    "r50_vit": ("r50_vit_base", {"image_size": 64, "depth": 2, "resnet_depths": [1, 1, 1]}),
}

# Fewer parts of a kind, for variants of ``SMALL``: variant -> options.
FEWER_PARTS: dict[str, dict[str, object]] = {
    "gruu_net": {"widths": (16, 32, 64, 32, 16)},  # five units of nine
}


def stands_on(name: str, prefix: str) -> bool:
    body = model_body(name)
    return body is not None and body.encoder.startswith(prefix)


def size_in_tests(name: str) -> float:
    """How large a variant is as ``build`` makes it, to compare with others of its family."""
    card = model_entry(name).card
    return (card.parameters or 0) * (card.gmac or 0) / (20 if stands_on(name, "resnet") else 1)


def smallest_of_each_family(variants: list[str]) -> list[str]:
    families: dict[str, list[str]] = {}
    for name in variants:
        families.setdefault(family(name), []).append(name)
    return [min(names, key=size_in_tests) for _, names in sorted(families.items())]


SMALL = smallest_of_each_family(VARIANTS)
OTHERS = [name for name in VARIANTS if name not in SMALL]

# Spatial size of the test images, where 64 x 64 and the odd 75 x 53 do not do: variant -> (size, odd size, reason).
STRIDE_64 = (
    (128, 128),
    (139, 117),
    "the coarsest map, at stride 64, would be a single pixel, which an exported graph would take for a constant",
)
PATCHES = ((96, 96), (107, 85), "of patches of 8 pixels, smaller scenes have too few to be learned to 0.95")
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    **dict.fromkeys(("dfanet_a", "dfanet_b"), STRIDE_64),
    **dict.fromkeys(("segmenter_t_mask", "setr_naive"), PATCHES),
}
# Too large for the machine that runs the tests; their counts are checked, their code is that of a smaller variant:
# variant -> reason.
TOO_LARGE: dict[str, str] = dict.fromkeys(
    (
        *("segformer_b3", "segformer_b4", "segformer_b5", "segmenter_b_mask", "segmenter_l_mask", "transunet_r50_l16"),
        *(f"{system}_swin_{size}" for system in ("maskformer", "mask2former") for size in "tsbl"),
        *("knet_upernet_swin_t", "knet_upernet_swin_l"),
    ),
    "larger numbers in the code of the smaller variants",
)


def sizes(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if name in SIZES:
        return SIZES[name][:2]
    dims = len(model_entry(name).card.size)
    return ((64, 64), (75, 53)) if dims == 2 else ((32,) * dims, (35, 37, 33)[:dims])


@cache
def without_memory(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A variant as its card describes it and one image, on the meta device; made once for all tests that only look."""
    return on_meta(name)


def build(name: str, num_classes: int = 3, **options: object) -> torch.nn.Module:
    """A variant with random weights, made smaller where an option does it and the model stays the same: another body;
    for those of ``SMALL`` fewer channels, too.
    """
    for prefix, (encoder, encoder_options) in SMALLER_ENCODERS.items():
        everywhere = prefix == "resnet" or stands_on(name, "vit_large")
        if stands_on(name, prefix) and (name in SMALL or everywhere):
            options = {"encoder": encoder, "encoder_options": encoder_options, **options}
    options = FEWER_PARTS.get(name, {}) | options
    if name in SMALL and "widths" in model_options(name):
        options.setdefault("widths", [max(width // 4, 8) for width in model_options(name)["widths"]])
    if "queries" in model_options(name):
        options.setdefault("queries", 10)
    torch.manual_seed(0)
    return create_model(name, num_classes, **options)


def images_for(name: str, batch: int, size: tuple[int, ...], channels: int | None = None) -> torch.Tensor:
    channels = channels or model_options(name).get("in_channels", 3)
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def logits_of(prediction: PixelOutput | QueryOutput) -> list[torch.Tensor]:
    """Logits (B, C, *spatial) float32 of the output and of each auxiliary one."""
    if isinstance(prediction, PixelOutput):
        return [logits.float() for logits in (prediction.logits, *prediction.auxiliary)]
    return [layer.probabilities().clamp(min=1e-6).log() for layer in (prediction, *prediction.auxiliary)]
