"""Refusals of files and of requests by servers, object stores and settings are told apart from outages."""

from pathlib import Path

import pytest
import requests
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, NoCredentialsError, ProfileNotFound
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from small_pipeline import use_local_store

from components.tracking.client import mlflow_client
from components.tracking.mlflow_errors import answers
from components.tracking.model_registry import Registry, version_now
from segmodels.errors import InputError, TransientError


def refused_by_store(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")


def refused_file(status: int) -> requests.HTTPError:
    return requests.HTTPError(f"{status} Client Error: no for url: http://me:HIDDEN@host/api/2.0/mlflow-artifacts/x")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        *((refused_file(status), InputError, "MLflow at .* denies access") for status in (401, 403)),
        (refused_file(404), InputError, "is not in MLflow"),
        (refused_file(413), InputError, "a file is too large for MLflow at .*client_max_body_size"),
        (refused_file(400), InputError, "is refused by MLflow"),
        *((refused_file(status), TransientError, "does not answer") for status in (408, 425, 429)),
        *(
            (refused_by_store(code), InputError, "the object store .* denies access .*AWS_ACCESS_KEY_ID")
            for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403")
        ),
        (NoCredentialsError(), InputError, "the object store .* denies access .*Unable to locate credentials"),
        (ProfileNotFound(profile="x"), InputError, "AWS_PROFILE"),
        (refused_by_store("RequestTimeTooSkewed"), InputError, "this machine's clock"),
        *((refused_by_store(code), InputError, "is not in MLflow") for code in ("NoSuchBucket", "NoSuchKey", "404")),
        *((refused_by_store(code), TransientError, "does not answer") for code in ("SlowDown", "InternalError")),
    ],
)
def test_a_refused_file_is_no_outage(error: Exception, kind: type[Exception], words: str) -> None:
    forms = [error, MlflowException(f"failures occurred while downloading artifacts: ##### File x #####: {error}")]
    if isinstance(error, ClientError):
        forms.append(S3UploadFailedError(f"Failed to upload a to b/c: {error}"))
    for raised in forms:
        with pytest.raises(kind, match=words) as caught, answers("run 1", "http://host"):
            raise raised
        assert "HIDDEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [
        ("MLFLOW_TRACKING_TOKEN", "HIDDEN\n", InputError, "^MLFLOW_TRACKING_TOKEN, .* holds a line break"),
        ("MLFLOW_TRACKING_TOKEN", "HIDDEN€", InputError, "not in Latin-1"),
        ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "/absent", InputError, "a file of certificates .*/absent"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "abc", InputError, "'abc' for MLFLOW_HTTP_REQUEST_TIMEOUT"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "maybe", InputError, "MLFLOW_TRACKING_INSECURE_TLS value must be one of"),
        ("http_proxy", "garbage://me:HIDDEN@x", InputError, "the proxy for http://127.0.0.1:9 has no address"),
        ("http_proxy", "http:///x", InputError, "the proxy for http://127.0.0.1:9 has no address"),
        ("http_proxy", "http://me:HIDDEN@127.0.0.1:9", TransientError, "the proxy of HTTP_PROXY .*or name .*NO_PROXY"),
    ],
)
def test_a_variable_that_keeps_requests_from_the_server_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=words) as caught, answers("run 1", "http://127.0.0.1:9"):
        MlflowClient("http://127.0.0.1:9").get_run("1")
    assert "HIDDEN" not in str(caught.value)


def test_an_outage_of_a_registry_of_its_own_is_told_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TransientError, match=r"^model models:/w@champion: MLflow at http://127.0.0.1:9 does not"):
        version_now("models:/w@champion")
    with pytest.raises(TransientError, match=r"^registered model 'w': MLflow at http://127.0.0.1:9 does not"):
        Registry(mlflow_client(), "w").champion()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "htp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"^MLFLOW_REGISTRY_URI is 'htp://127.0.0.1:9', expected"):
        version_now("models:/w@champion")
