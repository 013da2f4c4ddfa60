"""On which devices a training runs, and in which precision."""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_utilities.core import rank_zero

from segmodels.errors import InputError
from segmodels.training.fabric import Fabric

MOST_LOADERS = 4
"""Processes that make the batches of one GPU."""

_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True)
class Devices:
    """The devices of this process and how many share the training.

    Attributes:
        gpu: whether this process trains on a GPU, not on the CPU.
        precision: of the forward pass, ``float32``, ``bfloat16`` or ``float16``.
        deterministic: whether torch may only use algorithms that give the same numbers in every run.
        processes: number of processes of the training, on all machines.
        local_processes: number of them on this machine.
    """

    gpu: bool
    precision: str
    deterministic: bool = True
    processes: int = 1
    local_processes: int = 1

    @property
    def device(self) -> torch.device:
        """Kind of device, without a number."""
        return torch.device("cuda" if self.gpu else "cpu")

    @property
    def loader_processes(self) -> int:
        """For a GPU, which a loader's thread in the training process would slow down: 4 for each process of the
        training, which keeps a core for itself. On the CPU, and in a process that may not start others, 0.
        """
        if not self.gpu or multiprocessing.current_process().daemon:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(MOST_LOADERS, max(0, cores // self.local_processes - 1))

    def launch(self, *, reaches_all_parameters: bool) -> Fabric:
        """Join the other processes.

        Args:
            reaches_all_parameters: see ``Learner.reaches_all_parameters``.
        """
        rank_zero.log.setLevel(logging.WARNING)  # no lines about Fabric's choices: they are in the parameters
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        # torch would fill every new tensor with NaN, 6 % of a step of a U-Net
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
        torch.backends.cudnn.benchmark = False  # trying all algorithms first takes longer than it saves
        parallel = "ddp" if reaches_all_parameters else "ddp_find_unused_parameters_true"
        precision: Any = _PRECISION[self.precision]
        fabric = Fabric(
            accelerator=self.device.type,
            devices=self.local_processes,
            num_nodes=self.processes // self.local_processes,
            strategy="auto" if self.processes == 1 else parallel,
            precision=precision,
        )
        fabric.launch()
        return fabric


def choose_devices(
    accelerator: str = "auto", precision: str = "auto", deterministic: bool | Literal["auto"] = "auto"
) -> Devices:
    """The devices of this process; under ``torchrun`` the environment gives the number of processes.

    Args:
        accelerator: ``cpu``, ``gpu``, or ``auto``: a GPU where there is one.
        precision: of the forward pass, or ``auto``: bfloat16 where the hardware has it, else float32.
        deterministic: see ``Devices``, or ``auto``: on CPUs.

    Raises:
        InputError: a GPU is asked for, or needed by the precision, and there is none.
    """
    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        raise InputError(
            "train.accelerator is 'gpu' but torch sees no GPU: install a CUDA build of torch, or choose cpu or auto"
        )
    if precision == "float16" and not gpu:
        raise InputError("train.precision is 'float16' but there is no GPU: choose bfloat16, float32 or auto")
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    if deterministic == "auto":
        deterministic = not gpu
    processes, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Devices(gpu, precision, deterministic, processes, local if processes > 1 else 1)
