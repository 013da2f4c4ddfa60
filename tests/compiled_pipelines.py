"""What tests of compiled pipelines share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGE = "registry.example/segmodels@sha256:" + "0" * 64


def parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A compiled pipeline, and what it says of each executor for Kubernetes."""
    pipeline, platform = yaml.load_all(text, yaml.CSafeLoader)
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def variables(pipeline: dict[str, Any], step: str) -> dict[str, str]:
    """Environment variables of a step's container."""
    return {
        one["name"]: one["value"] for one in pipeline["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["env"]
    }
