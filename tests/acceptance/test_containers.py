"""The image, and the pipeline in real containers: the same numbers as `dvc repro`, every artifact with its metadata.

Docker is installed and started where it is missing (root on Debian), the base image made where it cannot be pulled, see
tests/dockerhost.py. What takes long is kept in ~/.cache/segmodels for the next time.
"""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import pytest
from dockerhost import DockerHost, Unavailable, docker_host

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "segmodels"
REVISION = "acceptance-test"
MARK = "S3CR3T-of-who-builds"
LEFT_LYING = (".env", ".git/config", "params.yaml", "data/key", "infra/.env", "segmodels/.env", "components/key.json")
"""Files with a secret, where users leave them in the build's context. pip's settings hold one, too."""
USER = 12345
"""Whom the pipeline is run as, where the tests are root."""

PARAMS = """
ingest: {source: digits, digits: {train: 120, val: 30, test: 30, size: 48, seed: 3}}
validate: {max_void_share: 0.9}
preprocess: {longer_side: null}
train:
  {model: unet, options: {widths: [8, 16, 32]}, loss: {cross_entropy: 1.0, dice: 1.0},
   epochs: 2, batch_size: 16, lr: 0.003, seed: 3}
evaluate: {batch_size: 8}
register: {name: digits-containers, minimum: 0.0}
"""


@dataclass(frozen=True)
class Build:
    """The image by a name made of its content, and its size in MB."""

    host: DockerHost
    image: str
    megabytes: int


@dataclass(frozen=True)
class Conducted:
    """Folders of outputs: what `dvc repro` wrote, what `python -m pipelines run` wrote, and what the latter printed."""

    dvc: Path
    kubeflow: Path
    log: str


@pytest.fixture(scope="module")
def workplace() -> Iterator[Path]:
    """A folder that another user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="segmodels-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def repro(workplace: Path) -> Iterator[subprocess.Popen[str]]:
    """`dvc repro` on this machine, which goes on while the image is built."""
    project = copied_project(workplace / "dvc")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()


@pytest.fixture(scope="module")
def build(repro: subprocess.Popen[str], workplace: Path) -> Iterator[Build]:  # noqa: ARG001
    try:
        with docker_host(CACHE) as host:
            yield built(host, workplace)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def conducted(build: Build, repro: subprocess.Popen[str], workplace: Path) -> Conducted:
    project = copied_project(workplace / "kubeflow")
    command = [sys.executable, "-m", "pipelines", "run", "--image", build.image]
    if os.getuid() == 0:
        for path in (project, *project.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
        command = [*as_user(build.host), *command]
    variables = environment() | build.host.environment | {"HOME": str(project)}
    done = subprocess.run(
        command, cwd=project, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    output, _ = repro.communicate()
    assert repro.returncode == 0, output[-6000:]
    (folder,) = (project / "data" / "kfp").glob("segmentation-training-*")
    return Conducted(workplace / "dvc" / "data", folder, done.stdout)


def as_user(host: DockerHost) -> list[str]:
    """Runs a command as another user, who may read all (this Python may lie in root's home) but write only what is
    theirs.
    """
    socket = host.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    may_read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER},{Path(socket).stat().st_gid}", *may_read]


def copied_project(target: Path) -> Path:
    """The repository's files as they are now, with small parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target / name)
    (target / "params.yaml").write_text(PARAMS)
    return target


def environment() -> dict[str, str]:
    """Both conductors compute with the same number of threads, and track in their own folder."""
    left_out = ("OMP_NUM_THREADS", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {name: value for name, value in os.environ.items() if name not in left_out} | {
        "PATH": path,
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


# --- the build


def built(host: DockerHost, workplace: Path) -> Build:
    """Build as `make image` does, with this machine's way to packages as secrets, and torch from a wheel as where there
    is no internet.
    """
    context = workplace / "context"
    for name in ("segmodels", "components"):
        shutil.copytree(REPOSITORY / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    locks = ("infra/requirements.lock", "infra/sbom.lock", "requirements.cuda.lock")
    for name in (*locks, ".dockerignore", "infra/Dockerfile"):
        (context / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(REPOSITORY / name, context / name)
    for name in LEFT_LYING:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(f"password = {MARK}\n")
    (context / "wheelhouse").mkdir()
    wheel = shutil.copy(torch_wheel(), context / "wheelhouse")
    secrets = [f"--secret=id=pip.conf,src={pip_settings(workplace / 'pip.conf')}"]
    if authority := next(
        (os.environ[name] for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if os.environ.get(name)), None
    ):
        secrets.append(f"--secret=id=ca.pem,src={authority}")
    identity = workplace / "image.id"
    variant = "cpu" if "cpu" in wheel else "gpu"
    arguments = [
        f"--build-arg=VARIANT={variant}",
        f"--build-arg=REVISION={REVISION}",
        *secrets,
        f"--iidfile={identity}",
    ]
    host.run(
        "build", "--quiet", "--network=host", "--file=infra/Dockerfile", *arguments, ".", timeout=1500, cwd=context
    )
    name = f"segmodels:{variant}-{identity.read_text().removeprefix('sha256:')[:12]}"
    host.run("tag", identity.read_text(), name)
    return Build(host, name, int(host.run("image", "inspect", "--format", "{{.Size}}", name)) // 10**6)


def torch_wheel() -> str:
    """The wheel of this environment's torch, downloaded once."""
    import torch

    version = torch.__version__.split("+")[0]
    folder = CACHE / "wheels"
    if not list(folder.glob(f"torch-{version}*.whl")):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(folder),
                f"torch=={version}",
            ],
            check=True,
        )
    return str(next(folder.glob(f"torch-{version}*.whl")))


def pip_settings(path: Path) -> Path:
    """How pip reaches its index here, but for folders of this machine."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(
        re.findall(r"(?m)^(?:global|:env:)\.(index-url|extra-index-url|trusted-host|proxy|timeout)='(.*)'$", listed)
    )
    remote = {
        name: " ".join(part for part in value.split() if not part.startswith("file:"))
        for name, value in settings.items()
    }
    path.write_text(f"# {MARK}\n[global]\n" + "".join(f"{name} = {value}\n" for name, value in remote.items() if value))
    return path


# --- the image


def test_the_image_holds_the_steps_and_no_tools(build: Build) -> None:
    show = """
import importlib.util, json, os, shutil
there = [name for name in ("kfp", "pytest", "ruff", "pipelines", "pip") if importlib.util.find_spec(name)]
tools = [name for name in ("gcc", "cc", "make", "cmake", "g++") if shutil.which(name)]
print(json.dumps([there, tools, os.getuid(), os.environ["SEGMODELS_CODE_REVISION"]]))
"""
    there, tools, user, revision = json.loads(
        build.host.run("run", "--rm", "--network=host", "--entrypoint=python", build.image, "-c", show)
    )
    assert (there, tools) == ([], [])
    assert user != 0
    assert revision == REVISION
    print(f"image {build.image}: {build.megabytes} MB")
    assert build.megabytes < (2600 if "cpu" in build.image else 9000)


def test_the_image_lists_what_it_holds(build: Build) -> None:
    listed = build.host.run(
        "run", "--rm", "--network=host", "--entrypoint=cat", build.image, "/opt/segmodels/sbom.json"
    )
    bill = json.loads(listed)
    versions = {component["name"].lower(): component["version"] for component in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert {"torch", "mlflow", "dvc", "fastapi", "psycopg2-binary"} <= versions.keys()
    assert versions["mlflow"] == version("mlflow")
    assert "pytest" not in versions


def test_settings_of_the_build_are_not_in_the_image(build: Build) -> None:
    facts = json.loads(build.host.run("image", "inspect", build.image))[0]["Config"]
    assert facts["Labels"]["org.opencontainers.image.revision"] == REVISION
    assert not [variable for variable in facts["Env"] if variable.startswith(("PIP_", "SSL_", "HTTP"))]
    left = build.host.run(
        "run",
        "--rm",
        "--network=host",
        "--entrypoint=sh",
        build.image,
        "-c",
        "cat /etc/pip.conf /run/secrets/* 2>/dev/null; true",
    )
    assert left == ""


def test_no_layer_of_the_image_and_no_line_of_its_history_holds_a_secret(build: Build) -> None:
    described = build.host.run("image", "inspect", build.image) + build.host.run("history", "--no-trunc", build.image)
    assert MARK not in described
    secret, code, dependencies = MARK.encode(), b"class MirroredCheckpoints", b"Name: torch\n"
    holders: dict[bytes, list[str]] = {secret: [], code: [], dependencies: []}
    command = [build.host.client, "save", build.image]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | build.host.environment) as saved,
        tarfile.open(fileobj=saved.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if file := archive.extractfile(member):
                for text in found_in(file, holders):
                    holders[text].append(member.name)
    assert saved.returncode == 0
    assert holders[secret] == []
    assert holders[code], "the layer of the code was searched"
    assert holders[dependencies], "the layer of the dependencies was searched"


def found_in(file: IO[bytes], texts: Iterable[bytes]) -> set[bytes]:
    """Those of the texts that a layer, gzipped or not, or another file of a saved image holds."""
    assert isinstance(file, io.BufferedReader)
    layer = gzip.GzipFile(fileobj=file) if file.peek(2).startswith(b"\x1f\x8b") else file
    found: set[bytes] = set()
    end = b""
    while part := layer.read(1 << 22):
        found |= {text for text in texts if text in end + part}
        end = part[-100:]
    return found


def test_any_user_of_group_0_can_run_a_step(build: Build) -> None:
    small = '{"ingest": {"digits": {"train": 4, "val": 2, "test": 2, "size": 32}}}'
    command = ["ingest", "--params-json", small, "--dataset", "data/dataset", "--cache", "data/cache"]
    assert "8 samples" in build.host.run("run", "--rm", "--network=host", "--user=12345:0", build.image, *command)


# --- the pipeline


def described(outputs: Path, step: str) -> dict[str, Any]:
    """Artifact -> metadata, from what the step told Kubeflow."""
    artifacts = json.loads((outputs / step / "executor_output.json").read_text())["artifacts"]
    return {name: entry["artifacts"][0]["metadata"] for name, entry in artifacts.items()}


def test_both_conductors_come_to_the_same_confusion_matrix(conducted: Conducted) -> None:
    one, other = (
        json.loads((folder / "confusion.json").read_text())
        for folder in (conducted.dvc / "evaluation", conducted.kubeflow / "evaluate" / "evaluation")
    )
    assert one == other
    assert sum(map(sum, one["counts"])) > 0
    weights = [folder / "model" / "weights.safetensors" for folder in (conducted.dvc, conducted.kubeflow / "train")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "epoch   2/2" in conducted.log, "the containers did train"


def test_every_artifact_is_there_with_its_metadata(conducted: Conducted) -> None:
    outputs = conducted.kubeflow
    expected = {
        "ingest": {"dataset"},
        "validate": {"validation", "data_docs"},
        "preprocess": {"shards"},
        "train": {"model"},
        "evaluate": {"evaluation", "metrics", "confusion", "pictures"},
        "register": {"registration", "model_card"},
    }
    for step, names in expected.items():
        assert set(described(outputs, step)) == names
        assert all((outputs / step / name).exists() for name in names)
    digest = described(outputs, "ingest")["dataset"]["digest"]
    model = described(outputs, "train")["model"]
    assert (model["data_digest"], model["code_revision"]) == (digest, REVISION)
    assert model["image"].startswith("segmodels:")
    truth = json.loads((outputs / "evaluate" / "evaluation" / "confusion.json").read_text())
    assert [row["row"] for row in described(outputs, "evaluate")["confusion"]["confusionMatrix"]["rows"]] == truth[
        "counts"
    ]
    assert described(outputs, "register")["registration"]["alias"] == "champion"
    assert "digits-containers version 1 is the champion" in conducted.log


def test_the_run_and_the_model_are_in_the_callers_mlflow(conducted: Conducted) -> None:
    import mlflow

    project = conducted.kubeflow.parents[2]
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    version = client.get_model_version_by_alias("digits-containers", "champion")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(version.run_id, "val/miou")) == 2
    assert (project / "mlruns").is_dir()
    assert run.info.artifact_uri.startswith(f"file://{project}/mlruns")


def test_nothing_belongs_to_another_user(conducted: Conducted) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can run the pipeline as another user and look")
    project = conducted.kubeflow.parents[2]
    assert {path.lstat().st_uid for path in project.rglob("*")} == {USER}
