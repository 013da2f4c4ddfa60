"""The lock files hold what pyproject.toml asks for, by version and by hash; the image stands on a base by digest."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CUDA = re.compile(r"cuda-|nvidia-|triton$")

LOCKS = {
    "requirements.lock": ("pipeline", "serving", "pretrained", "cluster", "test"),
    "infra/requirements.lock": ("pipeline", "serving", "pretrained"),
    "infra/sbom.lock": ("sbom",),
}


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> its version and the hashes of its files."""
    entries = re.findall(r"^(?![#-])\S.*(?:\n[ ].*)*", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    packages = {}
    for entry in entries:
        requirement = Requirement(entry.partition(" \\\n")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry
        hashes = frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})\b", entry))
        assert hashes, entry
        assert canonicalize_name(requirement.name) not in packages, entry
        packages[canonicalize_name(requirement.name)] = pin.version, hashes
    return packages


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for."""
    own = [] if extras == ("sbom",) else PROJECT["dependencies"]
    return list(map(Requirement, own + [line for name in extras for line in PROJECT["optional-dependencies"][name]]))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_is_that_of_pyproject(name: str) -> None:
    """`make lock` writes them anew."""
    packages, waiting, seen = locked(name), wanted(LOCKS[name]), set()
    while waiting:
        requirement = waiting.pop()
        package = canonicalize_name(requirement.name)
        assert package in packages, f"{requirement} is not in {name}: make lock"
        version, _ = packages[package]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is {version} in {name}"
        for extra in ("", *requirement.extras):
            if (package, extra) in seen:
                continue
            seen.add((package, extra))
            try:  # what is installed here says what it needs itself
                needs = [Requirement(line) for line in requires(package) or ()]
            except PackageNotFoundError:
                continue
            waiting += [
                need
                for need in needs
                if (need.marker is None or need.marker.evaluate({"extra": extra})) and not CUDA.match(need.name)
            ]
    if name != "infra/sbom.lock":
        assert {package for package, _ in seen} > {"torch", "mlflow", "fsspec"}


def test_the_lock_files_agree() -> None:
    everything, image, cuda = map(locked, ("requirements.lock", "infra/requirements.lock", "requirements.cuda.lock"))
    assert {name: everything.get(name) for name in image} == image
    assert all(CUDA.match(name) for name in cuda)
    for name, included in {"requirements.lock": "", "infra/requirements.lock": "../"}.items():
        assert f"\n-r {included}requirements.cuda.lock\n" in (ROOT / name).read_text(encoding="utf-8")
    assert not any(CUDA.match(name) for name in everything)
    for name, (version, _) in locked("infra/sbom.lock").items():
        assert everything.get(name, (version,))[0] == version


@pytest.mark.parametrize("path", ["Makefile", "infra/Dockerfile", "infra/README.md"])
def test_a_lock_file_is_installed_as_it_stands(path: str) -> None:
    """Without --no-deps, pip 23 looks for a newer `urllib3[socks]` beside the locked `urllib3`, and finds no hash."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert 0 < text.count("--require-hashes") == text.count("--no-deps --require-hashes")


def test_no_md5_is_meant_for_security() -> None:
    """Machines in FIPS mode refuse it otherwise; bandit finds the calls that it recognises."""
    calls = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("segmodels", "components", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(hashlib\.|\b(?<!file_)(?<!is_))md5\(", line) and "usedforsecurity=False" not in line
    ]
    assert not [call for call in calls if "def " not in call]


@pytest.mark.parametrize("base", ["", "python:3.11-slim-bookworm", "python@sha256:12"])
def test_no_image_is_pushed_on_a_base_without_a_digest(base: str) -> None:
    arguments = ["push", "REGISTRY=registry.invalid/team", f"BASE_IMAGE={base}"]
    done = subprocess.run(["make", "--silent", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"BASE_IMAGE is '{base}', expected the digest of the image that was checked" in done.stdout


def test_the_base_image_comes_from_the_build_argument_alone() -> None:
    lines = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert {line.split(" AS ")[0] for line in lines if line.startswith("FROM")} == {"FROM ${BASE_IMAGE}"}
