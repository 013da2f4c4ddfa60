"""Processes that start in a moment, without any thread or connection of the test's own: they are forked from a server
that has imported what takes seconds.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "components.steps.register",
        "components.tracking.saved_model",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
        "segmodels.inference.predictor",
        "segmodels.tasks.registry",
    ]
)


def process(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """One that is not started yet. It runs in the test's environment: the server has that of the test which started it.

    Args:
        target: importable.
    """
    return PROCESSES.Process(target=_in_environment, args=(dict(os.environ), target, arguments))


def _in_environment(variables: dict[str, str], target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    target(*arguments)
