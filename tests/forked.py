"""Processes that start in a moment, and with no thread, connection or setting of the test's own: they are forked from a
server that has imported what takes seconds. What one runs must be importable; variables are given to it as arguments.
"""

import multiprocessing

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
