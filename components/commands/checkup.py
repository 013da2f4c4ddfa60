"""Checks of the machine and the servers that the pipeline needs: a line each, OK or what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from components.environment import environment
from components.params import FILE
from components.running.project import project_root
from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError

LEAST_FREE, LEAST_SHARED = 5e9, 1e9
"""Bytes: free in the project's folder, and of /dev/shm."""

LEAST_FILES = 1024
SECONDS = 10

NOTE = "note.txt"
"""An artifact that shows whether MLflow's store keeps what it takes."""


class Unused(Exception):
    """The pipeline does not use the subject of a check here; the text says how it would."""


def checkup() -> bool:
    """Print a line for each check; whether none found something wrong."""
    well = True
    for name, check in CHECKS.items():
        try:
            mark, text = "OK", check()
        except Unused as unused:
            mark, text = "--", str(unused)
        except (InputError, TransientError) as error:
            mark, text, well = "!!", str(error), False
        print(f"{mark} {name:<9} {without_credentials(text)}", flush=True)
    return well


def packages() -> str:
    """The locked versions are those installed."""
    import re
    from importlib.metadata import PackageNotFoundError, version

    lock = project_root() / "requirements.lock"
    if not lock.is_file():
        raise Unused(f"there is no {lock.name} in {project_root()}")
    differ, count = [], 0
    for line in re.findall(r"^[\w.-]+==[^ ;\n]+", lock.read_text(encoding="utf-8"), re.MULTILINE):
        name, _, locked = line.partition("==")
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed
        count += 1
        if installed != locked:
            differ.append(f"{name} {installed}, locked {locked}")
    if differ:
        raise InputError(
            f"{len(differ)} packages differ from {lock.name} ({', '.join(differ[:5])}): run `pip install --no-deps"
            f" --require-hashes -r {lock.name}`"
        )
    return f"{count} packages as in {lock.name}"


def parameters() -> str:
    """Whatever params.yaml names exists."""
    if not FILE.is_file():
        raise Unused(f"there is no {FILE} in {Path.cwd()}: commands then need --params")
    from components.params.reading import load_params

    train = load_params(FILE).train
    return f"{FILE} trains {train.model}"


def mlflow() -> str:
    """MLflow answers, takes a run, and gives an artifact back."""
    from components.tracking.client import mlflow_client
    from components.tracking.mlflow_errors import answers

    client = mlflow_client()
    uri = str(client.tracking_uri)
    with answers("", uri), tempfile.TemporaryDirectory() as folder:
        import mlflow

        (experiment,) = client.search_experiments(max_results=1, order_by=["creation_time ASC"])
        run = client.create_run(experiment.experiment_id, run_name="doctor").info
        try:
            client.log_text(run.run_id, "kept", NOTE)
            back = mlflow.artifacts.download_artifacts(
                run_id=run.run_id, artifact_path=NOTE, dst_path=folder, tracking_uri=uri
            )
            if Path(back).read_text() != "kept":
                raise InputError(f"MLflow at {uri} returns other bytes than it stored: check its artifact store")
        finally:
            client.set_terminated(run.run_id)
            client.delete_run(run.run_id)
    return f"{uri} can be written, and gives artifacts back"


def object_store() -> str:
    """The place of the checkpoints can be listed."""
    from components.storage.s3 import SCHEME, s3_client, split_url, translate_errors

    place = environment().checkpoints
    if not place.startswith(SCHEME):
        raise Unused("SEGMODELS_CHECKPOINTS names no s3://bucket/prefix: checkpoints stay on this machine")
    bucket, prefix = split_url(place)
    client = s3_client(connect_timeout=SECONDS, retries={"max_attempts": 1})
    with translate_errors(place, connected=False):
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    return f"{place} can be listed"


def dvc_remote() -> str:
    """DVC's default remote can be reached."""
    try:
        listed = subprocess.run(["dvc", "remote", "list"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise InputError("dvc is not on PATH: activate the project's environment") from None
    if listed.returncode or not listed.stdout.strip():
        raise Unused("no remote is set: `dvc remote add --default NAME s3://bucket/prefix` lets others pull the data")
    address = listed.stdout.split()[1]
    if not address.startswith("s3://"):
        return without_credentials(address)
    from components.storage.s3 import s3_client, split_url, translate_errors

    with translate_errors(address, connected=False):
        s3_client(connect_timeout=SECONDS).head_bucket(Bucket=split_url(address)[0])
    return f"{address} answers"


def kubeflow() -> str:
    """The API of Kubeflow Pipelines answers."""
    host = os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host:
        raise Unused("KF_PIPELINES_ENDPOINT is not set: `python -m pipelines run` needs no cluster")
    page = f"{host if '://' in host else f'http://{host}'}".rstrip("/") + "/apis/v2beta1/healthz"
    try:
        with urllib.request.urlopen(page, timeout=SECONDS):
            return f"{host} answers"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return f"{host} answers and asks for a login (KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIE)"
        raise InputError(f"{page} answers {error.code}: check KF_PIPELINES_ENDPOINT") from None
    except (OSError, ValueError) as error:
        raise TransientError(f"{page} does not answer ({error}): check KF_PIPELINES_ENDPOINT and the network") from None


def docker() -> str:
    """The daemon answers."""
    if not shutil.which("docker"):
        raise Unused("docker is not installed: only `make image` and `python -m pipelines run` need it")
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Unused(f"the daemon does not answer ({(done.stderr.strip().splitlines() or ['no reason'])[-1]})")
    return f"version {done.stdout.strip()}"


def gpu() -> str:
    """Torch sees the GPUs that the driver sees."""
    import torch

    driver = _driver()
    if not driver:
        raise Unused(f"no NVIDIA driver: torch {torch.__version__} computes on the CPU")
    if not torch.cuda.is_available():
        raise InputError(
            f"the NVIDIA driver {driver} is there, but torch {torch.__version__} sees no GPU: install its CUDA build"
        )
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{one.name} {one.total_memory / 1e9:.0f} GB" for one in devices)
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "without"
    return f"{names}; driver {driver}, torch {torch.__version__}, NCCL {nccl}"


def shared_memory() -> str:
    """Loader processes hand batches over there."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        raise Unused("there is no /dev/shm: set train.workers: 0")
    size = shutil.disk_usage(folder).total
    if size < LEAST_SHARED:
        raise InputError(
            f"/dev/shm has {size / 1e6:.0f} MB, expected {LEAST_SHARED / 1e9:.0f} GB: docker run --shm-size=2g, or"
            " train.workers: 0"
        )
    return f"{size / 1e9:.1f} GB"


def disk() -> str:
    """Room for shards and checkpoints."""
    free = shutil.disk_usage(project_root()).free
    if free < LEAST_FREE:
        raise InputError(f"{project_root()} has {free / 1e9:.1f} GB free, expected {LEAST_FREE / 1e9:.0f}: free some")
    return f"{free / 1e9:.0f} GB free"


def open_files() -> str:
    """Loaders and servers open many."""
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        raise InputError(f"a process may open {most} files, expected {LEAST_FILES}: ulimit -n 4096")
    return f"{most} files per process"


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


CHECKS: dict[str, Callable[[], str]] = {
    "packages": packages,
    "params": parameters,
    "MLflow": mlflow,
    "S3": object_store,
    "DVC": dvc_remote,
    "Kubeflow": kubeflow,
    "Docker": docker,
    "GPU": gpu,
    "/dev/shm": shared_memory,
    "disk": disk,
    "limits": open_files,
}
