"""Learning-rate schedules as functions of the share of training that is done."""

from __future__ import annotations

import math

from segmodels.training.settings import Schedule


def learning_rate_factor(name: Schedule, progress: float, *, warmup: float = 0.0, power: float = 0.9) -> float:
    """Factor (0..1] on the peak learning rate.

    Args:
        name: ``polynomial`` (1 - t)^power, as DeepLab (Chen 2016, 1606.00915, section 4.1); ``cosine`` (Loshchilov
            2016, 1608.03983, without restarts); ``one_cycle`` (Smith 2018, 1803.09820: rises over the first 30 %, both
            ways along a cosine; ``warmup`` is not used); ``constant``.
        progress: share of all optimiser steps taken before this one, 0..1.
        warmup: share of all steps over which the factor rises linearly to 1; the schedule proper follows over the rest.
    """
    progress = min(max(progress, 0.0), 1.0)
    if name == "one_cycle":
        peak, start, end = 0.3, 1 / 25, 1e-4
        low, t = (start, progress / peak) if progress < peak else (end, (1 - progress) / (1 - peak))
        return low + (1 - low) * (1 - math.cos(math.pi * t)) / 2
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    t = (progress - warmup) / (1 - warmup)
    if name == "polynomial":
        return max((1 - t) ** power, 1e-4)
    if name == "cosine":
        return max((1 + math.cos(math.pi * t)) / 2, 1e-4)
    return 1.0
