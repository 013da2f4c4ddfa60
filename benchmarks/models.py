"""Models beside the implementations of MONAI and transformers: ``python -m benchmarks.models [--threads N]``.

Forward and backward of one batch in training mode. Multiply-accumulates stand beside the times: where the two nets are
not the same, the ratio of the times is to be read against theirs. With a GPU at hand the same in bfloat16, channels
last and compiled.
"""

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels import create_model
from segmodels.encoders.registry import create_encoder
from segmodels.models.analysis import count_gmac

BATCH, CLASSES = 2, 21


class LastMap(nn.Module):
    """An encoder of ours or a model of transformers, reduced to its last map, so that both send back one gradient."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        output = self.body(images)
        return output[-1] if isinstance(output, list) else output.last_hidden_state


def transformers_resnet50() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return LastMap(ResNetModel(ResNetConfig()))


def transformers_mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return LastMap(MobileNetV2Model(MobileNetV2Config(tf_padding=False), add_pooling_layer=False))


def monai_unet() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, 3, CLASSES, features=(64, 128, 256, 512, 1024, 64), act="relu", norm="batch", bias=False)


def monai_unet_plus_plus() -> nn.Module:
    from monai.networks.nets import BasicUNetPlusPlus

    return BasicUNetPlusPlus(
        2, 3, CLASSES, features=(32, 64, 128, 256, 512, 32), deep_supervision=True, act="relu", norm="batch"
    )


def monai_attention_unet() -> nn.Module:
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, 3, CLASSES, channels=(64, 128, 256, 512, 1024), strides=(2, 2, 2, 2))


def transformers_upernet() -> nn.Module:
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    body = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=body, num_labels=CLASSES, auxiliary_in_channels=1024, use_auxiliary_head=False)
    )


PAIRS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[], nn.Module]]] = {
    "encoder resnet50": (
        lambda: LastMap(create_encoder("resnet50")),
        "transformers ResNetModel (same net)",
        transformers_resnet50,
    ),
    "encoder mobilenet_v2": (
        lambda: LastMap(create_encoder("mobilenet_v2")),
        "transformers MobileNetV2Model (and its 1280 channels)",
        transformers_mobilenet_v2,
    ),
    "unet": (
        lambda: create_model("unet", CLASSES),
        "MONAI BasicUNet (no halving in the last up-convolution)",
        monai_unet,
    ),
    "unet_plus_plus": (
        lambda: create_model("unet_plus_plus", CLASSES),
        "MONAI BasicUNetPlusPlus",
        monai_unet_plus_plus,
    ),
    "upernet_r50": (
        lambda: create_model("upernet_r50", CLASSES, encoder_options={"deep_stem": False}, auxiliary=False),
        "transformers UperNetForSemanticSegmentation (same net)",
        transformers_upernet,
    ),
    "attention_unet": (
        lambda: create_model("attention_unet", CLASSES),
        "MONAI AttentionUnet (strided convolutions for pools)",
        monai_attention_unet,
    ),
}


def tensors(output: object) -> list[Tensor]:
    """All tensors of whatever a model returns."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


def step(model: nn.Module, images: Tensor, autocast: bool) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        outputs = tensors(model(images))
    sum(output.float().square().mean() for output in outputs).backward()  # type: ignore[union-attr]
    model.zero_grad(set_to_none=True)
    if images.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    size = 512 if gpu else 128
    images = torch.randn(BATCH, 3, size, size, device=device)
    rows = []
    for name, (build, reference, build_reference) in PAIRS.items():
        torch.manual_seed(0)
        models = [build().to(device).train(), build_reference().to(device).train()]
        gmac = [count_gmac(model, images[:1]) for model in models]
        inputs = images
        if gpu:
            inputs = images.contiguous(memory_format=torch.channels_last)
            models = [torch.compile(model.to(memory_format=torch.channels_last)) for model in models]
        run = {
            key: functools.partial(step, model, inputs, gpu)
            for key, model in zip(("ours", "reference"), models, strict=True)
        }
        times = side_by_side(run, rounds=options.rounds, warmup=2)
        rows.append([name, reference, times["ours"], times["reference"], times["ours"] / times["reference"], *gmac])
        print(rows[-1], flush=True)
    how = (
        "bfloat16, channels last, compiled"
        if gpu
        else f"float32, {options.threads} thread{'s' if options.threads > 1 else ''}"
    )
    header = ["model", "reference", "ours, ms", "reference, ms", "time ratio", "ours, GMAC", "reference, GMAC"]
    text = (
        f"Forward and backward of {BATCH} x 3 x {size} x {size}, {CLASSES} classes,"
        f" {how}.\n\n{markdown_table(header, rows)}"
    )
    where = torch.cuda.get_device_name() if gpu else "CPU"
    write_section(f"Models on {where}", text, ("torch", "monai", "transformers"))


if __name__ == "__main__":
    main()
