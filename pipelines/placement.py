"""How a profile becomes settings of a Kubeflow task: image, resources, secrets, retries, caching."""

from __future__ import annotations

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components.environment import Environment, variable
from components.steps import CLUSTER_STEPS, MONITORING_STEPS, PART_STEPS, STEPS, section_of
from components.train_job.launch import TrainJobSettings
from pipelines.images import Image
from pipelines.pods import Pod
from pipelines.profile import SHARED_MEMORY, WORKING_FOLDER, Profile

CACHED = {step.name for step in (*STEPS, *PART_STEPS, *CLUSTER_STEPS, *MONITORING_STEPS) if step.cached}


@dataclass(frozen=True)
class Placement:
    """Gives a task the settings of a profile and its image.

    Attributes:
        profile: where and with what the steps run.
        image: container image of every step.
    """

    profile: Profile
    image: Image

    def __call__(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Apply the profile to ``task``."""
        task.set_container_image(self.image.reference)
        task.set_caching_options(task.name in CACHED)
        step = section_of(task.name)
        retries = self.profile.retries
        if retries.count and step != "notify":
            task.set_retry(
                retries.count,
                backoff_duration=f"{retries.seconds}s",
                backoff_factor=2.0,
                backoff_max_duration=f"{retries.hours}h",
            )
        self._set_environment(task, step)
        self._set_resources(task, step)
        self._set_kubernetes(task, step)
        return task

    def _set_environment(self, task: dsl.PipelineTask, step: str) -> None:
        environment = Environment(
            image=self.image.reference,
            checkpoints=self.profile.checkpoints or "",
            pipeline_ui=self.profile.ui or "",
            train_job=self._train_job().model_dump_json(exclude_defaults=True) if self._starts_job(step) else "",
        )
        for name, value in (self.profile.environment | environment.variables()).items():
            task.set_env_variable(name, value)
        kubernetes.use_field_path_as_env(task, variable("pipeline_run"), "metadata.labels['pipeline/runid']")
        for secret in self.profile.secrets:
            if secret.steps is None or step in secret.steps:
                kubernetes.use_secret_as_env(task, secret.name, secret.environment, optional=secret.optional)

    def _starts_job(self, step: str) -> bool:
        """Whether the step's own pod only starts a TrainJob and follows it."""
        return step == "train" and self.profile.shared_training

    def _pod(self, step: str) -> Pod:
        return self.profile.pods.default if self._starts_job(step) else self.profile.pods.of(step)

    def _train_job(self) -> TrainJobSettings:
        pod, gpu = self.profile.pods.of("train"), self.profile.gpu
        resources: dict[str, str | int] = {
            name: value for name, value in (("cpu", pod.cpu_limit), ("memory", pod.memory_limit)) if value
        }
        if gpu and gpu.count:
            resources[gpu.type] = gpu.count
        return TrainJobSettings(
            image=self.image.reference,
            nodes=self.profile.nodes,
            gpus=gpu.count if gpu else 0,
            resources=resources,
            node_selector=pod.node_selector,
            tolerations=[toleration.model_dump() for toleration in pod.tolerations],
            image_pull_secrets=self.profile.image_pull_secrets,
        )

    def _set_resources(self, task: dsl.PipelineTask, step: str) -> None:
        pod = self._pod(step)
        if pod.cpu_request:
            task.set_cpu_request(pod.cpu_request)
        if pod.cpu_limit:
            task.set_cpu_limit(pod.cpu_limit)
        if pod.memory_request:
            task.set_memory_request(pod.memory_request)
        if pod.memory_limit:
            task.set_memory_limit(pod.memory_limit)
        gpu = self.profile.gpu
        if gpu and gpu.count and step in ("train", "evaluate") and not self._starts_job(step):
            task.set_accelerator_type(gpu.type).set_accelerator_limit(1 if self.profile.shared_training else gpu.count)

    def _set_kubernetes(self, task: dsl.PipelineTask, step: str) -> None:
        profile, pod = self.profile, self._pod(step)
        kubernetes.set_security_context(
            task, run_as_user=profile.run_as_user, run_as_group=0 if profile.run_as_user else None, run_as_non_root=True
        )
        if profile.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, profile.image_pull_secrets)
        for volume in profile.volumes:
            kubernetes.mount_pvc(task, volume.claim, volume.path)
        if pod.shared_memory:
            kubernetes.empty_dir_mount(
                task, "segmodels-shared-memory", SHARED_MEMORY, medium="Memory", size_limit=pod.shared_memory
            )
        if pod.scratch:
            kubernetes.empty_dir_mount(task, "segmodels-scratch", WORKING_FOLDER, size_limit=pod.scratch)
        for label, value in pod.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in pod.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump())
