"""What the checksums of records cost a training: ``python -m benchmarks.integrity``. Target: at most 1 %.

Each record is compared with its checksum when it is first read, so the first epoch pays for the whole training, here
one of three epochs. The processor time of the checks is counted in the epochs, start and validation left out: no second
training is needed to compare with, and neither noise nor waiting for the interpreter's lock hides what is measured.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.report import markdown_table, write_section
from components.__main__ import main as command
from segmodels.data.records import Record
from segmodels.training.fit import Fit

TRAIN, SIZE, EPOCHS = 1200, 96, 3
PARAMS = {
    "ingest": {"digits": {"train": TRAIN, "val": 20, "test": 20, "size": SIZE}},
    "train": {"epochs": EPOCHS, "batch_size": 16, "accelerator": "cpu", "options": {"widths": [16, 32, 64, 128, 256]}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("params.yaml").write_text(json.dumps(PARAMS))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{name}/mlflow.db"
        for step in ("ingest", "validate", "preprocess"):
            assert command([step]) == 0
        with (
            counted(Record, "check", time.thread_time) as checks,
            counted(Fit, "_train_epoch", time.perf_counter) as epochs,
        ):
            assert command(["train"]) == 0
    rows: list[list[object]] = [
        ["first epoch", epochs[0]],
        ["all epochs", sum(epochs)],
        ["processor time of the checksums", sum(checks)],
        ["share of the first epoch", sum(checks) / epochs[0]],
        ["share of all epochs", sum(checks) / sum(epochs)],
    ]
    text = (
        f"U-Net of the demo, {TRAIN} images of {SIZE}x{SIZE} in batches of 16, {EPOCHS} epochs,"
        f" {len(checks)} records checked.\n\n{markdown_table(['', 's'], rows)}"
    )
    write_section("Checksums of records", text)


@contextlib.contextmanager
def counted(owner: type, method: str, clock: Callable[[], float]) -> Iterator[list[float]]:
    """The seconds of each call of a method while the block lasts."""
    original, seconds = getattr(owner, method), []

    def timed(*arguments: object) -> object:
        start = clock()
        try:
            return original(*arguments)
        finally:
            seconds.append(clock() - start)

    setattr(owner, method, timed)
    try:
        yield seconds
    finally:
        setattr(owner, method, original)


if __name__ == "__main__":
    main()
