"""The message at the end of a pipeline run, and a webhook that takes it or does not."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from components.kubeflow.notify import notify, outcome

REGISTERED = {
    "pipeline_run": "run-7",
    "version": "3",
    "decision": "challenger",
    "reason": "mean_iou 0.5 is below the minimum 0.65",
    "scores": "MIoU 0.5000, FWIoU 0.7500, pixel accuracy 0.8000",
}
SUCCEEDED = '{"state": "SUCCEEDED"}'


def fields(message: dict[str, Any]) -> dict[str, str]:
    return {field["title"]: field["value"] for field in message["attachments"][0]["fields"]}


def test_a_registered_model_is_told_with_scores_decision_and_link() -> None:
    message = outcome({"state": "SUCCEEDED"}, "run-7", "https://kubeflow.example/pipeline/", "digits", REGISTERED)
    assert message["text"] == "digits version 3 is the challenger: mean_iou 0.5 is below the minimum 0.65"
    assert fields(message) == {
        "status": "SUCCEEDED",
        "decision": "challenger",
        "MIoU": "0.5000",
        "FWIoU": "0.7500",
        "run": "https://kubeflow.example/pipeline/#/runs/details/run-7",
    }


def test_a_failure_is_told_with_kubeflows_words() -> None:
    message = outcome(
        {
            "state": "FAILED",
            "error": {"code": 9, "message": "The DAG failed because some tasks failed. The failed tasks are: [train]."},
        },
        "run-7",
        "",
        "digits",
        {},
    )
    assert message["text"].startswith("digits: training failed. The DAG failed")
    assert message["attachments"][0]["color"] == "danger"
    assert fields(message) == {"status": "FAILED", "decision": "failed", "run": "run-7"}


def test_a_run_that_ended_early_is_told_as_such() -> None:
    confirmed = {**REGISTERED, "pipeline_run": "run-5", "confirmed_by_pipeline_run": "run-7"}
    message = outcome({"state": "SUCCEEDED"}, "run-7", "", "digits", confirmed)
    assert "nothing is new since the champion, version 3" in message["text"]
    assert "MIoU" not in fields(message)


class Webhook:
    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(state.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/services/T000/secret"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_PIPELINE_RUN", raising=False)


def test_the_webhook_gets_json_and_its_address_is_not_printed(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGMODELS_WEBHOOK_URL", webhook.url)
    notify(SUCCEEDED, "digits")
    (message,) = webhook.received
    assert set(message) == {"text", "attachments"}
    said = capsys.readouterr().out
    assert "notification sent" in said
    assert "secret" not in said


def test_a_webhook_that_fails_does_not_fail_the_run(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.status = 404
    for url in (webhook.url, "http://127.0.0.1:1/secret", "secret", "file:///etc/secret"):
        monkeypatch.setenv("SEGMODELS_WEBHOOK_URL", url)
        notify(SUCCEEDED, "digits")
        said = capsys.readouterr().out
        assert "no notification sent" in said
        assert "secret" not in said


def test_without_a_webhook_it_is_logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SEGMODELS_WEBHOOK_URL", raising=False)
    notify('{"state": "FAILED", "error": {"message": "out of memory"}}', "digits")
    assert "digits: training failed. out of memory" in capsys.readouterr().out
