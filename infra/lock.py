"""Write the lock files: every package by version and by the SHA-256 of each of its files. `make lock`

Versions that are locked stay; delete a line to have it chosen anew. Torch's line also lists the CPU wheels that lie in
the folders given as arguments: PyTorch's own index has them, the package index has not.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet")
FILES = {
    "requirements.lock": ("pipeline", "serving", "pretrained", "cluster", "test"),
    "infra/requirements.lock": ("pipeline", "serving", "pretrained"),
}
CUDA, SBOM = "requirements.cuda.lock", "infra/sbom.lock"
HEADER = "# Written by `make lock`.\n"

Packages = dict[str, str]
"""Name -> its line with the lines of its hashes."""


def main(folders: list[str]) -> None:
    """Write all lock files."""
    locked = {**read(ROOT / "requirements.lock"), **read(ROOT / CUDA)}
    for name, extras in FILES.items():
        packages = resolve(["pyproject.toml", *(f"--extra={extra}" for extra in extras)], locked)
        packages["torch"] = with_cpu_wheels(packages["torch"], locked.get("torch", ""), folders)
        locked |= packages
        cuda = {name for name in packages if re.match(r"cuda-|nvidia-|triton$", name)}
        others = {name: lines for name, lines in packages.items() if name not in cuda}
        write(ROOT / name, others, f"-r {'../' * name.count('/')}{CUDA}\n")
        write(ROOT / CUDA, {name: lines for name, lines in packages.items() if name in cuda})
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    write(ROOT / SBOM, resolve(["-"], locked | read(ROOT / SBOM), "\n".join(extras["sbom"])))


def resolve(what: list[str], locked: Packages, text: str | None = None) -> Packages:
    """All packages that ``what`` (or ``text``, for "-") needs, at the versions of ``locked`` where it has them."""
    pins = ROOT / "build" / "pins.txt"
    pins.parent.mkdir(exist_ok=True)
    pins.write_text("".join(lines.split(" ")[0] + "\n" for lines in locked.values()))
    command = ["uv", "pip", "compile", *what, *OPTIONS, f"--constraint={pins}"]
    return parse(subprocess.run(command, cwd=ROOT, input=text, check=True, stdout=subprocess.PIPE, text=True).stdout)


def with_cpu_wheels(lines: str, before: str, folders: list[str]) -> str:
    """Torch's lines with the hashes of CPU wheels: those it had at this version, and those that are at hand."""
    version = lines.split("==")[1].split(" ")[0]
    hashes = set(re.findall(r"sha256:\w+", lines + (before if f"=={version} " in before else "")))
    for folder in folders:
        for wheel in Path(folder).glob(f"torch-{version}+cpu-*.whl"):
            with wheel.open("rb") as file:
                hashes.add(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    return (
        " \\\n".join([lines.splitlines()[0].removesuffix(" \\"), *(f"    --hash={one}" for one in sorted(hashes))])
        + "\n"
    )


def parse(text: str) -> Packages:
    """The packages of a lock file."""
    entries = re.findall(r"^(?![#\s-]).*(?:\n[ \t].*)*\n", text, re.MULTILINE)
    return {re.split(r"[=\[ ]", entry)[0]: entry for entry in entries}


def read(path: Path) -> Packages:
    """The packages of a lock file, none where it is not there."""
    return parse(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, packages: Packages, more: str = "") -> None:
    """Write a lock file; ``more`` is a line that includes another one."""
    path.write_text(HEADER + more + "".join(packages[name] for name in sorted(packages)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
