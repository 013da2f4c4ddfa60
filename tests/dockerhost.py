"""Docker for tests: the daemon that runs, else one that is installed and started, and the base image of ours.

    with docker_host(cache) as host:
        host.run("build", ...)

On a Debian machine without Docker, as root, the daemon comes from Debian's package docker.io and runs without a bridge
and without rules in the firewall: builds and containers use the host's network. Where the base image cannot be pulled
it is made by debootstrap. Both are kept in ``cache`` for the next time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE_IMAGE = "python:3.11-slim-bookworm"
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"


class Unavailable(Exception):
    """Why there is no Docker on this machine and none can be had."""


@dataclass(frozen=True)
class DockerHost:
    """``client`` is the command, ``environment`` leads it and the Python package docker to the daemon."""

    client: str
    environment: dict[str, str]

    def run(self, *arguments: str, timeout: float = 120, check: bool = True, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [self.client, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | self.environment,
            cwd=cwd,
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments[:2])} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def has_image(self, name: str) -> bool:
        return bool(self.run("images", "--quiet", name))


@contextmanager
def docker_host(cache: Path) -> Iterator[DockerHost]:
    """A daemon that answers, with the base image; one that was started here ends with the block.

    Raises:
        Unavailable: there is none, and none can be installed or started.
    """
    with ExitStack() as stack:
        host = _running() or stack.enter_context(_started(cache))
        _require_base_image(host, cache)
        yield host


# --- the daemon


def _running() -> DockerHost | None:
    for client in dict.fromkeys(("/usr/bin/docker", shutil.which("docker") or "")):
        if client and Path(client).exists():
            host = DockerHost(client, {"DOCKER_BUILDKIT": "1"})
            try:
                if host.run("version", "--format", "{{.Server.Version}}", timeout=20, check=False).strip():
                    return host
            except (OSError, subprocess.TimeoutExpired):
                continue
    return None


@contextmanager
def _started(cache: Path) -> Iterator[DockerHost]:
    if os.getuid() != 0:
        raise Unavailable("no Docker daemon answers, and without root none can be started")
    _install("dockerd", "docker.io")
    folder = cache / "docker"
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="docker-"))
    place.chmod(0o755)
    socket = f"unix://{place}/docker.sock"
    (folder / "docker.pid").unlink(missing_ok=True)
    places = [
        f"--host={socket}",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid",
    ]
    log = folder / "dockerd.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            ["dockerd", *places, "--bridge=none", "--iptables=false", "--ip6tables=false"], stdout=output, stderr=output
        )
    host = DockerHost("/usr/bin/docker", {"DOCKER_HOST": socket, "DOCKER_BUILDKIT": "1"})
    try:
        while not host.run("version", "--format", "{{.Server.Version}}", timeout=20, check=False).strip():
            if daemon.poll() is not None:
                raise Unavailable(f"dockerd does not start: {log.read_text()[-500:]}")
            time.sleep(0.5)
        (place / "docker.sock").chmod(0o666)  # tests run the pipeline as another user
        yield host
    finally:
        daemon.terminate()
        daemon.wait(30)
        shutil.rmtree(place, ignore_errors=True)


def _install(program: str, *packages: str) -> None:
    if shutil.which(program):
        return
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"{program} is not here and cannot be installed (no apt-get, or no root)")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=300)
    if not shutil.which(program):
        raise Unavailable(f"{program} cannot be installed: {done.stderr[-300:]}")


# --- the base image


def _require_base_image(host: DockerHost, cache: Path) -> None:
    if host.has_image(BASE_IMAGE):
        return
    kept = cache / "base.tar"
    if not kept.exists():
        try:
            host.run("pull", "--quiet", BASE_IMAGE, timeout=120)
            return
        except (RuntimeError, subprocess.TimeoutExpired):
            _make_base(kept)
    host.run("import", str(kept), BASE_IMAGE, timeout=300)


def _make_base(target: Path) -> None:
    """A Debian with Python, as a tar file. In memory, as dpkg waits for the disk after every file."""
    _install("debootstrap", "debootstrap")
    folder = target.with_name("base")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    in_memory = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1500m,mode=755", "tmpfs", str(folder)], capture_output=True
        ).returncode
        == 0
    )
    try:
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={BASE_PACKAGES}",
            "bookworm",
            str(folder),
            *_mirror(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise Unavailable(f"the base image can neither be pulled nor made: {(done.stdout + done.stderr)[-500:]}")
        shutil.rmtree(folder / "var" / "cache" / "apt" / "archives", ignore_errors=True)
        partial = target.with_suffix(".partial")
        with tarfile.open(partial, "w") as archive:
            archive.add(folder, arcname=".")
        partial.replace(target)
    finally:
        if in_memory:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mirror() -> list[str]:
    """The Debian mirror that apt uses here; none leaves it to debootstrap."""
    texts = [
        path.read_text()
        for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
        if path.is_file()
    ]
    found = re.search(r"(?m)^(?:URIs:|deb(?: \[[^]]*\])?)\s+(https?://\S+/debian)/?(?:\s|$)", "\n".join(texts))
    return [found[1]] if found else []
