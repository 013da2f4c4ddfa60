"""One pod of a TrainJob: ``python -m components.train_job.node``. Fetches the shards, trains under torchrun with the
other pods, stores the model.

Kubeflow Trainer tells torchrun by PET_* variables how many pods there are, which one this is and where the first one
is.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from components.datasets.download_cache import DownloadCache
from components.datasets.s3_dataset import download
from components.environment import set_aws_variables
from components.storage.folders import put_folder
from segmodels.exit_codes import STOPPED, TRANSIENT, WRONG, guarded

WORK = Path("data")
"""In the working directory of the image."""


def train_node(params_json: str, shards_url: str, model_url: str, processes: int, anew: str = "") -> None:
    """Train this pod's share.

    Args:
        params_json: section ``train`` as JSON.
        shards_url: ``s3://...`` of the shards.
        model_url: ``s3://...``, where the first pod stores the model.
        processes: on this machine.
        anew: as of the train step.

    Raises:
        SystemExit: a process failed; with its exit code, as the pod's.
    """
    shards, _ = download(shards_url, DownloadCache(WORK / "cache"))
    command = [
        "train",
        "--params-json",
        params_json,
        "--shards",
        str(shards),
        "--checkpoints",
        str(WORK / "checkpoints"),
        "--model",
        str(WORK / "model"),
        "--anew",
        anew,
    ]
    _torchrun(processes, command)
    if os.environ.get("PET_NODE_RANK", "0") == "0":
        put_folder(WORK / "model", model_url)


def _torchrun(processes: int, command: list[str]) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args([f"--nproc-per-node={processes}", "-m", "components", *command]))
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        sys.exit(next((code for code in (WRONG, TRANSIENT, STOPPED) if code in codes), 1))
    except SignalException:
        sys.exit(STOPPED)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m components.train_job.node", description="One pod of a TrainJob.")
    for option in ("params-json", "shards-url", "model-url"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--anew", default="")
    chosen = parser.parse_args(argv)
    set_aws_variables()
    return guarded(lambda: train_node(**vars(chosen)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
