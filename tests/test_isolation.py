"""No test is touched by what another one left in the process."""

import boto3
import pytest


@pytest.mark.parametrize("key", ["one", "another"])
def test_clients_have_the_credentials_of_their_test(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, key)
    client = boto3.client("s3", region_name="us-east-1")
    assert client._request_signer._credentials.access_key == key
