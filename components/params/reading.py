"""params.yaml as ``PipelineParams``, and parameters as plain data again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.params.checking import check_finite, checked
from components.params.schema import EvaluateParams, PipelineParams
from components.params.tasks import check_layout, check_metric, check_settings, trained_tasks
from components.params.yaml_files import read_yaml
from segmodels.errors import InputError


def load_params(path: Path) -> PipelineParams:
    """Read and check params.yaml.

    Raises:
        InputError: the file cannot be read (see ``read_yaml``), or a key is unknown, of the wrong type or out of range;
            names every such key.
    """
    return checked_params(read_params(path), str(path))


def read_params(path: Path) -> Any:
    """The content of params.yaml, not checked; errors as of ``read_yaml``."""
    return read_yaml(path, missing="run from the repository's root or give --params")


def checked_params(data: Any, origin: str, *, names: bool = True) -> PipelineParams:
    """The parameters in ``data``.

    Args:
        origin: where they come from, for the message.
        names: check the names of models, losses, layouts, tasks, scores and their options, too, which imports torch
            where they are set.
    """
    data = {} if data is None else data
    check_finite(data, origin)
    settings = {}
    if isinstance(data, Mapping) and isinstance(section := data.get("evaluate"), Mapping):
        data = {**data, "evaluate": evaluate_section(section)}
        settings = data["evaluate"]["settings"]
    if isinstance(data, Mapping) and isinstance(ingest := data.get("ingest"), Mapping) and "watch" in ingest:
        raise InputError(
            f"{origin}: ingest.watch is no longer a key, got {ingest['watch']!r}: remove it, `dvc repro` looks at the"
            " dataset that ingest names by itself"
        )
    params = checked(PipelineParams, data, origin)
    # on a cluster a step has its own section alone, and which model it is for is not known
    tasks = trained_tasks(params.train, origin) if names and data.get("train") else None
    if settings:
        check_settings(settings, tasks, origin)
    if names:
        check_layout(params.ingest.layout, origin)
        check_metric(params.register.metric, tasks, origin)
    return params


def evaluate_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """Section ``evaluate`` as users write it, with the task's settings apart."""
    own = {field.name for field in dataclasses.fields(EvaluateParams)} - {"settings"}
    return {key: value for key, value in section.items() if key in own} | {
        "settings": {key: value for key, value in section.items() if key not in own}
    }


def plain(params: Any) -> dict[str, Any]:
    """Parameters as YAML and JSON have them; reading them again gives the same parameters."""
    return _flat(params, json.loads(json.dumps(dataclasses.asdict(params))))


def changed_from_defaults(params: Any) -> dict[str, Any]:
    """``plain`` without the values that are defaults."""
    return _flat(params, _changes(params, type(params)()))


def _changes(params: Any, default: Any) -> dict[str, Any]:
    changes = {}
    for field in dataclasses.fields(params):
        value, usual = getattr(params, field.name), getattr(default, field.name)
        if value == usual:
            continue
        inside = dataclasses.is_dataclass(value) and type(value) is type(usual)
        changes[field.name] = _changes(value, usual) if inside else _json(value)
    return changes


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def _flat(params: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The task's settings beside the other keys of ``evaluate``."""
    if isinstance(params, EvaluateParams):
        return data | data.pop("settings", {})
    if isinstance(params, PipelineParams) and "evaluate" in data:
        data["evaluate"] = _flat(params.evaluate, data["evaluate"])
    return data
