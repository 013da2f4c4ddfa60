"""Facts of a run by which its training can be repeated: parameters, and the machine that decides the last bits."""

from __future__ import annotations

import ast
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.tracking.run import flat

MACHINE = {"torch": "torch build", "cpu": "CPU", "threads": "threads", "gpu": "GPU"}
"""Tags of a run -> what they are. Equal weights need all of them equal."""

NOT_OF_TRAINING = ("parameters", "classes")
"""Parameters of a run that are facts about the model and the data."""


def machine_facts() -> dict[str, str]:
    """This process's values of ``MACHINE``."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"torch": torch.__version__, "cpu": _cpu(), "threads": str(torch.get_num_threads()), "gpu": gpu}


def recorded_params(params: Mapping[str, str]) -> dict[str, Any]:
    """Section ``train`` of params.yaml from the parameters of a run, which are texts under names with dots."""
    section: dict[str, Any] = {}
    for name, text in params.items():
        if name in NOT_OF_TRAINING:
            continue
        *above, key = name.split(".")
        place = section
        for part in above:
            place = place.setdefault(part, {})
        place[key] = _value(text)
    return section


def differing_params(recorded: Mapping[str, str], section: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Parameters of a run that differ from those of a section ``train``: name -> both values as texts."""
    here = {name: str(value) for name, value in flat(section).items()}
    return {
        name: (text, now)
        for name, text in sorted(recorded.items())
        if name not in NOT_OF_TRAINING and _value(text) != _value(now := here.get(name, "–"))
    }


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
