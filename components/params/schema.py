"""The schema of params.yaml: a section per step. Settings of the library are the library's own dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from segmodels.addresses import check_address
from segmodels.checks import LONGEST_SIDE, MOST_WORKERS, Expectation, check, number, one_of, optional, whole_number
from segmodels.data.digits import DigitsSettings
from segmodels.data.group_split import SplitSettings
from segmodels.errors import InputError
from segmodels.training.settings import Accelerator, TrainSettings

Source = Literal["digits", "folder", "dvc", "s3"]
Split = Literal["train", "val", "test"]

LONGEST_NAME = 250
"""Characters of a name in MLflow."""


@dataclass(frozen=True)
class IngestParams:
    """Where the dataset comes from.

    Attributes:
        source: where the dataset lies; digits is built in.
        path: folder: the dataset's folder, relative to the project's root; dvc: path inside the repository; s3:
            s3://bucket/prefix.
        repo: dvc: URL or path of the Git repository that versions the dataset.
        rev: dvc: branch, tag or commit. None: the default branch.
        layout: how the files are organised; docs/datasets.md lists the layouts. auto: the one that fits the folder.
        classes: merges, renames and drops classes: {vehicle: [car, truck, bus], ignore: [sky]} makes one class of
            three, and pixels of the sky count nowhere. Classes that are not named stay.
        splits: train, val or test -> name of that split in the dataset, where they differ: {test: val} measures on the
            dataset's val.
        split: how samples are split when the dataset ships no splits; without a val alone, its share of train is drawn.
        digits: size of the built-in dataset.
    """

    source: Source = "digits"
    path: str | None = None
    repo: str | None = None
    rev: str | None = None
    layout: str = "auto"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    splits: Mapping[Split, str] = field(default_factory=dict)
    split: SplitSettings = field(default_factory=SplitSettings)
    digits: DigitsSettings = field(default_factory=DigitsSettings)

    def __post_init__(self) -> None:
        check(self, source=one_of(Source))
        if self.source != "digits" and not (self.path or "").strip():
            raise InputError(f"source {self.source!r} needs path")
        if self.source == "dvc" and not (self.repo or "").strip():
            raise InputError("source 'dvc' needs repo, the URL or path of the Git repository")
        if self.source == "dvc" and "://" in str(self.repo):
            check_address(str(self.repo), "repo")
        if self.source == "s3" and not str(self.path).startswith("s3://"):
            raise InputError(f"path is {self.path!r}, source 's3' needs s3://bucket/prefix")


@dataclass(frozen=True)
class ValidateParams:
    """Limits of the checks of the dataset.

    Attributes:
        workers: processes. 0: one per core.
        max_void_share: largest share of ignored pixels in a sample, above 0 and at most 1; a sample above it gets a
            warning.
        near_duplicate_distance: largest number of differing bits, of 64, between the perceptual hashes of two images
            that are near-duplicates.
        min_side: smallest height and width of an image, pixels.
    """

    workers: int = 0
    max_void_share: float = 0.9
    near_duplicate_distance: int = 2
    min_side: int = 16

    def __post_init__(self) -> None:
        check(
            self,
            workers=whole_number(0, MOST_WORKERS),
            max_void_share=number(above=0, high=1),
            near_duplicate_distance=whole_number(0, 16),
            min_side=whole_number(1, LONGEST_SIDE),
        )


@dataclass(frozen=True)
class PreprocessParams:
    """How samples are packed into shards.

    Attributes:
        longer_side: longer side of the resized images, pixels. None: images keep their size.
        workers: processes. 0: one per core.
        shard_megabytes: size at which a shard is closed, MB of raw pixels.
        store: folder in an object store, ``s3://bucket/prefix``, that keeps the shards; the output then only says where
            they are, and steps fetch the samples that they read (``train.cache_gigabytes``). For datasets that outgrow
            the disk of a machine. None: the shards are in the output.
    """

    longer_side: int | None = None
    workers: int = 0
    shard_megabytes: int = 256
    store: str | None = None

    def __post_init__(self) -> None:
        check(
            self,
            longer_side=optional(whole_number(1, LONGEST_SIDE)),
            workers=whole_number(0, MOST_WORKERS),
            shard_megabytes=whole_number(1, 1_000_000),
        )
        if self.store is not None and not self.store.startswith("s3://"):
            raise InputError(f"store is {self.store!r}, expected s3://bucket/prefix")


@dataclass(frozen=True)
class TrainParams(TrainSettings):
    """What is trained, and how.

    Attributes:
        init: trained model whose weights the training starts from: models:/NAME/VERSION or models:/NAME@ALIAS in
            MLflow's registry, the folder of a trained model, or path or address of a weights file. Layers for other
            classes start at random, first layers are adapted to other channels, and a warning names them. None: from
            scratch, or from the weights that options name.
        experiment: MLflow experiment of the run.
        system_metrics: log CPU, memory and GPU use to MLflow.
    """

    init: str | None = None
    experiment: str = "segmentation"
    system_metrics: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, experiment=_name())


@dataclass(frozen=True)
class EvaluateParams:
    """How the test split is measured. The task's own settings stand beside these keys in params.yaml.

    Attributes:
        batch_size: images of equal size predicted at once; on a CPU fewer where memory is short.
        overlays: pictures of each of the best, median and worst images.
        accelerator: device of the measurement. auto: the GPU if there is one.
        settings: settings of the task that differ from its defaults; ``task_settings`` makes them a dataclass.
    """

    batch_size: int = 8
    overlays: int = 3
    accelerator: Accelerator = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, batch_size=whole_number(1, 2**16), overlays=whole_number(0, 100), accelerator=one_of(Accelerator))


@dataclass(frozen=True)
class RegisterParams:
    """The name of the registered model, and what a champion must reach.

    Attributes:
        name: name of the registered model in MLflow, without / and :.
        metric: score that decides who is champion. None: the task's first, mean_iou for semantic segmentation.
        minimum: smallest score of a champion, 0 to 1; a model below it is registered as challenger.
        tolerance: how much worse than the champion a new model may be and still replace it, 0 to 1.
        min_gain: how much better than the champion a new model must be to replace it, 0 to 1.
        confidence: how sure the difference must be, above 0 and below 1: the lower end of its interval (paired
            bootstrap over the test images) decides in its place. None: the measured difference decides.
        max_class_loss: how much of its score any one class may lose against the champion, 0 to 1. None: any amount.
    """

    name: str = "segmodel"
    metric: str | None = None
    minimum: float = 0.0
    tolerance: float = 0.0
    min_gain: float = 0.0
    confidence: float | None = None
    max_class_loss: float | None = None

    def __post_init__(self) -> None:
        share = number(0, 1)
        check(self, name=_name(without="/:'"), minimum=share, tolerance=share, min_gain=share)
        check(self, confidence=optional(number(above=0, below=1)), max_class_loss=optional(share))
        if self.tolerance and self.min_gain:
            raise InputError(
                f"tolerance is {self.tolerance:g} and min_gain {self.min_gain:g}, expected one of them: a new model"
                " may be a little worse, or must be better"
            )


@dataclass(frozen=True)
class PipelineParams:
    """All of params.yaml."""

    ingest: IngestParams = field(default_factory=IngestParams)
    validate: ValidateParams = field(default_factory=ValidateParams)
    preprocess: PreprocessParams = field(default_factory=PreprocessParams)
    train: TrainParams = field(default_factory=TrainParams)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    register: RegisterParams = field(default_factory=RegisterParams)

    def section(self, step: str) -> Any:
        """The parameters of one step."""
        return getattr(self, step)


def _name(without: str = "") -> Expectation:
    """The name of something in MLflow; its database takes up to 256 characters, and its searches no apostrophe."""
    text = f"a name of 1 to {LONGEST_NAME} printable characters, not only blanks"
    return Expectation(
        f"{text}, without {' and '.join(without)}" if without else text,
        lambda name: (
            0 < len(name.strip()) <= len(name) <= LONGEST_NAME and name.isprintable() and not set(name) & set(without)
        ),
    )
