"""Models beside the implementations of MONAI and transformers: ``python -m benchmarks.models [--threads N]``.

Forward and backward of one batch in training mode, and the memory at its highest. Multiply-accumulates stand beside the
times: where the two nets are not the same, the ratio of the times is to be read against theirs. With a GPU at hand the
same in bfloat16, channels last and compiled. A second table says what gradient checkpointing saves.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.model_pairs import CLASSES, PAIRS
from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.encoders.registry import create_encoder
from segmodels.models.analysis import count_gmac

BATCH = 2
CHECKPOINTED = "encoder vit_base with gradient checkpointing"


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


def peak_memory(run: Callable[[], object], gpu: bool) -> float:
    """MiB that ``run`` allocates at its highest, above what it found."""
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most / 2**20


def frozen_gmac(model: nn.Module, images: Tensor) -> float:
    """``count_gmac`` without gradients to come, whose absence its hooks do not expect of transformers' SamModel."""
    trained = [parameter.requires_grad_(False) for parameter in model.parameters() if parameter.requires_grad]
    counted = count_gmac(model, images)
    for parameter in trained:
        parameter.requires_grad_(True)
    return counted


def compared(name: str, rounds: int, size: int | None, device: str, clock: Callable[[], float]) -> list[object]:
    """A row of the table."""
    pair, gpu = PAIRS[name], device == "cuda"
    size = size or (512 if gpu else pair.size)
    images = torch.randn(BATCH, 3, size, size, device=device)
    torch.manual_seed(0)
    models: list[Any] = [build(size).to(device).train() for build in (pair.ours, pair.theirs)]
    gmac = [frozen_gmac(model, images[:1]) for model in models]
    if gpu:
        images = images.contiguous(memory_format=torch.channels_last)
        models = [torch.compile(model.to(memory_format=torch.channels_last)) for model in models]
    runs = {
        key: functools.partial(step, model, images, gpu)
        for key, model in zip(("ours", "reference"), models, strict=True)
    }
    times = side_by_side(runs, rounds=rounds, warmup=2, clock=clock)
    memory = [peak_memory(run, gpu) for run in runs.values()]
    ratios = times["ours"] / times["reference"], memory[0] / memory[1]
    return [name, pair.reference, size, *times.values(), ratios[0], *memory, ratios[1], *gmac]


def checkpointing(device: str) -> list[object]:
    """What gradient checkpointing of ViT-B saves, and the largest difference that it makes to a gradient."""
    images = torch.randn(8, 3, 224, 224, device=device, generator=torch.Generator(device).manual_seed(0))
    memory, gradients = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        body = create_encoder("vit_base", checkpointing=checkpointed).to(device).train()
        body(images)[-1].square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in body.parameters() if parameter.grad is not None])
        body.zero_grad(set_to_none=True)
        memory.append(peak_memory(functools.partial(step, body, images, autocast=False), device == "cuda"))
    differences = [(one - other).abs().max().item() for one, other in zip(*gradients, strict=True)]
    return [CHECKPOINTED, *memory, memory[1] / memory[0], f"{max(differences):.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--size", type=int, help="height and width of the images (default 512 on a GPU, else 128 or 256)"
    )
    parser.add_argument("--only", default="", help="a part of the models' names; RESULTS.md stays as it is")
    parser.add_argument("--processor-time", action="store_true", help="not of the clock: beside other work")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # random models may have gradients so small that processors compute them slowly
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    clock = time.process_time if options.processor_time else time.perf_counter
    rows = []
    for name in PAIRS:
        if options.only in name:
            rows.append(compared(name, options.rounds, options.size, device, clock))
            print(rows[-1], flush=True)
    saved = checkpointing(device) if options.only in CHECKPOINTED else []
    if options.only:
        print(saved or "")
        return
    how = (
        "bfloat16, channels last, compiled"
        if gpu
        else f"float32, {options.threads} thread{'s' if options.threads > 1 else ''}"
    )
    header = [
        *("model", "reference", "size", "ours, ms", "reference, ms", "time ratio"),
        *("ours, MiB", "reference, MiB", "memory ratio", "ours, GMAC", "reference, GMAC"),
    ]
    saved_header = [
        *("8 images of 224 x 224", "without, MiB", "with, MiB", "ratio"),
        "largest difference of a gradient",
    ]
    text = (
        f"Forward and backward of {BATCH} images, {CLASSES} classes, {how}.\n\n{markdown_table(header, rows)}\n\n"
        f"{markdown_table(saved_header, [saved])}"
    )
    where = torch.cuda.get_device_name() if gpu else "CPU"
    write_section(f"Models on {where}", text, ("torch", "monai", "transformers"))


if __name__ == "__main__":
    main()
