"""Types of a profile's values, by the rules of Kubernetes for each kind: with other values it refuses the pods of a
run, or never starts them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""Part of a DNS name."""
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

_HOST = r"([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(:\d+)?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,}"
IMAGE = re.compile(rf"({_HOST}/)?{_PATH}(/{_PATH})*(:\w[\w.-]{{0,127}})?(@{_DIGEST})?", re.ASCII)
"""Name of an image: the grammar of github.com/distribution/reference."""

UNITS = {"": 1} | {
    f"{unit}{i}": base**power for power, unit in enumerate("KMGTPE", 1) for i, base in (("", 1000), ("i", 1024))
}

MEBIBYTE = 2**20


def _matching(pattern: str, expected: str, longest: int = 253) -> AfterValidator:
    whole = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if len(value) > longest or not whole.fullmatch(value):
            raise PydanticCustomError("kubernetes", expected)
        return value

    return AfterValidator(check)


def _as_text(value: Any) -> Any:
    return str(value) if type(value) in (int, float) else value


def _some_memory(value: str) -> str:
    if 0 < amount(value) < MEBIBYTE:
        raise PydanticCustomError("kubernetes", "at least 1Mi: a number without a unit counts bytes, 16Gi are 16 GiB")
    return value


# what both Kubernetes and kfp take: Kubernetes knows no K, kfp no fractions of memory
Cpu = Annotated[
    str, BeforeValidator(_as_text), _matching(r"\d+(\.\d+)?|\d+m", "a number of CPUs such as 2, 0.5 or 500m")
]
Memory = Annotated[
    str,
    BeforeValidator(_as_text),
    _matching(r"\d+([KMGTPE]i|[MGTPE])?", "bytes such as 512Mi or 8Gi, a whole number"),
    AfterValidator(_some_memory),
]
ObjectName = Annotated[
    str, _matching(SUBDOMAIN, "a name of Kubernetes: small letters, digits and hyphens, and dots between its parts")
]
ClaimName = Annotated[  # Kubeflow's driver names the volume like the claim: makeVolumeMountPatch in v2/driver/k8s.go
    str, _matching(LABEL, "at most 63 small letters, digits and hyphens, no dot, as Kubeflow names the volume so", 63)
]
SecretKey = Annotated[
    str, _matching(r"(?!\.\.?$)[-._A-Za-z0-9]+", "a key of a secret: letters, digits, hyphens, dots, underscores")
]
VariableName = Annotated[
    str, _matching(r"[-._A-Za-z][-._A-Za-z0-9]*", "the name of an environment variable: letters, digits, underscores")
]
LabelKey = Annotated[
    str,
    _matching(rf"({SUBDOMAIN}/)?{WORD}", "a label of at most 63 letters, digits, -, _ and ., or domain/label", 317),
]
LabelValue = Annotated[str, _matching(rf"({WORD})?", "a label's value: at most 63 letters, digits, -, _ and .", 63)]
ResourceName = Annotated[
    str, _matching(rf"{SUBDOMAIN}/{WORD}", "a resource of the nodes with its domain, such as nvidia.com/gpu", 317)
]
MountPath = Annotated[str, _matching(r"/+[^:/][^:]*", "an absolute path below /, without a colon", 4096)]


def amount(quantity: str) -> Fraction:
    """A value of type ``Cpu`` in CPUs, or of type ``Memory`` in bytes."""
    if quantity.endswith("m"):
        return Fraction(quantity[:-1]) / 1000
    number = quantity.rstrip("KMGTPEi")
    return Fraction(number) * UNITS[quantity[len(number) :]]
