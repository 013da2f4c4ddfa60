"""Addresses are shown without what opens them."""

import pytest

from segmodels.addresses import check_address, holds_credentials, without_credentials
from segmodels.errors import InputError


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        "https://me:SECRET@example.org/data.git is not there": "https://example.org/data.git is not there",
        "https://SECRET@example.org/a.git": "https://example.org/a.git",
        "http://u:SEC@RET@host:50/x": "http://host:50/x",
        "http://u:SEC/RET@host/x": "http://host/x",
        "ssh://git:SECRET@host/a": "ssh://host/a",
        "postgresql+psycopg2://u:SECRET@h/db?sslmode=require&password=SECRET": "postgresql+psycopg2://h/db?sslmode=require",
        "https://h/a?ref=v1&private_token=SECRET&b=1": "https://h/a?ref=v1&b=1",
        "s3://b/k?X-Amz-Algorithm=A&X-Amz-Credential=SECRET%2Fx&X-Amz-Signature=SECRET": "s3://b/k",
        "https://h/?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=5": "https://h/?Expires=5",
        "https://account.blob.example/c?sv=2020&sig=SECRET%3D&se=1": "https://account.blob.example/c?sv=2020&se=1",
        "https://h/x#access_token=SECRET": "https://h/x",
        "exceeded with url: /api?token=SECRET (Caused by X)": "exceeded with url: /api (Caused by X)",
        "{'repo': 'https://a:SECRET@c/d', 'x': 1}": "{'repo': 'https://c/d', 'x': 1}",
        "http://a:SECRET@b and http://c:SECRET@d": "http://b and http://d",
        "folder http:/me:SECRET@h/x is not there": "folder http:/h/x is not there",
        "https:/SECRET@h": "https:/h",
        "s3:/me:SECRET@b/x": "s3:/b/x",
    }.items(),
)
def test_user_password_token_and_signature_are_removed(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert holds_credentials(text)
    assert not holds_credentials(shown)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/x@y",
        "http:/host:5000/x@y",
        "a:/b@c",
        "http://[::1]:8080/x@y",
        "ssh://git@github.com/a/b",
        "git@github.com:a/b.git",
        "sqlite:////home/me/a@b/mlflow.db",
        "s3://bucket/prefix?versionId=3",
        "see https://example.org/a?b=c&d=e, or write to me@example.org",
        "token = 5 & key = 3",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    "address",
    [
        "http://my_host:5000/base",
        "https://me:p@ss@example.org.",
        "http://[::1]:5000",
        "https://bücher.example",
        "ssh://git@host:22/a.git",
        "file:///data/[a]/repo",
        "postgresql://me:p#w@db:5432/mlflow",
    ],
)
def test_an_address_that_programs_read_is_taken(address: str) -> None:
    check_address(address, "x")


@pytest.mark.parametrize(
    ("address", "reason"),
    {
        "https://me:SECRET@[::1/x.git": "Invalid IPv6 URL",
        "ssh://[::1/x.git": "Invalid IPv6 URL",
        "https:///x": "names no host",
        "http://a b/x": "its host holds ' '",
        "http://a..b": "empty or longer than 63",
    }.items(),
)
def test_an_address_that_no_program_reads_is_refused_without_its_credentials(address: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"repo is '.*{reason}") as refusal:
        check_address(address, "repo")
    assert "SECRET" not in str(refusal.value)
