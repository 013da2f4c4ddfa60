"""The one table of steps: the command line, the Kubeflow components, profiles and pipeline parameters read it.

Data only. A step is the function of its name in its module, which is imported when the step runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One command line, ``python -m components NAME``.

    Attributes:
        name: of the step; with _ for - that of its function.
        module: that holds the function.
        help: what the step does, in a line.
        reads: options that name folders of earlier steps.
        writes: option that names the folder it writes; empty where it writes none that a later step reads.
        results: options that name folders it writes for people.
        files: options that name files it writes.
        gathers: option that names the folders of all parts of the step before it.
        packs: whether the output is many small files, which travel as one archive between machines.
        keeps: options that name folders kept between runs.
        cached: whether equal inputs give equal outputs, so that Kubeflow may serve them from its cache.
    """

    name: str
    module: str
    help: str
    reads: tuple[str, ...] = ()
    writes: str = ""
    results: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    gathers: str = ""
    packs: bool = False
    keeps: tuple[str, ...] = ()
    cached: bool = True

    @property
    def function(self) -> str:
        """Name of its function in the module."""
        return self.name.replace("-", "_")

    @property
    def section(self) -> str:
        """Section of params.yaml and of the profile's pods and secrets: a part of a step has those of the step."""
        return section_of(self.name)


def section_of(step: str) -> str:
    """``validate`` for ``validate``, ``validate-part`` and ``validate-merge``."""
    return step.partition("-")[0]


STEPS = (
    Step(
        "ingest",
        "components.steps.ingest",
        "find the dataset at its revision and write its manifest",
        writes="dataset",
        packs=True,
        keeps=("cache",),
    ),
    Step(
        "validate",
        "components.steps.validate",
        "open every sample and check it; data docs",
        reads=("dataset",),
        writes="validation",
        packs=True,
    ),
    Step(
        "preprocess",
        "components.steps.preprocess",
        "remap labels, resize, pack into Arrow shards; statistics",
        reads=("dataset", "validation"),
        writes="shards",
    ),
    Step(
        "train",
        "components.steps.train",
        "train a model, every epoch in MLflow; resumes from its last checkpoint",
        reads=("shards",),
        writes="model",
        keeps=("checkpoints",),
    ),
    Step(
        "evaluate",
        "components.steps.evaluate",
        "measure the best weights on the test split; pictures",
        reads=("shards", "model"),
        writes="evaluation",
    ),
    Step(
        "register",
        "components.steps.register",
        "register the model with MLflow; champion or challenger",
        reads=("shards", "model", "evaluation"),
        writes="registration",
        cached=False,  # the registry changes; a version that is there is found again
    ),
)
"""The pipeline, in its order. Each has a section of its name in params.yaml."""

PART_STEPS = (
    Step(
        "validate-part",
        "components.steps.validate",
        "open the samples of one part and gather their facts",
        reads=("dataset",),
        writes="facts",
    ),
    Step(
        "validate-merge",
        "components.steps.validate",
        "check the facts of all parts; data docs",
        reads=("dataset",),
        gathers="facts",
        writes="validation",
        packs=True,
    ),
    Step(
        "preprocess-part",
        "components.steps.preprocess",
        "pack the shards of one part",
        reads=("dataset", "validation"),
        writes="packed",
    ),
    Step(
        "preprocess-merge",
        "components.steps.preprocess",
        "put the shards of all parts together; statistics",
        gathers="packed",
        writes="shards",
    ),
)
"""In the place of validate and preprocess where several pods share them, ``parts`` of a profile."""

CLUSTER_STEPS = (
    Step(
        "changed",
        "components.kubeflow.changed",
        "find the dataset's revision; decide whether data, code or parameters are new since the champion",
        files=("revision", "digest", "decision", "init", "anew"),
        cached=False,  # it looks at the dataset's source and at the champion
    ),
    Step("notify", "components.kubeflow.notify", "send the outcome of a pipeline run to a webhook", cached=False),
)
"""Further tasks of the pipeline on a cluster."""

MONITORING_STEPS = (
    Step(
        "drift",
        "components.commands.drift",
        "compare what a server logged with what its model was trained on",
        files=("html", "drifted"),
        cached=False,  # the log grows
    ),
)
"""The first task of the monitoring pipeline; also a command for people."""

DVC_STEPS = (
    Step(
        "source",
        "components.datasets.source",
        "write down the state of the dataset's source, so that DVC ingests again when it changed",
        files=("source", "start"),
        keeps=("cache",),
        cached=False,
    ),
)
"""Further stages of dvc.yaml. On a cluster ``changed`` looks at the source in every run."""

COMMANDS = (
    Step("fetch", "components.commands.fetch", "download a published dataset, or say where to register for it"),
    Step(
        "predict",
        "components.commands.predict",
        "turn a folder of images into masks and overlays",
        results=("out",),
    ),
    Step(
        "label",
        "components.commands.label",
        "propose masks for images without any, as a dataset to be corrected",
        results=("out",),
    ),
    Step("serve", "components.commands.serve", "answer requests with the champion over HTTP; follows it"),
    *MONITORING_STEPS,
    Step(
        "report",
        "components.commands.report",
        "print the results of the last pipeline run",
        reads=("dataset", "validation", "model", "evaluation", "registration"),
    ),
    Step(
        "compare",
        "components.commands.compare",
        "compare runs: parameters, scores with intervals, significance",
        files=("html",),
    ),
    Step("promote", "components.commands.promote", "make a registered version the champion"),
    Step("rollback", "components.commands.promote", "make the previous champion the champion again"),
    Step("archive", "components.commands.promote", "take a registered version out of use"),
    Step(
        "reproduce",
        "components.commands.reproduce",
        "check that a registered version can be reproduced",
        reads=("shards",),
    ),
    Step(
        "sync",
        "components.commands.sync",
        "send the metrics of trainings that MLflow missed during an outage",
        reads=("model",),
        keeps=("checkpoints",),
    ),
    Step("ui", "components.commands.ui", "show MLflow's UI; links to the runs and their comparison"),
    Step("doctor", "components.commands.doctor", "repair what a killed DVC or Git left; check machine and servers"),
)
"""Commands that people call by hand."""
