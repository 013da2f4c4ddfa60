"""Rules for pods and their containers, see lint_rules.py."""

from __future__ import annotations

import re
from typing import Any

from manifest_objects import Object, named, pods, ports

# --- pods


def pods_are_not_root(objects: list[Object]) -> list[str]:
    wrong = []
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            wrong.append(f"{pod.name}: runAsNonRoot and a runAsUser above 0 are needed")
        wrong += [
            f"{pod.name}: {c['name']} is root"
            for c in pod.containers
            if c.get("securityContext", {}).get("runAsUser") == 0
        ]
    return wrong


def pods_have_the_default_seccomp_profile(objects: list[Object]) -> list[str]:
    profiles = {
        pod.name: pod.spec.get("securityContext", {}).get("seccompProfile", {}).get("type") for pod in pods(objects)
    }
    return [f"{name}: seccompProfile is {profile}" for name, profile in profiles.items() if profile != "RuntimeDefault"]


def pods_stay_in_their_namespaces(objects: list[Object]) -> list[str]:
    keys = ("hostNetwork", "hostPID", "hostIPC")
    wrong = [f"{pod.name}: {key}" for pod in pods(objects) for key in keys if pod.spec.get(key)]
    volumes = [(pod, volume) for pod in pods(objects) for volume in pod.spec.get("volumes", [])]
    return wrong + [
        f"{pod.name}: volume {volume['name']} is a hostPath" for pod, volume in volumes if "hostPath" in volume
    ]


def pods_have_an_account_of_their_own_without_token(objects: list[Object]) -> list[str]:
    accounts, wrong = named(objects, "ServiceAccount"), []
    for pod in pods(objects):
        if (pod.namespace, pod.spec.get("serviceAccountName", "default")) not in accounts:
            wrong.append(f"{pod.name}: its ServiceAccount is not among the objects")
        if pod.spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{pod.name}: gets a token for Kubernetes' API, which it does not need")
    return wrong


def empty_folders_have_a_limit(objects: list[Object]) -> list[str]:
    volumes = [(pod, volume) for pod in pods(objects) for volume in pod.spec.get("volumes", [])]
    return [
        f"{pod.name}: emptyDir {volume['name']} has no sizeLimit"
        for pod, volume in volumes
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
    ]


# --- containers


def containers_have_a_read_only_root(objects: list[Object]) -> list[str]:
    return _security(
        objects, lambda context: context.get("readOnlyRootFilesystem") is True, "its root filesystem can be written"
    )


def containers_gain_no_privileges(objects: list[Object]) -> list[str]:
    return _security(
        objects,
        lambda context: context.get("allowPrivilegeEscalation") is False and not context.get("privileged"),
        "may gain privileges",
    )


def containers_drop_all_capabilities(objects: list[Object]) -> list[str]:
    return _security(objects, lambda context: context.get("capabilities") == {"drop": ["ALL"]}, "keeps capabilities")


def _security(objects: list[Object], good: Any, finding: str) -> list[str]:
    return [
        f"{pod.name}: {c['name']}: {finding}"
        for pod in pods(objects)
        for c in pod.containers
        if not good(c.get("securityContext", {}))
    ]


def containers_have_requests_and_limits(objects: list[Object]) -> list[str]:
    return [
        f"{pod.name}: {c['name']}: no {kind} of {resource}"
        for pod in pods(objects)
        for c in pod.containers
        for kind in ("requests", "limits")
        for resource in ("cpu", "memory")
        if resource not in c.get("resources", {}).get(kind, {})
    ]


def what_serves_has_probes(objects: list[Object]) -> list[str]:
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return [
        f"{pod.name}: {c['name']}: no {kind}"
        for pod in pods(objects)
        if pod.serves
        for c in pod.spec["containers"]
        for kind in kinds
        if kind not in c
    ]


def what_serves_requests_ends_late(objects: list[Object]) -> list[str]:
    """A pod still receives requests for some seconds after Kubernetes stops it: it must keep serving (preStop) and then
    have time to finish.
    """
    wrong = []
    for pod in pods(objects):
        if pod.owner["kind"] not in ("Deployment", "InferenceService"):
            continue
        for c in pod.spec["containers"]:
            command = c.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
            pause = int(command[1]) if command[0] == "sleep" else 0
            if not 3 <= pause <= pod.spec.get("terminationGracePeriodSeconds", 30) - 20:
                wrong.append(
                    f"{pod.name}: {c['name']}: preStop sleeps {pause} s, expected 3 s or more, and 20 s less than its"
                    " grace period"
                )
    return wrong


def probes_name_ports_that_are_there(objects: list[Object]) -> list[str]:
    wrong = []
    for pod in pods(objects):
        for c in pod.containers:
            known = ports(c)
            asked = {
                c[kind]["httpGet"]["port"]
                for kind in ("startupProbe", "readinessProbe", "livenessProbe")
                if "httpGet" in c.get(kind, {})
            }
            wrong += [f"{pod.name}: {c['name']}: a probe asks port {port}" for port in asked - known]
    return wrong


def images_are_pinned_by_digest(objects: list[Object]) -> list[str]:
    pinned = re.compile(r"[^:]+(:[^:@]+)?@sha256:[0-9a-f]{64}")
    return [
        f"{pod.name}: image {c['image']}"
        for pod in pods(objects)
        for c in pod.containers
        if not pinned.fullmatch(c["image"]) or ":latest@" in c["image"]
    ]


def mounts_have_volumes(objects: list[Object]) -> list[str]:
    wrong = []
    for pod in pods(objects):
        claims = {claim["metadata"]["name"] for claim in pod.owner.get("spec", {}).get("volumeClaimTemplates", [])}
        there = claims | {volume["name"] for volume in pod.spec.get("volumes", [])}
        mounted = {mount["name"] for c in pod.containers for mount in c.get("volumeMounts", [])}
        wrong += [f"{pod.name}: {name} is mounted and not there" for name in mounted - there]
        wrong += [f"{pod.name}: {name} is there and not mounted" for name in there - mounted]
    return wrong
