"""The facts that travel with everything: which data, which code, which parameters."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from components.environment import environment

NEUTRAL = ("workers", "save_minutes", "system_metrics")
"""Parameters of a training that change no weight: one that ran out of memory resumes with fewer workers."""

KEY = ("data_digest", "code_digest", "checkpoint_params_digest", "sample_order")
"""Facts that a training's checkpoints are found by."""
FURTHER = ("init_digest", "pretrained", "trained_anew")
"""And those of the weights that it starts from, if it does, and of its name, if no equal training may stand for it."""


def code_revision() -> str:
    """Git commit of the working directory, ``-dirty`` when files differ; in an image, what the build wrote down."""
    if revision := environment().code_revision:
        return revision
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() if described.returncode == 0 else "unknown"


def params_digest(params: Mapping[str, Any]) -> str:
    """Digest of parameters, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()[:16]


def training_digest(params: Mapping[str, Any], longer_side: int | None) -> str:
    """Digest of the parameters that decide a training on given data; arguments as of ``lineage``."""
    return params_digest({**params, "longer_side": longer_side})


def lineage(
    *,
    data_digest: str,
    params: Mapping[str, Any],
    longer_side: int | None,
    code_digest: str | None = None,
    sample_order: str | None = None,
) -> dict[str, str]:
    """Tags of the run and of the registered model version.

    Args:
        data_digest: of the dataset.
        params: of the training.
        longer_side: of the images after preprocess, pixels; None where it kept their size.
        code_digest: of the code that decides the weights; None where it does not matter.
        sample_order: name of the order of the samples in an epoch; None for one permutation of all.
    """
    deciding = {name: value for name, value in params.items() if name not in NEUTRAL}
    facts = {
        "data_digest": data_digest,
        "code_revision": code_revision(),
        "params_digest": training_digest(params, longer_side),
        "checkpoint_params_digest": training_digest(deciding, longer_side),
    }
    if code_digest is not None:
        facts["code_digest"] = code_digest
    if sample_order is not None:
        facts["sample_order"] = sample_order
    if image := environment().image:
        facts["image"] = image
    for tag, variable in {
        "dvc_stage": "DVC_STAGE",
        "dvc_experiment": "DVC_EXP_NAME",
        "dvc_baseline": "DVC_EXP_BASELINE_REV",
    }.items():
        if value := os.environ.get(variable):
            facts[tag] = value
    return facts


def checkpoint_key(facts: Mapping[str, str]) -> str:
    """The same data, code and parameters that decide the weights, order of the samples, weights to start from and name
    give the same key: a training with that key is resumed.
    """
    return params_digest({name: facts.get(name) for name in KEY} | {n: facts[n] for n in FURTHER if n in facts})
