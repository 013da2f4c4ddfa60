"""The part of KServe's InferenceService that our manifest uses. KServe's Python package carries pins that do not go
with ours.

Source: PredictorSpec, ComponentExtensionSpec and ScaleMetric of the API serving.kserve.io/v1beta1
    (github.com/kserve/kserve,
pkg/apis/serving/v1beta1: component.go of commit f7bf4fd6, predictor.go of commit 6382cb35): `spec.predictor` is a
    PodSpec with the
fields below beside those of the PodSpec. Not here: its model formats, autoScaling, logger, batcher, deploymentStrategy.
"""

from typing import Any

import jsonschema
import kubernetes_validate

PREDICTOR = {
    "minReplicas": {"type": "integer", "minimum": 0},
    "maxReplicas": {"type": "integer", "minimum": 0},
    "scaleTarget": {"type": "integer"},
    "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
    "scaleMetricType": {"enum": ["Utilization", "Value", "AverageValue"]},
    "containerConcurrency": {"type": "integer", "minimum": 0},
    "timeout": {"type": "integer"},
    "canaryTrafficPercent": {"type": "integer"},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
}

SCHEMA = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["predictor"],
            "additionalProperties": False,
            "properties": {"predictor": {"type": "object", "required": ["containers"], "properties": PREDICTOR}},
        },
    },
}


def check_inference_service(service: dict[str, Any]) -> None:
    """Raises what jsonschema or kubernetes_validate raise where the object does not fit."""
    jsonschema.validate(service, SCHEMA)
    rest = {key: value for key, value in service["spec"]["predictor"].items() if key not in PREDICTOR}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": rest}, "1.32", strict=True
    )
