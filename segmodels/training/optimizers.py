"""The optimiser of a training, with its groups of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segmodels.training.settings import TrainSettings


def create_optimizer(settings: TrainSettings, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that are trained, each group at its peak learning rate.

    Weight decay is for weights only: biases, normalisation parameters and what the model exempts go without.

    A model may have groups of parameters whose learning rate is a multiple of the others' (``parameter_groups``).

    Args:
        fused: one kernel for all parameters, for GPUs; it excludes clipping gradients that a GradScaler scales.
    """
    asked: Any = model  # plain modules have neither method
    exempt = asked.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    undecayed = {id(p) for name, p in model.named_parameters() if p.dim() <= 1 or name in exempt}
    own = (asked.parameter_groups() if hasattr(model, "parameter_groups") else None) or []
    grouped = {id(p) for group in own for p in group["params"]}
    rest = [p for p in model.parameters() if id(p) not in grouped]
    groups = []
    for parameters, factor in [(rest, 1.0), *((list(group["params"]), group["lr_factor"]) for group in own)]:
        trained = [p for p in parameters if p.requires_grad]
        rate = {"lr": factor * settings.lr}
        groups += [
            {"params": [p for p in trained if id(p) not in undecayed], "weight_decay": settings.weight_decay, **rate},
            {"params": [p for p in trained if id(p) in undecayed], "weight_decay": 0.0, **rate},
        ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused or None)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused or None)
