"""The schema of params.yaml: one class per step, strict, checked before any work."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segmodels.errors import InputError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Split = Literal["train", "val", "test"]


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DigitsParams(Params):
    """The built-in dataset: scenes of handwritten digits."""

    train: int = Field(3000, gt=0, description="scenes to train on")
    val: int = Field(200, gt=0, description="scenes to choose the checkpoint by")
    test: int = Field(200, gt=0, description="scenes to measure on")
    size: int = Field(64, ge=32, description="height and width of a scene, pixels")
    seed: int = Field(0, ge=0, description="same seed, same scenes, byte for byte")


class SplitParams(Params):
    """How samples are split when the dataset ships no splits: whole groups, at random."""

    val: Fraction = Field(0.15, description="share of groups")
    test: Fraction = Field(0.15, description="share of groups")
    seed: int = Field(0, ge=0)


class IngestParams(Params):
    source: Literal["digits", "folder", "dvc", "s3"] = Field("digits", description="where the dataset comes from")
    watch: str = Field(
        "segmodels/data/digits.py",
        description=(
            "file, folder or s3:// prefix whose change makes `dvc repro` ingest again; for source folder the dataset's"
            " folder"
        ),
    )
    path: str | None = Field(
        None, description="folder: the dataset's folder; dvc: path inside the repository; s3: s3://bucket/prefix"
    )
    repo: str | None = Field(None, description="dvc: URL or path of the Git repository that versions the dataset")
    rev: str | None = Field(None, description="dvc: branch, tag or commit; None is the default branch")
    layout: str = Field("folder", description="how the files are organised: `python -m segmodels layouts`")
    splits: dict[Split, str] = Field(
        default_factory=dict,
        description=(
            "split of ours -> split of the dataset, where they differ: {test: val} measures on the dataset's val"
        ),
    )
    split: SplitParams = Field(default_factory=SplitParams)
    digits: DigitsParams = Field(default_factory=DigitsParams)

    @model_validator(mode="after")
    def _complete(self) -> IngestParams:
        if self.source != "digits" and not self.path:
            raise ValueError(f"source {self.source!r} needs path")
        if self.source == "dvc" and not self.repo:
            raise ValueError("source 'dvc' needs repo, the URL or path of the Git repository")
        if self.source == "s3" and not str(self.path).startswith("s3://"):
            raise ValueError(f"path is {self.path!r}, source 's3' needs s3://bucket/prefix")
        if self.source == "folder" and self.watch != self.path:
            raise ValueError(f"watch is {self.watch!r}, source 'folder' needs the same value as path, {self.path!r}")
        if self.split.val + self.split.test >= 1:
            raise ValueError(f"split.val + split.test is {self.split.val + self.split.test:g}, expected less than 1")
        return self


class ValidateParams(Params):
    workers: int = Field(0, ge=0, description="processes; 0 means one per core")
    max_void_share: float = Field(
        0.9, gt=0, le=1, description="a sample with a larger share of ignored pixels is warned about"
    )
    near_duplicate_distance: int = Field(
        2, ge=0, le=16, description="bits of 64 in which the perceptual hashes of near-duplicates differ at most"
    )
    min_side: int = Field(16, gt=0, description="pixels; smaller images are refused")


class PreprocessParams(Params):
    longer_side: int | None = Field(
        None, gt=0, description="resize so that the longer side has this many pixels; None keeps the size"
    )
    workers: int = Field(0, ge=0, description="processes; 0 means one per core")
    shard_megabytes: int = Field(256, gt=0, description="a shard is closed at this size, MB of raw pixels")


class AugmentParams(Params):
    crop: tuple[int, int] | None = Field(
        None,
        strict=False,
        description=(
            "[height, width] in pixels, a multiple of 32 is safe for every model; None keeps the image (all of one"
            " size)"
        ),
    )
    scale: tuple[float, float] = Field(
        (0.75, 1.5), strict=False, description="range of the random scale; [1, 1] switches it off"
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability of a left-right flip")
    brightness: Fraction = Field(0.2, description="0.2 draws the factor from 0.8..1.2; 0 switches it off")
    contrast: Fraction = Field(0.2, description="as brightness")
    saturation: Fraction = Field(0.2, description="as brightness")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest rotation, in turns")

    @model_validator(mode="after")
    def _ranges(self) -> AugmentParams:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale is [{low:g}, {high:g}], expected 0 < low <= high")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop is {list(self.crop)}, expected a positive height and width")
        return self


class EarlyStoppingParams(Params):
    patience: int = Field(
        gt=0, description="validations without a better score (val/miou; val/loss of wnet) after which training stops"
    )
    min_delta: float = Field(0.0, ge=0)


class DeepSupervisionParams(Params):
    """What the auxiliary heads count in training; models have none after it."""

    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description=(
            "of each head's loss, in the model's order; further heads take the last; None: as the model's paper"
        ),
    )
    decay: bool = Field(False, description="the weights fall linearly to 0 at the end of training")


class SelfCorrectionParams(Params):
    """Labels are corrected while training goes on (SCHP, Li 2019, 1910.09777). The learning rate follows the cycles,
    not ``schedule``.
    """

    start_epoch: int = Field(
        gt=0, description="epochs before the first average of weights; two thirds of all in the paper"
    )
    cycle_epochs: int = Field(gt=0, description="epochs of each cycle after it; 10 in the paper")


class TrainParams(Params):
    experiment: str = Field("segmentation", min_length=1, description="MLflow experiment that holds the run")
    model: str = Field("unet", description="name in the registry: `python -m segmodels models`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the model: encoder, encoder_weights, widths, ..."
    )
    loss: dict[str, float | dict[str, Any]] = Field(
        {"cross_entropy": 1.0},
        description=(
            "name -> weight, or name -> {weight: ..., options}: `python -m segmodels losses`; wnet takes"
            " soft_normalized_cut and reconstruction; terms that a model's paper adds (presence of encnet, ...) are"
            " there by themselves"
        ),
    )
    deep_supervision: DeepSupervisionParams = Field(default_factory=DeepSupervisionParams)
    self_correction: SelfCorrectionParams | None = None
    image_label_weight: float = Field(
        1.0, ge=0, description="of the loss of the whole image's class, for models that tell it (ynet)"
    )
    class_weights: Literal["none", "inverse_frequency", "complement", "median_frequency"] = "none"
    epochs: int = Field(20, gt=0)
    minutes: float | None = Field(
        None,
        gt=0,
        description="stop after this many minutes of training; the schedule follows the time. None: epochs decide",
    )
    batch_size: int = Field(16, gt=0, description="images per optimiser step and process, before accumulation")
    accumulate: int = Field(1, gt=0, description="batches per optimiser step")
    gradient_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 switches it off")
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    momentum: Fraction = Field(0.9, description="sgd only")
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["polynomial", "cosine", "one_cycle", "constant"] = "polynomial"
    warmup: Fraction = Field(0.05, description="share of all steps over which the learning rate rises linearly")
    power: float = Field(0.9, gt=0, description="of the polynomial schedule")
    augment: AugmentParams = Field(default_factory=AugmentParams)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "of the forward pass (automatic mixed precision); auto is bfloat16 where the hardware has it, else float32"
        ),
    )
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the averaged weights that are validated and kept; None switches it off"
    )
    early_stopping: EarlyStoppingParams | None = None
    validate_every: int = Field(1, gt=0, description="epochs")
    workers: int = Field(0, ge=0, description="loader processes; 0 loads in a thread beside training")
    system_metrics: bool = Field(False, description="log CPU, memory and GPU use to MLflow")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> TrainParams:
        if not self.loss:
            raise ValueError("loss is empty, expected at least one term, for example {cross_entropy: 1.0}")
        if self.precision == "float16" and self.accelerator == "cpu":
            raise ValueError("precision float16 needs a GPU, choose bfloat16 on accelerator cpu")
        if self.self_correction:
            self._check_self_correction(self.self_correction)
        return self

    def _check_self_correction(self, cycles: SelfCorrectionParams) -> None:
        if self.epochs < cycles.start_epoch or (self.epochs - cycles.start_epoch) % cycles.cycle_epochs:
            raise ValueError(
                f"epochs is {self.epochs}, expected start_epoch of self_correction ({cycles.start_epoch}) and whole"
                f" cycles of {cycles.cycle_epochs}"
            )
        if self.warmup * self.epochs >= cycles.start_epoch:
            raise ValueError(
                f"warmup takes {self.warmup * self.epochs:g} epochs, expected it to end before start_epoch of"
                f" self_correction ({cycles.start_epoch})"
            )
        if "cross_entropy" not in self.loss:
            raise ValueError(
                "self_correction gives the term cross_entropy corrected labels, expected it in loss: add it"
            )
        unfit = {
            "minutes": self.minutes,
            "ema": self.ema,
            "class_weights": None if self.class_weights == "none" else self.class_weights,
        }
        for name, value in unfit.items():
            if value is not None:
                raise ValueError(
                    f"{name} is {value} but self_correction goes by epochs, with an average and labels of its own:"
                    " leave out one of the two"
                )


class SlidingWindowParams(Params):
    size: tuple[int, int] = Field(strict=False, description="[height, width] of a window, pixels")
    overlap: Fraction = Field(0.5, description="share of a window that it has in common with the next")
    weighting: Literal["gaussian", "uniform"] = "gaussian"


class CRFParams(Params):
    """Dense CRF (Kraehenbuehl 2011); the defaults are DeepLab v2's. Sigmas are standard deviations."""

    iterations: int = Field(10, gt=0)
    appearance_weight: float = Field(4.0, ge=0, description="of near pixels of similar colour")
    appearance_sigma: float = Field(67.0, gt=0, description="pixels")
    color_sigma: float = Field(3.0, gt=0, description="grey levels of 0..255")
    smoothness_weight: float = Field(3.0, ge=0, description="of near pixels of any colour")
    smoothness_sigma: float = Field(1.0, gt=0, description="pixels")


class EvaluateParams(Params):
    batch_size: int = Field(8, gt=0, description="images of equal size predicted at once")
    sliding_window: SlidingWindowParams | None = Field(None, description="None predicts whole images")
    flip: bool = Field(False, description="average with the mirrored image")
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0,), strict=False, min_length=1, description="average over these scales of the image"
    )
    crf: CRFParams | None = Field(
        None, description="refine the probabilities by the image's edges; {} takes the defaults; whole images only"
    )
    overlays: int = Field(3, ge=0, description="pictures of each of the best, median and worst images")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    @model_validator(mode="after")
    def _whole_images(self) -> EvaluateParams:
        if self.crf is not None and self.sliding_window is not None:
            raise ValueError(
                "crf and sliding_window are both given, expected one: the CRF connects all pixels of an image"
            )
        return self


class RegisterParams(Params):
    name: str = Field("segmodel", pattern=r"^[^/:]+$", description="of the registered model in MLflow")
    metric: Literal["mean_iou", "frequency_weighted_iou", "pixel_accuracy", "mean_pixel_accuracy"] = "mean_iou"
    minimum: float = Field(0.0, ge=0, le=1, description="a model below is registered as challenger, never as champion")
    tolerance: float = Field(
        0.0, ge=0, le=1, description="a challenger may be this much worse than the champion and still win"
    )


class PipelineParams(Params):
    """All of params.yaml."""

    ingest: IngestParams = Field(default_factory=IngestParams)
    validate_: ValidateParams = Field(default_factory=ValidateParams, alias="validate")
    preprocess: PreprocessParams = Field(default_factory=PreprocessParams)
    train: TrainParams = Field(default_factory=TrainParams)
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    register_: RegisterParams = Field(default_factory=RegisterParams, alias="register")

    def section(self, step: str) -> Params:
        """The parameters of one step."""
        return getattr(self, step if step in type(self).model_fields else f"{step}_")


def load_params(path: Path) -> PipelineParams:
    """Read and check params.yaml.

    Raises:
        InputError: not there, not YAML, or a key that is unknown, of the wrong type or impossible; names every such
            key.
    """
    return checked_params(read_params(path), str(path))


def read_params(path: Path) -> Any:
    """What params.yaml holds, not checked."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"parameter file {path} is not there: run from the repository's root or give --params"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def checked_params(data: Any, origin: str) -> PipelineParams:
    """The parameters in ``data``; ``origin`` is named in errors."""
    return checked(PipelineParams, data or {}, origin)


Schema = TypeVar("Schema", bound=BaseModel)


def checked(schema: type[Schema], data: Any, origin: str) -> Schema:
    """``data`` as ``schema`` wants it.

    Raises:
        InputError: it does not fit; one sentence for every key that does not.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise InputError("; ".join(_sentence(schema, origin, problem) for problem in error.errors())) from None


def _sentence(schema: type[BaseModel], origin: str, problem: Any) -> str:
    """One pydantic problem in words: the key, the value got, what is allowed."""
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(schema, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return (
            f"{origin}: unknown key {where!r},"
            f" {f'did you mean {near[0]!r}?' if near else 'expected one of ' + ', '.join(known)}"
        )
    if problem["type"] == "missing":
        return f"{origin}: {where} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{origin}: {where}: {message}"
    return f"{origin}: {where} is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model: Any = schema
    for part in location:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return [f.alias or n for n, f in model.model_fields.items()]
