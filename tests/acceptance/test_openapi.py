"""The model server and its OpenAPI description: Schemathesis makes requests from the description, right and wrong ones,
and compares every answer with it.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from small_pipeline import write_model
from small_server import listening, served

pytestmark = pytest.mark.acceptance

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
"""All that apply, but for positive_data_acceptance: no schema says which bytes are an image, or that a tensor has as
many values as its shape.
"""


def test_every_answer_is_as_the_description_says(tmp_path: Path) -> None:
    model = write_model(tmp_path / "scenes", steps=1)
    with served(str(model)) as (client, live), listening(client) as (host, port):
        assert live.current is not None
        (tmp_path / "schemathesis.toml").write_text(
            f'[parameters]\n"path.name" = "{live.name}"\n"path.number" = "{live.current.version}"\n'
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{host}:{port}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--seed", "1", "--max-time", "50", "--no-color"),
                *("--phases", "examples,coverage,fuzzing", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout[-10_000:]
        assert client.get("/v2/health/ready").status_code == 200
