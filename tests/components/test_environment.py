"""The project's own names for S3 settings, which leave AWS_* to Kubeflow's launcher."""

import os
from types import ModuleType

import pytest

from components import __main__ as command_line
from components.train_job import node

OWN = {"SEGMODELS_S3_ACCESS_KEY_ID": "ours", "SEGMODELS_S3_ENDPOINT_URL": "http://store:9000"}


@pytest.mark.parametrize(
    ("module", "works", "argv"),
    [
        (command_line, "run_step", ["validate"]),
        (node, "train_node", ["--params-json={}", "--shards-url=s", "--model-url=m", "--processes=1"]),
    ],
)
def test_own_names_become_aws_variables_within_the_command(
    module: ModuleType, works: str, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str | None] = {}
    monkeypatch.setattr(module, works, lambda *_, **__: seen.update(os.environ))
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy() | OWN | {"AWS_ACCESS_KEY_ID": "the launcher's"})
        assert module.main(argv) == 0
    assert (seen["AWS_ACCESS_KEY_ID"], seen["AWS_ENDPOINT_URL"]) == ("ours", "http://store:9000")
