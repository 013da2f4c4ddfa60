"""What a Kubeflow Pipelines API server keeps, and how it answers, in memory.

Objects are kept as the JSON of kfp_json.py. Behaviour follows kubeflow/pipelines 2.17.0, backend/src/apiserver: the
file is named where it matters.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from kfp_json import Refusal, TextRefusal, UploadRefusal, as_json

Entries = dict[str, dict[str, Any]]

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


STATES = {"Failed": "FAILED", "Error": "FAILED", "Omitted": "SKIPPED"}
STATES |= {phase: phase.upper() for phase in ("Pending", "Running", "Succeeded", "Skipped")}

KINDS: dict[str, Any] = {"STRING": str, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}

NOT_STARTED = "0001-01-01T00:00:00Z"


@dataclass
class Store:
    """What is on the server; tests look at it and change it.

    Attributes:
        namespace: that users have, None for a single-user server.
        version: of Kubeflow, as healthz says it.
        default_account: that the server puts in where none is named (DEFAULTPIPELINERUNNERSERVICEACCOUNT).
        workflows: run -> the Workflow as Argo's controller left it; see argo_workflow.py.
        logs: pod -> its log, as long as the pod is there.
        archived_logs: node id -> its log in the object store.
        killed: runs whose Workflow was deleted with the schedule that owns it. Their state never changes again.
    """

    namespace: str | None = None
    version: str = "2.17.0"
    default_account: str = "pipeline-runner"
    experiments: Entries = field(default_factory=dict)
    pipelines: Entries = field(default_factory=dict)
    versions: Entries = field(default_factory=dict)
    runs: Entries = field(default_factory=dict)
    recurring_runs: Entries = field(default_factory=dict)
    workflows: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    archived_logs: dict[str, str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    clock: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def add(self, entries: Entries, kind: str, key: str, **facts: Any) -> dict[str, Any]:
        self.clock += timedelta(seconds=1)
        entry: dict[str, Any] = as_json(kind, {key: str(uuid.uuid4()), "created_at": self.clock, **facts})
        entries[entry[key]] = entry
        return entry

    def list(self, entries: Entries, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """A page: 20 entries unless asked, 200 at most. The token is opaque, and bound to order and filter
        (list/list.go).
        """
        chosen = sorted(
            entries.values(), key=lambda entry: entry["created_at"], reverse="desc" in query.get("sort_by", "")
        )
        for predicate in json.loads(query.get("filter") or '{"predicates": []}')["predicates"]:
            if predicate["operation"] not in ("EQUALS", 1):
                raise Refusal(
                    400, f"Invalid input error: operation {predicate['operation']} is not known to the double"
                )
            value = predicate.get("stringValue", predicate.get("string_value"))
            chosen = [entry for entry in chosen if entry.get(predicate["key"], "").lower() == value.lower()]  # MySQL
        if experiment := query.get("experiment_id"):
            chosen = [entry for entry in chosen if entry["experiment_id"] == experiment]
        criteria = [query.get("sort_by", ""), query.get("filter", "")]
        size, start = min(int(query.get("page_size") or 20), 200), 0
        if token := query.get("page_token"):
            start, *bound = json.loads(base64.b64decode(token))
            if bound != criteria and any(criteria):
                raise Refusal(
                    400, "Invalid input error: page token does not match the supplied sort by and/or filtering"
                )
        page = {name: chosen[start : start + size], "total_size": len(chosen)}
        if start + size < len(chosen):
            page["next_page_token"] = base64.b64encode(json.dumps([start + size, *criteria]).encode()).decode()
        kind = f"V2beta1List{name.title().replace('_', '')}Response"
        listed: dict[str, Any] = as_json(kind, page)
        return listed

    def get(self, entries: Entries, key: str) -> dict[str, Any]:
        if key not in entries:
            raise Refusal(404, f"Failed to fetch {key}: ResourceNotFoundError: {key} not found.")
        return entries[key]

    # --- experiments and pipelines

    def create_experiment(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.check_namespace(body.get("namespace", ""))
        name = body["display_name"]
        if any(one["display_name"].lower() == name.lower() for one in self.experiments.values()):
            raise Refusal(
                409, f"Already exist error: Failed to create a new experiment. The name {name} already exists"
            )
        facts = dict(body) | {"storage_state": "AVAILABLE"}
        return self.add(self.experiments, "V2beta1Experiment", "experiment_id", **facts)

    def upload(self, query: Mapping[str, str], content: bytes) -> dict[str, Any]:
        self._check_upload(query, "Failed to create a pipeline", 128)
        if any(pipeline["display_name"] == query["name"] for pipeline in self.pipelines.values()):
            raise UploadRefusal(409, "Failed to create a pipeline and a pipeline version. The pipeline already exists.")
        namespace = query.get("namespace", "") if self.namespace else ""
        facts = {"display_name": query["name"], "name": query["name"], "namespace": namespace}
        pipeline = self.add(self.pipelines, "V2beta1Pipeline", "pipeline_id", **facts)
        self._add_version(pipeline["pipeline_id"], query["name"], content)
        return pipeline

    def upload_version(self, query: Mapping[str, str], content: bytes) -> dict[str, Any]:
        words = "Failed to create a pipeline version"
        if query.get("pipelineid") not in self.pipelines:
            raise UploadRefusal(400, words)
        self._check_upload({**query, "namespace": self.namespace or ""}, words, 127)
        return self._add_version(query["pipelineid"], query["name"], content)

    def _check_upload(self, query: Mapping[str, str], words: str, longest: int) -> None:
        if len(query["name"]) > longest:
            raise TextRefusal(400, f"Invalid input error: PipelineVersion.Name length cannot exceed {longest}")
        if self.namespace is not None and query.get("namespace") != self.namespace:
            raise UploadRefusal(400, words)

    def _add_version(self, pipeline: str, name: str, content: bytes) -> dict[str, Any]:
        versions = self.versions_of(pipeline).values()
        if any(version["display_name"] == name for version in versions):
            raise UploadRefusal(409, "Failed to create a pipeline version")
        spec, *platform = yaml.load_all(content, yaml.CSafeLoader)
        spec = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
        facts = {"pipeline_id": pipeline, "display_name": name, "name": name, "pipeline_spec": spec}
        return self.add(self.versions, "V2beta1PipelineVersion", "pipeline_version_id", **facts)

    def versions_of(self, pipeline: str) -> Entries:
        return {key: version for key, version in self.versions.items() if version["pipeline_id"] == pipeline}

    # --- runs

    def create_run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.get(self.experiments, body["experiment_id"])
        spec = body.get("pipeline_spec")
        if not spec:
            words = "InternalServerError: Failed to create a run due to error fetching manifest"
            raise Refusal(500, f"{words}: pipeline spec is invalid")
        self._check_parameters(spec, body)
        facts = dict(body) | {"state": "PENDING", "storage_state": "AVAILABLE"}
        facts["service_account"] = facts.get("service_account") or self.default_account
        return self.add(self.runs, "V2beta1Run", "run_id", **facts)

    def _check_parameters(self, spec: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        """validatePipelineJobInputs in template/v2_template.go."""
        known = spec.get("pipeline_spec", spec)["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters", {})
        for name, parameter in known.items():
            if name not in given and not parameter.get("isOptional") and parameter.get("defaultValue") is None:
                raise Refusal(
                    400, f"invalid pipeline job inputs: Invalid input error: parameter {name} is not optional"
                )
            if name in given and not isinstance(given[name], KINDS[parameter["parameterType"]]):
                kind = parameter["parameterType"].lower()
                words = f"input parameter {name} requires type {kind}"
                raise Refusal(400, f"invalid pipeline job inputs: Invalid input error: {words}")
        if unknown := [name for name in given if name not in known]:
            words = f"parameter(s) provided are not required by pipeline: {', '.join(unknown)}"
            raise Refusal(400, f"invalid pipeline job inputs: Invalid input error: {words}")

    def get_run(self, key: str) -> dict[str, Any]:
        """With its tasks, as toApiPipelineTaskDetail in server/api_converter.go writes them: every node of the Workflow
        is a task; neither pod_name nor error is set; children are named by Argo's node ids, in ``pod_name``.
        """
        run = self.get(self.runs, key)
        nodes = (self.workflows.get(key, {}).get("status") or {}).get("nodes", {})
        details = [
            {
                "run_id": key,
                "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, node["id"])),
                "display_name": node["displayName"],
                "state": STATES[node["phase"]],
                "start_time": node["startedAt"] or NOT_STARTED,
                "end_time": node["finishedAt"] or NOT_STARTED,
                "child_tasks": [{"pod_name": child} for child in node["children"]],
            }
            for node in nodes.values()
        ]
        return {**run, "run_details": as_json("V2beta1RunDetails", {"task_details": details})} if details else run

    def run_v1(self, key: str) -> dict[str, Any]:
        """RunDetail of v1beta1 (backend/api/v1beta1/run.proto; toApiRunDetailV1 in server/api_converter.go)."""
        run, workflow = self.get(self.runs, key), self.workflows.get(key)
        runtime = {"pipeline_runtime": {"workflow_manifest": json.dumps(workflow)}} if workflow else {}
        return {"run": {"id": key, "name": run["display_name"], "status": run["state"].title()}, **runtime}

    def terminate(self, key: str) -> dict[str, Any]:
        run = self.get(self.runs, key)
        if run["state"] in FINISHED:
            raise Refusal(400, f"Invalid input error: Failed to terminate a run {key}. Row not found")
        run["state"] = "CANCELING"
        return {}

    def archive(self, key: str, state: str = "ARCHIVED") -> dict[str, Any]:
        self.get(self.runs, key)["storage_state"] = state
        return {}

    def log(self, pod: str) -> bytes:
        """Of a pod, as text. Errors come with status 200 too (server/run_log_server.go writes the header first)."""
        if pod in self.logs:
            return self.logs[pod].encode()
        return UploadRefusal(500, f"BadRequestError: Failed to read logs: pods {pod} not found").body()

    def artifact(self, node: str, name: str) -> dict[str, Any]:
        """Of a node, base64 (server/run_artifact_server.go)."""
        if name != "main-logs" or node not in self.archived_logs:
            raise UploadRefusal(404, "artifact not found: <nil>")
        return {"data": base64.b64encode(self.archived_logs[node].encode()).decode()}

    # --- recurring runs

    def create_recurring_run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.get(self.experiments, body["experiment_id"])
        facts = dict(body)
        reference = facts["pipeline_version_reference"]
        version = reference["pipeline_version_id"]
        if version not in self.versions:
            words = "InternalServerError: Failed to create a recurring run with an invalid pipeline spec manifest"
            raise Refusal(500, f"{words}: ResourceNotFoundError: PipelineVersion {version} not found")
        self._check_parameters(self.versions[version]["pipeline_spec"], body)
        self._check_trigger(facts)
        if re.sub("[^a-z0-9-]", "", facts["display_name"].lower()).startswith("-"):  # of the ScheduledWorkflow
            raise Refusal(500, "Failed to create a recurring run during scheduling a workflow: metadata.name: Invalid")
        facts["service_account"] = facts.get("service_account") or self.default_account
        facts["status"] = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[facts["mode"]]
        return self.add(self.recurring_runs, "V2beta1RecurringRun", "recurring_run_id", **facts)

    def _check_trigger(self, facts: Mapping[str, Any]) -> None:
        cron = facts["trigger"].get("cron_schedule", {}).get("cron", "")
        if cron and not cron.startswith("@") and len(cron.split()) not in (5, 6):
            raise Refusal(400, f"Invalid input error: Schedule cron is not a supported format. Error: {cron}")
        if not 1 <= int(facts.get("max_concurrency", 0)) <= 10:
            raise Refusal(
                400, "Invalid input error: Max concurrency of a recurring run must be at least 1 and at most 10"
            )
        if int(facts["trigger"].get("periodic_schedule", {}).get("interval_second", 1)) < 1:
            raise Refusal(400, "Invalid input error: Found invalid period schedule interval")

    def start_scheduled_run(self, key: str) -> dict[str, Any]:
        """What the controller of scheduled workflows does when it is time."""
        schedule = self.get(self.recurring_runs, key)
        shared = {name: schedule[name] for name in ("experiment_id", "pipeline_version_reference", "service_account")}
        facts = {"display_name": f"{schedule['display_name']}-1", "state": "RUNNING", "storage_state": "AVAILABLE"}
        return self.add(self.runs, "V2beta1Run", "run_id", recurring_run_id=key, **shared, **facts)

    def switch(self, key: str, mode: str) -> dict[str, Any]:
        self.get(self.recurring_runs, key).update(mode=mode, status=f"{mode}D")
        return {}

    def delete_recurring_run(self, key: str, policy: str) -> dict[str, Any]:
        """Without the policy ORPHAN Kubernetes deletes the Workflows that the schedule owns, too. Servers before 2.16
        ignore the policy, as grpc-gateway ignores every query parameter that it does not know.
        """
        self.get(self.recurring_runs, key)
        old = self.version == "unknown" or tuple(map(int, self.version.split(".")[:2])) < (2, 16)
        orphans = policy == "ORPHAN" and not old
        for run in self.runs.values():
            if run.get("recurring_run_id") == key and run["state"] not in FINISHED and not orphans:
                self.killed.append(run["run_id"])
        del self.recurring_runs[key]
        return {}

    def check_namespace(self, namespace: str) -> None:
        """A single-user server ignores a namespace (ReplaceNamespace in resource/resource_manager.go)."""
        if self.namespace is not None and namespace != self.namespace:
            reason = f"User 'jane@example.org' is not authorized with reason: (request: {{Namespace:{namespace}}})"
            raise Refusal(403, f"Failed to authorize with API: PermissionDenied: {reason}")
