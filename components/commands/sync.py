"""Send the metrics in the journals of trainings that MLflow lacks, after an outage that outlasted the trainings."""

from __future__ import annotations

from pathlib import Path

from components.artifacts import RUN, VALIDATION_PICTURES
from segmodels.errors import InputError, TransientError


def sync(model: Path, checkpoints: Path) -> None:
    """Send metrics and pictures that MLflow does not have, each once, and end the run of the finished training.

    A training that is running sends its own. Its folder, and folders whose run MLflow does not know, are named and
    left alone.

    Args:
        model: folder that train wrote.
        checkpoints: folder of the trainings' states, which may not have finished.

    Raises:
        TransientError: MLflow does not answer.
    """
    from components.running.folder_lock import locked_folder
    from components.tracking.client import mlflow_client
    from components.tracking.runs import open_run
    from components.tracking.validation_pictures import key_and_step, waiting

    mlflow_client()  # an outage is no reason to go through all folders
    states = [folder for folder in sorted(checkpoints.glob("*")) if RUN.path(folder).exists()]
    for folder in states:
        try:
            if not RUN.read(folder)["run_id"]:  # the training ended before MLflow made its run
                continue
            with locked_folder(folder, "training"):
                run = open_run(folder)
                for path in list(waiting(folder / VALIDATION_PICTURES)):
                    run.log_picture(path, *key_and_step(path))
                    path.unlink()
        except (InputError, TransientError) as error:
            print(f"{folder}: {error}", flush=True)
    if RUN.path(model).exists():
        open_run(model).end()
    print(f"looked at {len(states)} states in {checkpoints} and at {model}", flush=True)
