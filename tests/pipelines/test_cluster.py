"""``submit``, and errors of Kubeflow's API server, against a double of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp_json import Refusal, TextRefusal, UploadRefusal
from kfp_server import Server
from ports import free_port

Said = Callable[..., tuple[int, str]]

IMAGE = "registry.example/segmodels@sha256:" + "0" * 64


def schedule(said: Said, *more: str) -> tuple[int, str]:
    return said("schedule", "nightly", "--image", IMAGE, *more)


# --- runs


def test_submit_starts_a_run_with_its_parameters(server: Server, said: Said) -> None:
    code, text = said("submit", "--image", IMAGE, "--set", "epochs=3", "--set", "model=unet_plus_plus")
    assert code == 0
    (run,) = server.runs.values()
    assert run["run_id"] in text
    assert run["display_name"].startswith("unet_plus_plus ")
    assert run["service_account"] == "pipeline-runner"
    assert run["runtime_config"]["parameters"]["epochs"] == 3
    assert run["runtime_config"]["parameters"]["model"] == "unet_plus_plus"
    assert set(run["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}, "the settings for Kubernetes go with it"


def test_a_run_of_the_monitoring_is_named_so(server: Server, said: Said) -> None:
    assert said("submit", "--image", IMAGE, "--pipeline", "monitoring")[0] == 0
    assert next(iter(server.runs.values()))["display_name"].startswith("monitoring ")


@pytest.mark.parametrize(
    ("served_log", "warned"), [("/logs", False), ("/logs/a/", False), ("/logs2", True), ("/logs/../a", True)]
)
def test_a_log_in_no_volume_of_the_profile_is_warned_about(
    said: Said, tmp_path: Path, served_log: str, warned: bool
) -> None:
    profile = tmp_path / "watch.yaml"
    profile.write_text("volumes: [{claim: server-log, path: /logs/}]\n")
    watch = ("--pipeline", "monitoring", "--profile", str(profile), "--set", f"served_log={served_log}")
    code, text = said("compile", "--image", IMAGE, *watch, "--output", str(tmp_path / "out.yaml"))
    assert code == 0
    assert (f"warning: served_log is {served_log!r}, in no volume of the profile (/logs/)" in text) == warned


def test_a_run_on_this_machine_needs_the_log_before_docker(said: Said, tmp_path: Path) -> None:
    watch = ("run", "--pipeline", "monitoring", "--image", IMAGE, "--set", f"served_log={tmp_path / 'absent'}")
    code, text = said(*watch)
    assert code == 2
    assert f"served_log is '{tmp_path / 'absent'}', expected a folder of this machine" in text


def test_wrong_parameters_are_refused_before_anything_is_asked_of_the_server(server: Server, said: Said) -> None:
    for assignment, hint in {
        "epoch=3": "did you mean 'epochs'",
        "epochs=many": "a whole number",
        "loss=dice": "train.loss",
        "model=unett": "unknown model 'unett': did you mean 'unet'?",
        'loss={"dicee": 1}': "unknown loss 'dicee': did you mean 'dice'?",
        "dataset_layout=foldr": "unknown layout 'foldr': did you mean 'folder'?",
        "epochs": "expected parameter=value",
    }.items():
        code, text = said("submit", "--image", IMAGE, "--set", assignment)
        assert code == 2
        assert hint in text
    assert server.writes == []


# --- users and what goes wrong


def test_a_namespace_is_needed_on_multi_user_kubeflow(server: Server, said: Said, tmp_path: Path) -> None:
    server.namespace, server.token = "jane", "secret"
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert "give --namespace" in said("schedules", "--token-file", str(token))[1]
    code, text = said("schedules", "--token-file", str(token), "--namespace", "joe")
    assert code == 2
    assert "in namespace 'joe'" in text
    assert said("schedules", "--token-file", str(token), "--namespace", "jane") == (0, "no schedules\n")
    assert schedule(said, "--every", "1d", "--token-file", str(token), "--namespace", "jane")[0] == 0
    assert next(iter(server.pipelines.values()))["namespace"] == "jane"
    server.writes.clear()
    assert "up to date" in schedule(said, "--every", "1d", "--token-file", str(token), "--namespace", "jane")[1]
    assert server.writes == []


def test_a_login_at_another_server_is_not_sent_to_this_one(
    server: Server, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kfp keeps namespace, cookie and header of a login in ~/.config/kfp/context.json."""
    from kfp.client import Client

    saved = {
        "namespace": "joe",
        "client_authentication_cookie": "authservice_session=of-another-server",
        "client_authentication_header_name": "x-goog-iap-jwt-assertion",
        "client_authentication_header_value": "of-another-server",
    }
    (tmp_path / "context.json").write_text(json.dumps(saved))
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    assert said("submit", "--image", IMAGE)[0] == 0
    assert len(server.runs) == 1
    for request in server.received:
        assert not [secret for secret in ("joe", "of-another-server", "x-goog-iap") if secret in request.lower()]
    assert json.loads((tmp_path / "context.json").read_text()) == saved


def test_a_namespace_is_refused_on_single_user_kubeflow(server: Server, said: Said) -> None:
    code, text = said("schedules", "--namespace", "jane")
    assert code == 2
    assert "is single-user, got namespace 'jane'" in text
    assert server.writes == []


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ("page", "answers with text/html, HTTP 200"),
        ("redirect", "asks to log in (HTTP 302)"),
        ("401", "asks to log in (HTTP 401)"),
    ],
)
def test_a_login_page_is_recognised(server: Server, said: Said, login: str, hint: str) -> None:
    server.token, server.login = "secret", login
    code, text = schedule(said, "--every", "1d")
    assert code == 2
    assert hint in text
    assert "KF_PIPELINES_TOKEN" in text
    assert server.writes == []


def test_a_server_that_is_not_there_is_said(said: Said, server: Server) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert said("status", "x", "--host", address)[0] == 75
    code, text = said("status", "x", "--host", "http://no-such-host.invalid")
    assert code == 2
    assert "there is no host" in text
    code, text = said("status", "x", "--host", f"{server.url}/somewhere")
    assert code == 2
    assert "not Kubeflow's API" in text
    code, text = said("status", "unknown")
    assert code == 2
    assert "does not know that" in text


@pytest.mark.usefixtures("server")
def test_no_address_is_said(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert "give --host or set KF_PIPELINES_ENDPOINT" in said("schedules")[1]


# --- errors of the server


def test_an_archived_experiment_is_refused(server: Server, said: Said) -> None:
    assert said("submit", "--image", IMAGE)[0] == 0
    (experiment,) = server.experiments.values()
    experiment["storage_state"] = "ARCHIVED"
    code, text = said("submit", "--image", IMAGE)
    assert code == 2
    assert "experiment 'segmentation'" in text
    assert "/#/archive/experiments" in text
    assert len(server.runs) == 1


INVALID = "InternalServerError: Failed to create a run due to error fetching manifest: "
STACK = "\nmain.f\n\t/go/src/x.go:1\nmain.main\n\t/go/src/x.go:2"


@pytest.mark.parametrize(
    ("path", "failure", "code", "words"),
    [
        ("runs", Refusal(500, f"{INVALID}Invalid input error: parameter x"), 2, "rejects the request (HTTP 500: Int"),
        ("runs", Refusal(500, f"{INVALID}pipeline spec is invalid: no root"), 2, "pipeline spec is invalid: no root"),
        ("runs", Refusal(500, f"{INVALID}driver: bad connection"), 75, "fails (HTTP 500"),
        ("runs", Refusal(500, f"Internal error: driver: bad connection{STACK}"), 75, "driver: bad connection) (this"),
        ("runs", Refusal(500, "Internal error: " + "x" * 400 + ": the cause"), 75, "x: the cause)"),
        ("runs", Refusal(409, "Already exist error: the run"), 2, "rejects the request (HTTP 409: Already exist error"),
        ("upload", UploadRefusal(409, "Failed to create a pipeline"), 2, "HTTP 409: Failed to create a pipeline)"),
        ("upload", TextRefusal(400, "Pipeline.Name length cannot exceed 128"), 2, "length cannot exceed 128)"),
        ("upload", UploadRefusal(400, "User 'jane' is not authorized with reason: x"), 2, "does not allow that"),
    ],
)
def test_the_servers_words_are_passed_on(
    server: Server, said: Said, path: str, failure: Refusal, code: int, words: str
) -> None:
    """Uploads answer in another shape than the gRPC services, which wrap errors of the request in HTTP 500."""
    server.fail, server.failure = ("POST", path), failure
    answer = said("submit", "--image", IMAGE) if path == "runs" else schedule(said, "--every", "1d")
    assert answer[0] == code
    assert words in answer[1]


def test_a_rejected_upload_without_a_reason_is_explained(server: Server, said: Said) -> None:
    server.fail, server.failure = ("POST", "upload"), UploadRefusal(400, "Failed to create a pipeline")
    code, text = schedule(said, "--every", "1d")
    assert code == 2
    assert "often the right to create pipelines in the namespace is missing" in text


@pytest.mark.parametrize(("lost", "times"), [("experiments", 2), ("pipelines", 2), ("versions", 1)])
def test_of_two_that_create_the_same_both_go_on(
    server: Server, said: Said, monkeypatch: pytest.MonkeyPatch, lost: str, times: int
) -> None:
    """The other process creates it between this one's question and its request."""
    assert schedule(said, "--every", "1d")[0] == 0
    listed = server.list
    hidden: list[str] = []

    def late(entries: dict[str, Any], name: str, query: dict[str, str]) -> dict[str, Any]:
        if name == {"versions": "pipeline_versions"}.get(lost, lost) and len(hidden) < times:
            hidden.append(name)
            return {}
        return listed(entries, name, query)

    server.recurring_runs.clear()
    monkeypatch.setattr(server, "list", late)
    command = ("submit", "--image", IMAGE) if lost == "experiments" else ("schedule", "nightly", "--every", "1d")
    assert said(*command, *(() if lost == "experiments" else ("--image", IMAGE)))[0] == 0
    assert len(hidden) == times
    assert len(getattr(server, lost)) == (2 if lost == "versions" else 1)


def test_the_double_refuses_what_the_api_does_not_have(server: Server) -> None:
    with pytest.raises(TypeError):
        server.add(server.runs, "V2beta1Run", "run_id", pod_name="x")
    with pytest.raises(TypeError):
        server.add(server.runs, "V2beta1Run", "run_id", run_details={"tasks": []})
    with pytest.raises(AssertionError):
        server.add(server.runs, "V2beta1Run", "run_id", state="DONE")
