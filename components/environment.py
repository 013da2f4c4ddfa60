"""The SEGMODELS_* environment variables. They are set on a cluster; on one machine none is needed.

``SEGMODELS_S3_NAME`` becomes ``AWS_NAME`` in our processes alone (``SEGMODELS_S3_ACCESS_KEY_ID``,
``SEGMODELS_S3_ENDPOINT_URL``, ...): Kubeflow's launcher, which runs in the same container, reads AWS_* for its own
store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

PREFIX = "SEGMODELS_"
S3 = f"{PREFIX}S3_"


@dataclass(frozen=True)
class Environment:
    """Their values; empty where a variable is not set. The variable of ``code_revision`` is SEGMODELS_CODE_REVISION.

    Attributes:
        code_revision: Git commit of the code in an image.
        image: container image that runs the step, by digest.
        checkpoints: ``s3://bucket/prefix`` that keeps training states, and whatever else pods exchange.
        pipeline_run: id of the Kubeflow pipeline run.
        pipeline_ui: address of the Kubeflow Pipelines UI.
        webhook_url: address that notifications are posted to. A secret.
        train_job: ``TrainJobSettings`` as JSON; set, the train step starts a TrainJob and follows it.
    """

    code_revision: str = ""
    image: str = ""
    checkpoints: str = ""
    pipeline_run: str = ""
    pipeline_ui: str = ""
    webhook_url: str = ""
    train_job: str = ""

    def variables(self) -> dict[str, str]:
        """Variable -> value, of those that are set."""
        values = {variable(field.name): getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value}


def environment() -> Environment:
    """The values of this process, now."""
    return Environment(**{field.name: os.environ.get(variable(field.name), "") for field in fields(Environment)})


def variable(field: str) -> str:
    """The name of a field's variable."""
    return PREFIX + field.upper()


def set_aws_variables() -> None:
    """Give every AWS client of this process the values of the SEGMODELS_S3_* variables."""
    for name, value in list(os.environ.items()):
        if name.startswith(S3):
            os.environ[f"AWS_{name.removeprefix(S3)}"] = value
