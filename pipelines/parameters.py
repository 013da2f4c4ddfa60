"""The pipeline's parameters: values of params.yaml that a run may change one by one, and the rest of each section as
JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from components.params.overrides import assembled_params
from components.params.reading import changed_from_defaults, plain
from components.params.schema import PipelineParams
from components.steps import STEPS
from segmodels.addresses import holds_credentials
from segmodels.errors import InputError
from segmodels.files import parse_json
from segmodels.suggest import did_you_mean

VALUES = {
    "dataset_source": "ingest.source",
    "dataset_path": "ingest.path",
    "dataset_repo": "ingest.repo",
    "dataset_rev": "ingest.rev",
    "dataset_layout": "ingest.layout",
    "model": "train.model",
    "loss": "train.loss",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.lr",
    "seed": "train.seed",
    "registered_model": "register.name",
    "minimum_score": "register.minimum",
}
"""Pipeline parameter -> key of params.yaml. Each section's other keys are the parameter ``<section>_params``."""

SECTIONS = tuple(step.name for step in STEPS)


def default_values(params: PipelineParams) -> dict[str, Any]:
    """Default of every pipeline parameter: strings, numbers and a boolean, the types that Kubeflow accepts."""
    everything = plain(params)
    rest = changed_from_defaults(params)
    values = {}
    for name, key in VALUES.items():
        section, field = key.split(".")
        values[name] = _plain(everything[section][field])
        rest.get(section, {}).pop(field, None)
    values |= {f"{section}_params": json.dumps({section: rest.get(section, {})}) for section in SECTIONS}
    return values | {"skip_unchanged": True}


def given_values(assignments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read assignments ``name=value`` by the types of the defaults, and check them like params.yaml.

    Raises:
        InputError: a name that is not a pipeline parameter, or a value that does not fit.
    """
    given = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: expected parameter=value, for example epochs=40")
        if name not in defaults:
            raise InputError(f"--set {name}: no such pipeline parameter, {did_you_mean(name, defaults)}")
        given[name] = _typed(name, text, defaults[name])
    all_params({**defaults, **given})
    for section in SECTIONS:
        _check_rest(section, given.get(f"{section}_params", "{}"))
    return given


def _check_rest(section: str, text: str) -> None:
    """Raise InputError for keys in the JSON of ``<section>_params`` that would be ignored: of another section, or what
    a pipeline parameter of its own sets.
    """
    content = parse_json(text, object)
    own = {key: name for name, key in VALUES.items()}
    for other, values in content.items() if isinstance(content, dict) else ():
        if other != section:
            raise InputError(f"--set {section}_params: it has the section {other!r}, expected {section!r} alone")
        for field in values if isinstance(values, dict) else ():
            if name := own.get(f"{section}.{field}"):
                raise InputError(
                    f"--set {section}_params: {section}.{field} is the pipeline parameter {name}, which would replace"
                    f" it: give --set {name}=VALUE"
                )


def all_params(values: Mapping[str, Any]) -> PipelineParams:
    """The steps' parameters for these pipeline parameters.

    Raises:
        InputError: a value is not valid.
    """
    sets = [f"{key}={values[name]}" for name, key in VALUES.items()]
    return assembled_params(
        [values[f"{section}_params"] for section in SECTIONS], sets, origin="the pipeline's parameters"
    )


def refuse_credentials(values: Mapping[str, Any]) -> None:
    """Reject credentials in addresses: whoever may see a run sees its parameters.

    Raises:
        InputError: an address contains a password, a token or a signature.
    """
    for name, value in values.items():
        if isinstance(value, str) and holds_credentials(value):
            raise InputError(
                f"{name} holds a password or token in an address, which everybody who sees the run would see: use an"
                " address without one, or SSH"
            )


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, dict | list) else value


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"--set {name}={text}: expected true or false")
        return text.lower() == "true"
    return _number(name, text, type(default))


def _number(name: str, text: str, kind: type[int | float]) -> int | float:
    with suppress(ValueError, OverflowError):
        number = kind(text)
        if math.isfinite(number):
            return number
    raise InputError(f"--set {name}={text}: expected {'a whole number' if kind is int else 'a finite number'}")
