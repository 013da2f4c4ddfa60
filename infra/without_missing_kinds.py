"""Manifests without what the cluster has no API for; `make deploy` pipes what kubectl renders through it.

Kubeflow Trainer and KServe are optional. Without them the rest is applied, and a sentence on stderr names what is left
out.
"""

import subprocess
import sys

import yaml

NEEDED = {
    "trainer.kubeflow.org": "without Kubeflow Trainer a training runs in one pod, on one GPU at most: install Kubeflow"
    " Trainer 2.2 for profiles with nodes or gpu.count above 1, then deploy again",
    "serving.kserve.io": "without KServe this overlay has no model server: deploy OVERLAY=production, or install KServe"
    " 0.16 and deploy again",
}
"""API group -> what its absence means."""


def main() -> int:
    """Write the manifests that stdin holds to stdout, without those that the cluster has no API for."""
    objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
    groups = {one["apiVersion"].rpartition("/")[0] for one in objects}
    missing = {group for group in NEEDED if group in groups and not _served(group)}
    for one in objects:
        if (group := one["apiVersion"].rpartition("/")[0]) in missing:
            name = f"{one['kind']} {one['metadata']['name']}"
            print(f"warning: {name} is left out: {NEEDED[group]}", file=sys.stderr)
    yaml.safe_dump_all([one for one in objects if one["apiVersion"].rpartition("/")[0] not in missing], sys.stdout)
    return 0


def _served(group: str) -> bool:
    """Whether the cluster serves a kind of this group. Ends the program if the cluster does not answer."""
    command = ["kubectl", "api-resources", f"--api-group={group}", "--output=name"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: kubectl does not reach the cluster ({' '.join(done.stderr.split())}): check your kubeconfig")
    return bool(done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
