"""What every manifest must hold beyond the API's schema: rules over the objects of one overlay, as kube-linter has
them.

Each rule takes the objects and returns its findings, one line each; no findings is good.
"""

from __future__ import annotations

import re

from lint_pods import (
    containers_drop_all_capabilities,
    containers_gain_no_privileges,
    containers_have_a_read_only_root,
    containers_have_requests_and_limits,
    empty_folders_have_a_limit,
    images_are_pinned_by_digest,
    mounts_have_volumes,
    pods_are_not_root,
    pods_have_an_account_of_their_own_without_token,
    pods_have_the_default_seccomp_profile,
    pods_stay_in_their_namespaces,
    probes_name_ports_that_are_there,
    what_serves_has_probes,
    what_serves_requests_ends_late,
)
from manifest_objects import Object, named, pods, ports, selects

SECRETS = {("segmodels", "object-store"), ("segmodels", "postgresql"), ("kubeflow", "object-store")}
"""Namespace and name of what infra/kustomize/secrets makes."""

CREDENTIAL = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
IN_AN_ADDRESS = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


# --- secrets and settings


def no_object_holds_a_secret(objects: list[Object]) -> list[str]:
    wrong = [
        f"Secret {name} holds values"
        for (_, name), one in named(objects, "Secret").items()
        if one.get("data") or one.get("stringData")
    ]
    for pod in pods(objects):
        for c in pod.containers:
            wrong += [
                f"{pod.name}: {env['name']} is written out"
                for env in c.get("env", [])
                if CREDENTIAL.search(env["name"]) and "value" in env
            ]
            texts = [*c.get("args", []), *c.get("command", []), *(env.get("value", "") for env in c.get("env", []))]
            wrong += [
                f"{pod.name}: {c['name']}: an address with a password" for text in texts if IN_AN_ADDRESS.search(text)
            ]
    return wrong


def what_pods_refer_to_is_there(objects: list[Object]) -> list[str]:
    maps, wrong = named(objects, "ConfigMap"), []
    for pod in pods(objects):
        sources = [source for c in pod.containers for source in c.get("envFrom", [])]
        wanted = {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}
        wanted |= {volume["configMap"]["name"] for volume in pod.spec.get("volumes", []) if "configMap" in volume}
        wrong += [f"{pod.name}: no ConfigMap {name}" for name in wanted if (pod.namespace, name) not in maps]
        values = [
            env["valueFrom"]["secretKeyRef"]["name"]
            for c in pod.containers
            for env in c.get("env", [])
            if "secretKeyRef" in env.get("valueFrom", {})
        ]
        values += [source["secretRef"]["name"] for source in sources if "secretRef" in source]
        wrong += [f"{pod.name}: no secret {name}" for name in values if (pod.namespace, name) not in SECRETS]
    return wrong


def roles_have_no_wildcards(objects: list[Object]) -> list[str]:
    roles = [one for one in objects if one["kind"] in ("Role", "ClusterRole")]
    wrong = [
        f"ClusterRole {one['metadata']['name']}: a Role is enough" for one in roles if one["kind"] == "ClusterRole"
    ]
    for role in roles:
        words = {word for rule in role["rules"] for key in ("verbs", "resources", "apiGroups") for word in rule[key]}
        wrong += [
            f"{role['metadata']['name']}: {word}"
            for word in words & {"*", "escalate", "bind", "impersonate", "secrets", "pods/exec"}
        ]
    return wrong


# --- how objects fit together


def selectors_match_their_pods(objects: list[Object]) -> list[str]:
    owners = [pod for pod in pods(objects) if pod.owner["kind"] in ("Deployment", "StatefulSet")]
    return [
        f"{pod.name}: its selector does not match its pods"
        for pod in owners
        if not selects(pod.owner["spec"]["selector"], pod.labels)
    ]


def services_have_targets(objects: list[Object]) -> list[str]:
    wrong = []
    for (namespace, name), service in named(objects, "Service").items():
        behind = [
            pod
            for pod in pods(objects)
            if pod.namespace == namespace and selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
        ]
        if not behind:
            wrong.append(f"Service {name} has no pods")
        for pod in behind:
            known = set().union(*(ports(c) for c in pod.spec["containers"]))
            wrong += [
                f"Service {name}: {pod.name} has no port {p['targetPort']}"
                for p in service["spec"]["ports"]
                if p.get("targetPort", p["port"]) not in known
            ]
    wrong += [
        f"StatefulSet {name}: no Service {one['spec']['serviceName']}"
        for (namespace, name), one in named(objects, "StatefulSet").items()
        if (namespace, one["spec"]["serviceName"]) not in named(objects, "Service")
    ]
    return wrong


def every_pod_is_under_network_policies(objects: list[Object]) -> list[str]:
    policies, wrong = named(objects, "NetworkPolicy"), []
    for pod in pods(objects):
        over = [
            one["spec"]
            for (namespace, _), one in policies.items()
            if namespace == pod.namespace and selects(one["spec"]["podSelector"], pod.labels)
        ]
        for direction in ("Ingress", "Egress"):
            if not any(direction in spec["policyTypes"] for spec in over):
                wrong.append(f"{pod.name}: no NetworkPolicy says what {direction} it may have")
    return wrong


def network_policies_name_pods_that_are_there(objects: list[Object]) -> list[str]:
    """Who is let in may be elsewhere; whom a policy is for, and whom it lets them reach in our namespaces, must be
    among the objects.
    """
    wrong, everyone = [], list(pods(objects))
    for (namespace, name), policy in named(objects, "NetworkPolicy").items():
        spec = policy["spec"]
        if not any(pod.namespace == namespace and selects(spec["podSelector"], pod.labels) for pod in everyone):
            wrong.append(f"NetworkPolicy {name} is for no pod")
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                where = (
                    peer.get("namespaceSelector", {})
                    .get("matchLabels", {})
                    .get("kubernetes.io/metadata.name", namespace)
                )
                if where in {pod.namespace for pod in everyone} and not any(
                    pod.namespace == where and selects(peer["podSelector"], pod.labels) for pod in everyone
                ):
                    wrong.append(f"NetworkPolicy {name} opens a way to no pod")
    return wrong


def no_network_policy_opens_everything(objects: list[Object]) -> list[str]:
    wrong = []
    for (_, name), policy in named(objects, "NetworkPolicy").items():
        for side, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(side, []):
                if not rule.get(peers) and not rule.get("ports"):
                    wrong.append(f"NetworkPolicy {name}: {side} is open to all")
                wrong += [
                    f"NetworkPolicy {name}: {side} is open to every namespace"
                    for peer in rule.get(peers, [])
                    if peer.get("namespaceSelector") == {}
                ]
    return wrong


def disruption_budgets_protect_and_let_nodes_go(objects: list[Object]) -> list[str]:
    budgets, wrong = named(objects, "PodDisruptionBudget"), []
    for (namespace, name), budget in budgets.items():
        over = [
            pod
            for pod in pods(objects)
            if pod.namespace == namespace and selects(budget["spec"]["selector"], pod.labels)
        ]
        if not over:
            wrong.append(f"PodDisruptionBudget {name} protects nothing")
        wrong += [
            f"PodDisruptionBudget {name}: {pod.name} can never be moved"
            for pod in over
            if budget["spec"].get("maxUnavailable") == 0
            or budget["spec"].get("minAvailable", 0) >= pod.owner["spec"].get("replicas", 1) > 0
        ]
    for pod in pods(objects):
        protected = any(
            namespace == pod.namespace and selects(budget["spec"]["selector"], pod.labels)
            for (namespace, _), budget in budgets.items()
        )
        if pod.owner["kind"] == "Deployment" and pod.owner["spec"].get("replicas", 1) > 1 and not protected:
            wrong.append(f"{pod.name} has several pods and no PodDisruptionBudget")
    return wrong


RULES = [
    pods_are_not_root,
    pods_have_the_default_seccomp_profile,
    pods_stay_in_their_namespaces,
    pods_have_an_account_of_their_own_without_token,
    empty_folders_have_a_limit,
    containers_have_a_read_only_root,
    containers_gain_no_privileges,
    containers_drop_all_capabilities,
    containers_have_requests_and_limits,
    what_serves_has_probes,
    what_serves_requests_ends_late,
    probes_name_ports_that_are_there,
    images_are_pinned_by_digest,
    mounts_have_volumes,
    no_object_holds_a_secret,
    what_pods_refer_to_is_there,
    roles_have_no_wildcards,
    selectors_match_their_pods,
    services_have_targets,
    every_pod_is_under_network_policies,
    network_policies_name_pods_that_are_there,
    no_network_policy_opens_everything,
    disruption_budgets_protect_and_let_nodes_go,
]
