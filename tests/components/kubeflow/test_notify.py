"""The message at the end of a pipeline run, and a webhook that takes it or does not."""

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from components.__main__ import main
from components.kubeflow import last_step as recording
from components.kubeflow import notify as notification
from components.kubeflow.last_step import LastStep, last_step, recorded
from components.kubeflow.notify import notify, outcome
from segmodels.errors import InputError, TransientError

REGISTERED = {
    "pipeline_run": "run-7",
    "version": "3",
    "decision": "challenger",
    "reason": "mean_iou 0.5 is below the minimum 0.65",
    "scores": "MIoU 0.5000, FWIoU 0.7500, pixel accuracy 0.8000",
}
CONFIRMED = {**REGISTERED, "pipeline_run": "run-5", "confirmed_by_pipeline_run": "run-7", "confirmed_as": "challenger"}

MLMD_STATES = ("NEW", "RUNNING", "COMPLETE", "FAILED", "CACHED", "CANCELED", "UNKNOWN")
"""Execution.State of ml-metadata's metadata_store.proto: what Kubeflow's driver puts into the final status."""

FINAL_STATUS = {
    "state": "FAILED",
    "pipelineJobResourceName": "segmentation-training-x7k2p",
    "pipelineTaskName": "exit-handler-1",
    "error": {},
}
"""As protojson writes PipelineTaskFinalStatus in backend/src/v2/driver/resolve.go: the error is always empty."""


def fields(message: dict[str, Any]) -> dict[str, str]:
    return {field["title"]: field["value"] for field in message["attachments"][0]["fields"]}


def told(state: str, tags: dict[str, str] | None, last: LastStep | None = None) -> tuple[str, str]:
    """Decision and text."""
    message = outcome({**FINAL_STATUS, "state": state}, "run-7", "", "digits", tags, last)
    return fields(message)["decision"], message["text"]


@pytest.mark.parametrize("state", [*MLMD_STATES, "SUCCEEDED"])
def test_the_registry_decides_whatever_state_kubeflow_reports(state: str) -> None:
    text = "digits version 3 is the challenger: mean_iou 0.5 is below the minimum 0.65"
    assert told(state, REGISTERED, LastStep("register", ended=True)) == ("challenger", text)
    text = "digits: nothing is new since version 3 (challenger), so nothing was trained"
    assert told(state, CONFIRMED, LastStep("changed", ended=True)) == ("skipped", text)


def test_a_registered_model_is_told_with_scores_and_link() -> None:
    status = {**FINAL_STATUS, "state": "COMPLETE"}
    message = outcome(status, "run-7", "https://kubeflow.example/pipeline/", "digits", REGISTERED)
    assert fields(message) == {
        "status": "COMPLETE",
        "decision": "challenger",
        "MIoU": "0.5000",
        "FWIoU": "0.7500",
        "run": "https://kubeflow.example/pipeline/#/runs/details/run-7",
    }


@pytest.mark.parametrize(
    ("state", "last", "decision", "words"),
    [
        ("FAILED", LastStep("validate", error="it has no masks"), "failed", "failed in step validate: it has no masks"),
        ("RUNNING", LastStep("train", error="CUDA error: x"), "failed", "failed in step train: CUDA error: x"),
        ("RUNNING", LastStep("train"), "failed", "failed in step train. The step left no message (out of memory"),
        ("FAILED", LastStep("validate", ended=True), "failed", "training failed. See the run"),
        ("FAILED", None, "failed", "training failed. See the run"),
        ("COMPLETE", LastStep("changed", ended=True), "skipped", "the results of all steps were cached"),
        ("CACHED", None, "skipped", "the results of all steps were cached"),
        ("SUCCEEDED", None, "skipped", "the results of all steps were cached"),
        (
            "RUNNING",
            LastStep("preprocess", ended=True),
            "unknown",
            "ended after step preprocess and registered nothing",
        ),
        ("UNKNOWN", None, "unknown", "the run ended and registered nothing"),
        ("CANCELED", LastStep("train", error="it was stopped"), "cancelled", "the run was cancelled in step train"),
    ],
)
def test_without_a_registered_version_the_steps_record_and_the_state_decide(
    state: str, last: LastStep | None, decision: str, words: str
) -> None:
    kind, text = told(state, {}, last)
    assert kind == decision
    assert words in text


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one() -> None:
    assert told("COMPLETE", None, LastStep("register", ended=True)) == (
        "unknown",
        "digits: the run ended (COMPLETE), but MLflow cannot be asked what it registered: see the run",
    )


def test_the_words_of_vertex_are_kept_and_a_long_message_is_cut() -> None:
    failed = {"state": "FAILED", "error": {"code": 9, "message": "The DAG failed. The failed tasks are: [train]."}}
    message = outcome(failed, "run-7", "", "digits", {})
    assert message["text"] == "digits: training failed. The DAG failed. The failed tasks are: [train]."
    assert message["attachments"][0]["color"] == "danger"
    kind, text = told("FAILED", {}, LastStep("train", error="x" * 5000))
    assert (kind, len(text), text[-1]) == ("failed", 1000, "…")


# --- what the steps record


@pytest.fixture
def in_a_run(s3: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process runs in a pod of a pipeline run of its own."""
    if "records" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket="records")
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", "s3://records/checkpoints/")
    monkeypatch.setenv("SEGMODELS_PIPELINE_RUN", request.node.name)


@pytest.mark.usefixtures("in_a_run")
def test_a_step_records_its_own_sentence() -> None:
    assert last_step() is None
    params = ["--params-json", '{"ingest": {"source": "nowhere"}}', "--executor-input", "{}"]
    assert main(["ingest", *params]) == 2
    last = last_step()
    assert last
    assert last.step == "ingest"
    assert "nowhere" in last.error
    with recorded("validate"):
        assert last_step() == LastStep("validate"), "what a killed step leaves"
    assert last_step() == LastStep("validate", ended=True)


@pytest.mark.usefixtures("in_a_run")
def test_the_part_that_failed_is_told_whatever_the_others_did_later() -> None:
    def end(part: int, error: str = "") -> None:
        with contextlib.suppress(InputError), recorded("validate-part", part):
            if error:
                raise InputError(error)

    with recorded("ingest"):
        pass
    end(0)
    end(1, "the image is cut off")
    end(2)
    assert last_step() == LastStep("validate-part 1", error="the image is cut off")
    end(1)
    with recorded("validate-merge"):
        assert last_step() == LastStep("validate-merge"), "its next attempt succeeded"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError"),
        (SystemExit(143), "it was stopped (exit code 143)"),
        (TransientError("the store does not answer"), "the store does not answer"),
    ],
)
def test_any_end_of_a_step_is_a_sentence(error: BaseException, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    monkeypatch.setattr(recording, "write_record", lambda name, facts: records.append({name: facts}))
    with pytest.raises(type(error)), recorded("train"):
        raise error
    assert [record["last_step.json"]["error"] for record in records] == ["", sentence]


@pytest.mark.usefixtures("in_a_run")
def test_a_store_that_refuses_does_not_fail_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", "s3://no-such-bucket/checkpoints")
    with recorded("ingest"):
        pass
    assert "the notification will not know this step's end" in capsys.readouterr().out
    assert last_step() is None


# --- the webhook


class Webhook:
    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
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
    monkeypatch.setenv("SEGMODELS_WEBHOOK_URL", state.url)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_PIPELINE_RUN", raising=False)
    monkeypatch.delenv("SEGMODELS_WEBHOOK_URL", raising=False)


STATUS = json.dumps({**FINAL_STATUS, "state": "COMPLETE"})


def test_the_webhook_gets_json_and_its_address_is_not_printed(
    webhook: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    notify(STATUS, "digits")
    (message,) = webhook.received
    assert set(message) == {"text", "attachments"}
    said = capsys.readouterr().out
    assert "notification sent" in said
    assert "secret" not in said


def test_words_of_a_failed_step_are_no_links_and_mentions(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = 'a & b: <!channel> <https://evil.example|see "here">'
    monkeypatch.setattr(notification, "last_step", lambda: LastStep("train", error=sentence))
    notify(json.dumps({"state": "FAILED <!here>"}), "digits")
    (message,) = webhook.received
    assert message["text"].endswith('step train: a &amp; b: &lt;!channel&gt; &lt;https://evil.example|see "here"&gt;')
    assert "<" not in json.dumps(message)
    assert message["attachments"][0]["fields"][0]["value"] == "FAILED &lt;!here&gt;"
    assert sentence in capsys.readouterr().out, "the log is no chat"


def test_one_run_tells_one_outcome_once(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often Argo starts the exit handler. If a later attempt ends otherwise, that is a second message."""
    records: dict[str, dict[str, Any]] = {}
    ends = LastStep("train", error="the learning rate is negative")
    monkeypatch.setattr(notification, "read_record", lambda name: records.get(name, {}))
    monkeypatch.setattr(notification, "write_record", records.__setitem__)
    monkeypatch.setattr(notification, "last_step", lambda: ends)
    webhook.status = 500
    notify(STATUS, "digits")
    webhook.status = 200
    for _ in range(3):
        notify(json.dumps(FINAL_STATUS), "digits")
    failed = "digits: training failed in step train: the learning rate is negative"
    assert [message["text"] for message in webhook.received] == [failed, failed], "again after the webhook failed"
    ends = LastStep("register", ended=True)
    notify(STATUS, "digits")
    assert len(webhook.received) == 3


def test_a_webhook_that_fails_does_not_fail_the_run(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.status = 404
    for url in (webhook.url, "http://127.0.0.1:1/secret", "secret", "file:///etc/secret"):
        monkeypatch.setenv("SEGMODELS_WEBHOOK_URL", url)
        notify(STATUS, "digits")
        said = capsys.readouterr().out
        assert "no notification sent" in said
        assert "secret" not in said


def test_without_a_webhook_it_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    notify('{"state": "FAILED", "error": {"message": "out of memory"}}', "digits")
    assert "digits: training failed. out of memory" in capsys.readouterr().out


def test_mlflow_that_is_away_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGMODELS_PIPELINE_RUN", "run-7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    notify(STATUS, "digits")
    assert "MLflow cannot be asked what it registered" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["", "{", "[]", "null", '{"state": 3, "error": "words"}', "[" * 9000])
def test_a_status_that_is_no_json_object_is_said_and_does_not_fail_the_run(
    status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEGMODELS_WEBHOOK_URL", raising=False)
    monkeypatch.delenv("SEGMODELS_PIPELINE_RUN", raising=False)
    notify(status, "digits")
    said = capsys.readouterr().out
    assert "digits" in said
    assert ("--status cannot be understood" in said) is ('"state"' not in status)
