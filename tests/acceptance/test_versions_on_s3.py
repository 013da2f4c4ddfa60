"""The commands of docs/your-own-dataset.md for versions on S3, against a real S3 server."""

import os
import shutil
import subprocess
from pathlib import Path

import boto3
import pytest
from s3server import s3_server

pytestmark = pytest.mark.acceptance


def test_versions_are_pushed_to_s3_pulled_elsewhere_and_imported_from_it(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        environment = {**os.environ, **server.environment}
        settings = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            **{name: environment[variable] for name, variable in settings.items()},
        )
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="road-scenes/images/1.png", Body=b"a picture")

        def run(folder: Path, *commands: str) -> None:
            for command in commands:
                subprocess.run(command.split(), cwd=folder, env=environment, check=True, capture_output=True)

        project = tmp_path / "project"
        (project / "datasets" / "camvid").mkdir(parents=True)
        (project / "datasets" / "camvid" / "1.png").write_bytes(b"a frame")
        run(
            project,
            "git init -q",
            "dvc init -q",
            "dvc remote add -d storage s3://bucket/versions",
            f"dvc remote modify storage endpointurl {server.endpoint}",
            "dvc remote add store s3://bucket",
            f"dvc remote modify store endpointurl {server.endpoint}",
            "dvc add datasets/camvid",
            "dvc push",
            "dvc import-url remote://store/road-scenes datasets/road",
        )
        assert (project / "datasets" / "road" / "images" / "1.png").read_bytes() == b"a picture"
        shutil.rmtree(project / "datasets" / "camvid")
        shutil.rmtree(project / ".dvc" / "cache")
        run(project, "dvc pull datasets/camvid.dvc")
        assert (project / "datasets" / "camvid" / "1.png").read_bytes() == b"a frame"
