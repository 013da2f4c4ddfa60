"""Losses side by side with their peers, forward and backward: ``python -m benchmarks.losses``.

4 images of 256 x 512 pixels, 19 classes, float32, 2 threads. Peak memory is what the process holds at most above the
logits, the target and the libraries, read from the kernel (Linux).
"""

from __future__ import annotations

import ctypes
import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import kornia.losses
import monai.losses
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.losses import create_loss

IMAGES, CLASSES, HEIGHT, WIDTH, THREADS = 4, 19, 256, 512, 2
Loss = Callable[[Tensor, Tensor], Tensor]
REGION = (
    *("dice", "iou", "tversky", "focal_tversky", "asymmetric_similarity"),
    *("sensitivity_specificity", "generalized_dice", "penalty"),
)


def inputs() -> tuple[Tensor, Tensor]:
    """Logits of a network that is half trained, and a target of rectangles."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, CLASSES, (IMAGES, HEIGHT // 32, WIDTH // 32), generator=generator)
    target = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    noise = torch.randn(IMAGES, CLASSES, HEIGHT, WIDTH, generator=generator)
    return noise + 3 * F.one_hot(target, CLASSES).movedim(-1, 1), target


def one_channel(loss: torch.nn.Module) -> Loss:
    """MONAI takes the target with a channel axis."""
    return lambda logits, target: loss(logits, target[:, None])


def lovasz_by_torch_sort(logits: Tensor, target: Tensor) -> Tensor:
    """The textbook form: sort the errors of each class, cumulate, take differences."""
    probabilities, target = logits.softmax(1).movedim(1, -1).reshape(-1, CLASSES), target.flatten()
    losses = []
    for c in target.unique().tolist():
        truth = (target == c).float()
        errors, order = (truth - probabilities[:, c]).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        losses.append((errors * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean()


PEERS: dict[str, dict[str, Loss]] = {
    "dice": {
        "kornia": lambda x, y: kornia.losses.dice_loss(x, y, average="macro"),
        "MONAI": one_channel(monai.losses.DiceLoss(softmax=True, to_onehot_y=True)),
    },
    "iou": {"MONAI": one_channel(monai.losses.DiceLoss(softmax=True, to_onehot_y=True, jaccard=True))},
    "tversky": {
        "kornia": lambda x, y: kornia.losses.tversky_loss(x, y, alpha=0.3, beta=0.7),
        "MONAI": one_channel(monai.losses.TverskyLoss(softmax=True, to_onehot_y=True)),
    },
    "generalized_dice": {"MONAI": one_channel(monai.losses.GeneralizedDiceLoss(softmax=True, to_onehot_y=True))},
    "focal": {
        "kornia": lambda x, y: kornia.losses.focal_loss(x, y, alpha=None, reduction="mean"),
        "MONAI": one_channel(monai.losses.FocalLoss(to_onehot_y=True, use_softmax=True)),
    },
    "boundary": {
        "MONAI": one_channel(monai.losses.BoundaryLoss(softmax=True, to_onehot_y=True, include_background=False))
    },
    "hausdorff": {
        "MONAI": one_channel(monai.losses.HausdorffDTLoss(softmax=True, to_onehot_y=True, include_background=True))
    },
    "lovasz_softmax": {"kornia": kornia.losses.lovasz_softmax_loss, "torch.sort": lovasz_by_torch_sort},
}
GROUPS = [  # contenders that run in turn, and how often
    (("cross_entropy", "binary_cross_entropy", "focal", "top_k", "ohem"), 7),
    (REGION, 7),
    (("lovasz_softmax",), 3),
    (("hausdorff", "boundary", "distance_penalized_cross_entropy"), 3),
    (("ms_ssim",), 3),
]


def peak_mebibytes(run: Callable[[], object]) -> float:
    """Largest resident memory during ``run`` above that before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    """A line of /proc/self/status, KiB."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
    )


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(THREADS)
    logits, target = inputs()

    def training_step(loss: Loss) -> Callable[[], None]:
        def step() -> None:
            loss(logits.requires_grad_(), target).backward()
            logits.grad = None

        return step

    rows = []
    for names, rounds in GROUPS:
        losses: dict[tuple[str, str], Loss] = {("cross_entropy", "torch"): F.cross_entropy}
        for name in names:
            losses[name, "ours"] = create_loss({name: 1.0})
            losses |= {(name, peer): loss for peer, loss in PEERS.get(name, {}).items()}
        steps = {f"{name} {by}": training_step(loss) for (name, by), loss in losses.items()}
        times = side_by_side(steps, rounds=rounds, warmup=1)
        memory = {name: peak_mebibytes(step) for name, step in steps.items()}
        for name in names:
            ours, reference = f"{name} ours", "cross_entropy torch"
            peers = [f"{name} {peer}" for peer in PEERS.get(name, {})] or (
                [reference] if name == "cross_entropy" else []
            )
            rows.append(
                [
                    name,
                    times[ours],
                    times[ours] / times[reference],
                    memory[ours],
                    ", ".join(f"{peer.split()[1]} {times[peer]:.0f} ms / {memory[peer]:.0f} MiB" for peer in peers)
                    or "-",
                    min(times[peer] for peer in peers) / times[ours] if peers else "-",
                ]
            )
    write_section(
        f"Losses, forward and backward of {IMAGES}x{CLASSES}x{HEIGHT}x{WIDTH} float32, {THREADS} threads",
        markdown_table(
            ["loss", "ms", "times F.cross_entropy", "peak MiB", "peers", "times faster than the fastest peer"], rows
        ),
        packages=("torch", "monai", "kornia", "opencv-python-headless", "numba"),
    )


if __name__ == "__main__":
    main()
