"""What the training loop costs over a bare PyTorch loop of the same model, batches, loss and optimiser.

Target: at most 5 % more. Both loops see the same tensors; the loader is left out of both, its own benchmark measures
    it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

import torch

from benchmarks.report import markdown_table, write_section
from segmodels.data.batches import Batch
from segmodels.labels import LabelMap
from segmodels.losses import create_loss
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task
from segmodels.tasks.targets import SemanticTargets
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.fabric import Fabric
from segmodels.training.fit import Fit
from segmodels.training.learner import SupervisedLearner
from segmodels.training.state import FitSettings

Precision = Literal["32-true", "bf16-mixed"]
BATCH, SIZE, CLASSES, BATCHES, ROUNDS = 16, 96, 11, 12, 5
MEAN, STD = (127.0,) * 3, (60.0,) * 3
LABELS = LabelMap(
    tuple(map(str, range(CLASSES))), tuple((i, i, i) for i in range(CLASSES)), {i: i for i in range(CLASSES)}
)


class Batches:
    """The same few batches every epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
            for _ in range(BATCHES)
        ]
        self.batches = [
            Batch(
                image.contiguous(memory_format=torch.channels_last),
                SemanticTargets(torch.randint(0, CLASSES, (BATCH, SIZE, SIZE), generator=generator)),
                torch.arange(BATCH),
            )
            for image in images
        ]

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...

    def close(self) -> None: ...

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def new_learner() -> tuple[SupervisedLearner, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = create_model("unet", CLASSES, widths=[16, 32, 64, 128, 256])
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub lacks it
    task, loss = create_task("semantic", LABELS), create_loss({"cross_entropy": 1.0})
    return SupervisedLearner(model, task, loss, mean=MEAN, std=STD), torch.optim.AdamW(model.parameters(), lr=1e-3)


def bare_epoch(batches: list[Batch], precision: str) -> float:
    learner, optimizer = new_learner()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    start = time.perf_counter()
    for images, (masks, *_), _ in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = learner.model((images.float() - mean) / std).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), masks, ignore_index=255)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def our_epoch(batches: Batches, precision: Precision) -> float:
    learner, optimizer = new_learner()
    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        settings = FitSettings(epochs=1, validate_every=10)
        fit = Fit(
            fabric,
            learner,
            optimizer,
            lambda _: 1.0,
            batches,
            [],
            settings=settings,
            checkpoints=Checkpoints(Path(folder)),
        )
        start = time.perf_counter()
        fit._train_epoch()
        return time.perf_counter() - start


def main() -> None:
    batches, rows = Batches(), []
    for precision in get_args(Precision):
        bare, ours = [], []
        for turn in range(ROUNDS + 1):
            times = bare_epoch(batches.batches, precision), our_epoch(batches, precision)
            if turn:
                bare.append(times[0])
                ours.append(times[1])
        rows.append([precision, min(bare) / BATCHES * 1e3, min(ours) / BATCHES * 1e3, f"{min(ours) / min(bare):.3f}"])
    header = [f"U-Net 16..256, batch {BATCH} of {SIZE}x{SIZE}", "bare loop, ms per step", "Fit, ms per step", "ratio"]
    write_section(
        "Training loop against a bare PyTorch loop (fastest of five epochs)",
        markdown_table(header, rows),
        packages=("torch", "lightning"),
    )


if __name__ == "__main__":
    main()
