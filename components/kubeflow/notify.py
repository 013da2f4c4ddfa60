"""Sends the outcome of a pipeline run to a chat."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from components.environment import environment, variable
from components.kubeflow.changed import CONFIRMED_BY

PIPELINE_RUN = "pipeline_run"
"""Tag of a model version: the pipeline run that registered it or decided on it last."""

COLOURS = {"champion": "good", "skipped": "#9e9e9e", "failed": "danger"}


def notify(status: str, name: str) -> None:
    """Post the outcome as JSON that Slack, Mattermost and Rocket.Chat understand; print it where no address is set.
    Never fails.

    The run's id is read from ``SEGMODELS_PIPELINE_RUN``, the address from ``SEGMODELS_WEBHOOK_URL`` (it is a secret: it
    is never printed), the address of the Kubeflow UI, for the link, from ``SEGMODELS_PIPELINE_UI``.

    Args:
        status: Kubeflow's final status of the run, JSON.
        name: of the registered model.
    """
    settings = environment()
    run = settings.pipeline_run
    message = outcome(json.loads(status), run, settings.pipeline_ui, name, _version_tags(name, run))
    print(message["text"], flush=True)
    if url := settings.webhook_url:
        print(_post(url, message), flush=True)
    else:
        print(f"{variable('webhook_url')} is not set: no notification sent", flush=True)


def outcome(status: Mapping[str, Any], run: str, ui: str, name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """The message.

    Args:
        status: ``state`` and, after a failure, ``error``.
        run: id of the pipeline run.
        ui: address of the Kubeflow UI; empty where it is not known.
        name: of the registered model.
        tags: of the model version that this run registered or confirmed; empty when there is none.
    """
    state = str(status.get("state", "UNKNOWN"))
    if state != "SUCCEEDED":
        kind, text = (
            "failed",
            f"{name}: training {state.lower()}. {(status.get('error') or {}).get('message', '')}".rstrip(),
        )
    elif tags.get(PIPELINE_RUN) == run:
        kind, text = tags["decision"], f"{name} version {tags['version']} is the {tags['decision']}: {tags['reason']}"
    elif tags:
        kind, text = "skipped", f"{name}: nothing is new since the champion, version {tags['version']}; no training"
    else:
        kind, text = "skipped", f"{name}: nothing was registered, every step's result was known already"
    fields = {"status": state, "decision": kind}
    if kind in ("champion", "challenger"):
        scores = [score.rpartition(" ") for score in tags.get("scores", "").split(", ") if score]
        fields |= {words: value for words, _, value in scores[:2]}
    fields["run"] = f"{ui.rstrip('/')}/#/runs/details/{run}" if ui else run
    shown = [{"title": title, "value": value, "short": title != "run"} for title, value in fields.items()]
    return {"text": text, "attachments": [{"fallback": text, "color": COLOURS.get(kind, "warning"), "fields": shown}]}


def _version_tags(name: str, run: str) -> dict[str, str]:
    """Tags of the model version that this run registered or confirmed, and its number as ``version``."""
    if not run:
        return {}
    from mlflow.exceptions import MlflowException

    from components.tracking import runs

    try:
        client = runs.mlflow_client()
        for tag in (PIPELINE_RUN, CONFIRMED_BY):
            for version in client.search_model_versions(f"name = '{name}' and tags.{tag} = '{run}'", max_results=1):
                return {**version.tags, "version": str(version.version)}
    except (MlflowException, ValueError, OSError) as error:
        print(f"MLflow cannot be asked for the result ({str(error).splitlines()[0][:200]})", flush=True)
    return {}


def _post(url: str, message: Mapping[str, Any]) -> str:
    """Send; what became of it, without the address."""
    try:
        request = urllib.request.Request(url, json.dumps(message).encode(), {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            return "no notification sent: the webhook's address is neither http nor https"
        with urllib.request.urlopen(request, timeout=20):
            return "notification sent"
    except urllib.error.HTTPError as error:
        return f"no notification sent: the webhook answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = type(getattr(error, "reason", error)).__name__
        return f"no notification sent: the webhook does not answer ({reason})"
