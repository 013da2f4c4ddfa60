"""Sends the outcome of a pipeline run to a chat.

Kubeflow's final status alone does not say what happened. On a cluster its state is ML Metadata's word for the exit
handler's group (COMPLETE, FAILED, RUNNING, CACHED, CANCELED, NEW or UNKNOWN; Vertex AI and kfp.local say SUCCEEDED),
and it stays RUNNING when the group ends with a skipped branch, a cached step or a lost pod. So the model registry
decides first, then what the steps recorded, then the state.
"""

from __future__ import annotations

import html
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from components.environment import environment, variable
from components.kubeflow.changed import CONFIRMED_AS, CONFIRMED_BY
from components.kubeflow.last_step import LastStep, last_step, read_record, write_record
from segmodels.errors import InputError, TransientError
from segmodels.files import parse_json

PIPELINE_RUN = "pipeline_run"
"""Tag of a model version: the pipeline run that registered it or decided on it last."""

SUCCESS = ("SUCCEEDED", "COMPLETE", "CACHED")
CANCELLED = ("CANCELED", "CANCELLED")

COLOURS = {"champion": "good", "skipped": "#9e9e9e", "failed": "danger"}
"""Slack's colour of each decision; others, such as challenger and unknown, are ``warning``."""

LONGEST = 1000
"""Characters of a message's text."""

NOTIFIED = "notified.json"


def notify(status: str, name: str) -> None:
    """Post the outcome as JSON that Slack, Mattermost and Rocket.Chat understand; print it if no address is set.

    Never fails. A message that this pipeline run has already sent is not sent again: Argo may start the exit handler
    once for each attempt of the steps before it.

    The run's id is read from ``SEGMODELS_PIPELINE_RUN``, the address from ``SEGMODELS_WEBHOOK_URL`` (a secret that is
    never printed), and the address of the Kubeflow UI, for the link, from ``SEGMODELS_PIPELINE_UI``.

    Args:
        status: Kubeflow's final status of the run, JSON.
        name: of the registered model.
    """
    settings = environment()
    run = settings.pipeline_run
    message = outcome(_state(status), run, settings.pipeline_ui, name, _version_tags(name, run), last_step())
    text = message["text"]
    print(text, flush=True)
    if not settings.webhook_url:
        print(f"{variable('webhook_url')} is not set: no notification sent", flush=True)
    elif read_record(NOTIFIED).get("text") == text:
        print("this pipeline run has already sent this notification: it is not sent again", flush=True)
    else:
        sent, words = _post(settings.webhook_url, message)
        print(words, flush=True)
        if sent:
            write_record(NOTIFIED, {"text": text})


def outcome(
    status: Mapping[str, Any],
    run: str,
    ui: str,
    name: str,
    tags: Mapping[str, str] | None,
    last: LastStep | None = None,
) -> dict[str, Any]:
    """The message.

    Args:
        status: ``state`` and, on Vertex AI after a failure, ``error``.
        run: id of the pipeline run.
        ui: address of the Kubeflow UI; empty if it is not known.
        name: of the registered model.
        tags: of the model version that this run registered or confirmed; empty if there is none, None if MLflow does
            not answer.
        last: the step that started last, None if it is not known.
    """
    state = str(status.get("state", "UNKNOWN"))
    kind, text = _decision(state, _message(status.get("error")), run, name, tags, last)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    fields = {"status": state, "decision": kind}
    if tags and kind in ("champion", "challenger"):
        scores = [score.rpartition(" ") for score in tags.get("scores", "").split(", ") if score]
        fields |= {words: value for words, _, value in scores[:2]}
    fields["run"] = f"{ui.rstrip('/')}/#/runs/details/{run}" if ui else run
    shown = [{"title": title, "value": value, "short": title != "run"} for title, value in fields.items()]
    return {"text": text, "attachments": [{"fallback": text, "color": COLOURS.get(kind, "warning"), "fields": shown}]}


def _message(error: Any) -> str:
    return str(error.get("message", "")) if isinstance(error, Mapping) else str(error or "")


def _state(status: str) -> dict[str, Any]:
    """Kubeflow's final status; empty if it is not a JSON object."""
    try:
        return parse_json(status, {})
    except ValueError as error:
        print(f"--status cannot be understood ({error}): the run's state is not known", flush=True)
        return {}


def _decision(
    state: str, error: str, run: str, name: str, tags: Mapping[str, str] | None, last: LastStep | None
) -> tuple[str, str]:
    """The outcome of the run, as a key of ``COLOURS`` and as a sentence."""
    if tags and tags.get(PIPELINE_RUN) == run:
        return tags["decision"], f"{name} version {tags['version']} is the {tags['decision']}: {tags['reason']}"
    if tags:
        known = f"nothing is new since version {tags['version']} ({tags.get(CONFIRMED_AS, 'registered')})"
        return "skipped", f"{name}: {known}, so nothing was trained"
    step = f" in step {last.step}" if last and not last.ended else ""
    if state in CANCELLED:
        return "cancelled", f"{name}: the run was cancelled{step}"
    if last and last.error:
        return "failed", f"{name}: training failed{step}: {last.error}"
    if state == "FAILED" or step:
        unsaid = (
            "The step left no message (out of memory, a lost pod, or a terminated run): see its log" if step else ""
        )
        return "failed", f"{name}: training failed{step}. {error or unsaid or 'See the run'}"
    if tags is None:
        return "unknown", f"{name}: the run ended ({state}), but MLflow cannot be asked what it registered: see the run"
    if state in SUCCESS:
        return "skipped", f"{name}: nothing was registered, because the results of all steps were cached"
    after = f" after step {last.step}" if last else ""
    return "unknown", (
        f"{name}: the run ended{after} and registered nothing: either the results of the further steps were cached,"
        " or a pod did not start; see the run"
    )


def _version_tags(name: str, run: str) -> dict[str, str] | None:
    """Tags of the model version that this run registered or confirmed, and its number as ``version``; None if MLflow
    does not answer.
    """
    if not run:
        return {}
    from components.tracking.client import mlflow_client
    from components.tracking.mlflow_errors import answers

    try:
        client = mlflow_client()
        with answers("the result", client.tracking_uri):
            for tag in (PIPELINE_RUN, CONFIRMED_BY):
                found = client.search_model_versions(f"name = '{name}' and tags.{tag} = '{run}'", max_results=1)
                for version in found:
                    return {**version.tags, "version": str(version.version)}
    except (InputError, TransientError, OSError) as error:
        print(f"MLflow cannot be asked what the run registered ({error})", flush=True)
        return None
    return {}


def _post(url: str, message: Mapping[str, Any]) -> tuple[bool, str]:
    """Send; whether that worked, and a sentence without the address.

    Slack and its kin take ``<...>`` for links and mentions, so that a file's name could call everybody: &, < and > are
    escaped as Slack asks (https://docs.slack.dev/messaging/formatting-message-text, "Escaping text").
    """
    content = html.escape(json.dumps(message), quote=False).encode()  # JSON itself needs none of the three
    try:
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            return False, "no notification sent: the webhook's address is neither http nor https"
        with urllib.request.urlopen(request, timeout=20):
            return True, "notification sent"
    except urllib.error.HTTPError as error:
        return False, f"no notification sent: the webhook answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = type(getattr(error, "reason", error)).__name__
        return False, f"no notification sent: the webhook does not answer ({reason})"
