"""The interfaces of a task and of the evaluator that counts its results. A new task is a single file in this folder.

No room outside ``tasks/`` asks which task it works for: it calls these methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.data.batches import EvaluationBatch
from segmodels.data.image_form import ImageForm
from segmodels.labels import LabelMap

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from segmodels.plots import Comparison

Size = tuple[int, ...]
"""Size of a result: (height, width), or (depth, height, width)."""


class Result(Protocol):
    """The prediction for one image. Holds train ids, at the size that was asked for."""

    def files(self, labels: LabelMap) -> dict[str, bytes]:
        """Suffix -> content of each file that keeps the result: ``{".png": ...}``."""
        ...

    def annotation(self, labels: LabelMap) -> Annotation:
        """The result as an annotation, for a person to correct."""
        ...

    def shares(self, labels: LabelMap) -> NDArray:
        """Share of the image that each class has, ``(C,)``."""
        ...

    def draw(self, image: NDArray, labels: LabelMap, alpha: float = 0.6) -> NDArray:
        """The result over ``image`` (H, W, 3) uint8 RGB, as a picture of the same shape and type; ``alpha`` is the
        opacity of the colours.
        """
        ...


ResultType = TypeVar("ResultType", bound=Result)
Targets = TypeVar("Targets")


class TensorSpec(NamedTuple):
    """One tensor of an answer to many images, as the Open Inference Protocol describes it."""

    name: str
    datatype: str  # UINT8, INT16, INT32, FP32, BYTES
    shape: tuple[int, ...]  # -1: any length


class Evaluator(ABC, Generic[ResultType]):
    """Counts results against annotations; all scores follow from the counts.

    ``a + b`` is the evaluator of both sets of images, in the order of their ids, whatever the order of the sum: ranks
    and resumed runs add up to the same numbers.
    """

    @abstractmethod
    def update(self, results: Sequence[ResultType], annotations: Sequence[Annotation], ids: Sequence[str]) -> None:
        """Count the results of a batch, each at the size of its annotation."""

    @abstractmethod
    def __add__(self, other: Self) -> Self: ...

    @abstractmethod
    def only(self, ids: Collection[str]) -> Self:
        """The evaluator of those of the images that have these ids."""

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Scores of all images, by name; NaN where nothing annotated makes one undefined."""

    @abstractmethod
    def per_class(self) -> list[dict[str, Any]]:
        """A row per class: ``class``, and counts and scores by name."""

    @abstractmethod
    def images(self) -> pa.Table:
        """A row per image, in the order of the ids: ``id``, ``score`` (of the image alone; null where undefined), and
        its counts.
        """

    @abstractmethod
    def confusion(self) -> tuple[Sequence[str], NDArray]:
        """Names of the rows and columns, and counts by truth (row) and prediction (column)."""

    @abstractmethod
    def resampled(self, metric: str, weights: NDArray) -> NDArray:
        """The score ``metric`` of resampled sets of images, ``(R,)``, for the paired bootstrap.

        Args:
            weights: integers ``(R, images)``, how often each image (order of the ids) is in each set.
        """

    @abstractmethod
    def figures(self) -> dict[str, Figure]:
        """Pictures of the scores, by name."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the counts, without loss, into an existing folder; ``per_image.parquet`` is the table of ``images``."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Self:
        """The evaluator that ``write`` wrote.

        Raises:
            InputError: a file is missing or damaged; names it.
        """


class Task(ABC, Generic[Targets, ResultType]):
    """What is predicted.

    Attributes:
        name: in the registry, on model cards and in params.yaml.
        headline: score -> its name in print (MIoU). Weights and champions are chosen by the first; all are reported
            after each validation.
        short: score -> its short name among the metrics of a run (val/miou); other scores keep their own name.
        answer: what a model says of an image, in words: "one class id per pixel".
        reads_objects: whether ``targets`` reads the layers and segments of annotations; if not, loaders leave them
            packed.
        takes_prompts: whether ``predict`` takes prompts as ``guides``.
        class_score: column of ``Evaluator.per_class`` that a run gets for each class.
        Settings: frozen dataclass, how the task predicts; every field has a default.
    """

    name: ClassVar[str]
    headline: ClassVar[Mapping[str, str]]
    short: ClassVar[Mapping[str, str]] = {}
    answer: ClassVar[str] = "results"
    reads_objects: ClassVar[bool] = True
    takes_prompts: ClassVar[bool] = False
    class_score: ClassVar[str]
    Settings: ClassVar[type]

    def __init__(self, labels: LabelMap, settings: Any = None) -> None:
        self.labels = labels
        self.settings = self.Settings() if settings is None else settings

    @classmethod
    @abstractmethod
    def supports(cls, labels: LabelMap, objects: bool) -> bool:
        """Whether a dataset with this label map, with or without objects, has what the task learns from."""

    @property
    def result_labels(self) -> LabelMap:
        """Classes of the results of ``predict``."""
        return self.labels

    @classmethod
    @abstractmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        """Arguments of ``create_model`` that follow from the dataset: ``{"num_classes": 11}``. Models without an option
        of that name are built without it (``known_arguments``).
        """

    def check_images(self, form: ImageForm) -> None:
        """Raise InputError where the settings cannot predict images of this form."""
        if window := getattr(self.settings, "sliding_window", None):
            window.check_axes(form.spatial_dims)

    @abstractmethod
    def targets(self, annotations: Sequence[Annotation]) -> Targets:
        """The targets of a batch, a pytree of tensors. Called in the loader's worker or thread."""

    @abstractmethod
    def read(self, output: Any, sizes: Sequence[Size]) -> list[ResultType]:
        """Results of a batch from the model's output, each of its size; the plain reading, without views or windows."""

    @abstractmethod
    def predict(
        self, network: Callable[..., Any], images: Tensor, sizes: Sequence[Size], guides: Any = None
    ) -> list[ResultType]:
        """Results of images as ``settings`` say.

        Args:
            network: raw images (B, C, *spatial) on the device -> the model's output; normalises them itself.
            images: on the device, in their own units.
            sizes: of the results, one per image.
            guides: the model's second argument, prompts for instance; None for most models.
        """

    def results(self, network: Callable[..., Any], batch: EvaluationBatch) -> list[ResultType]:
        """Results of a batch that is measured, each at the size of its annotation; images are on the device."""
        return self.predict(network, batch.images, [annotation.size for annotation in batch.annotations])

    def chosen(self, evaluator: Evaluator) -> Any:
        """The settings with what a validation decides, thresholds of scores for instance, where nobody has set it.

        Args:
            evaluator: of the validation of the weights that are kept.
        """
        return self.settings

    def completed(self, settings: Any) -> Any:
        """Other settings of this task, with what a validation had decided in its own where nobody has set it."""
        return settings

    @abstractmethod
    def evaluator(self) -> Evaluator[ResultType]:
        """A new evaluator, with nothing counted yet."""

    @abstractmethod
    def truth(self, annotation: Annotation) -> ResultType:
        """The annotation as a result: what a model without errors predicts."""

    @abstractmethod
    def compare(self, image: NDArray, annotation: Annotation, result: ResultType, caption: str) -> Comparison:
        """The pictures of one image, its truth and its result, side by side.

        Args:
            image: (*spatial, 3) uint8 RGB, of any size; of a volume one slice is shown.
        """

    @abstractmethod
    def tensor_specs(self, spatial_dims: int) -> tuple[TensorSpec, ...]:
        """The tensors of an answer to images of 2, or volumes of 3 ``spatial_dims``."""

    @abstractmethod
    def tensors(self, results: Sequence[ResultType]) -> dict[str, NDArray]:
        """An answer to many images: an array for each of ``tensor_specs``; BYTES are arrays of bytes objects.

        Raises:
            InputError: results that do not fit into one tensor.
        """

    @classmethod
    def metric(cls, score: str, prefix: str) -> str:
        """The name of ``score`` among the metrics of a run: ``val/miou``."""
        return f"{prefix}/{cls.short.get(score, score)}"

    @classmethod
    def headline_metrics(cls, scores: Mapping[str, float], prefix: str) -> dict[str, float]:
        """The headline scores of ``scores`` under their names in a run, in the headline's order."""
        return {cls.metric(name, prefix): scores[name] for name in cls.headline}
