"""Addresses of pages in MLflow's UI.

MLflow 3 opens an experiment as one of generative AI (traces, tokens) unless the address says ``workflowType``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from segmodels.addresses import without_credentials

PORT = 5000
"""Address of the UI that `make ui` starts on a local store."""

WORKFLOW = "workflowType=machine_learning"

SCORES_VIEW = "scores"
"""Key of the columns that an experiment's table of runs opens with, see ``presentation``."""


def ui_address(tracking_uri: str) -> str:
    """Address of the server, without credentials; of a local store, the address where `make ui` shows it."""
    if tracking_uri.startswith("http"):
        return without_credentials(tracking_uri).rstrip("/")
    return f"http://localhost:{PORT}"


def experiment_page(ui: str, experiment_id: str) -> str:
    """The table of the experiment's runs, with the columns of their scores."""
    return f"{ui}/#/experiments/{experiment_id}/runs?viewStateShareKey={SCORES_VIEW}&{WORKFLOW}"


def run_page(ui: str, experiment_id: str, run_id: str) -> str:
    return f"{ui}/#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"


def comparison_page(ui: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Parameters and metrics of runs side by side."""
    runs, experiments = (quote(json.dumps(list(ids), separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return f"{ui}/#/compare-runs?runs={runs}&experiments={experiments}&{WORKFLOW}"


def model_page(ui: str, name: str, version: str = "") -> str:
    """Page of a registered model with its aliases, or of one version with its model card."""
    return f"{ui}/#/models/{quote(name, safe='')}{f'/versions/{version}' if version else ''}?{WORKFLOW}"


def experiment_links(client: Any, ui: str, experiment_id: str) -> dict[str, str]:
    """What a page shows -> its address: the runs of an experiment, and its last two side by side."""
    last = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], max_results=2)
    links = {"all runs": experiment_page(ui, experiment_id)}
    if len(last) == 2:
        links["last two runs"] = comparison_page(ui, experiment_id, [run.info.run_id for run in last])
    return links
