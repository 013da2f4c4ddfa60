"""The training loop: what it computes and what it keeps."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.annotations import Annotation
from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.losses import create_loss
from segmodels.losses.base import LogitsLoss
from segmodels.outputs import PixelOutput
from segmodels.tasks.registry import create_task
from segmodels.tasks.targets import SemanticTargets
from segmodels.training.averages import WeightAverage
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.fabric import Fabric
from segmodels.training.fit import Fit, Stopped
from segmodels.training.learner import SupervisedLearner, Turn
from segmodels.training.moving_average import MovingAverage
from segmodels.training.schedules import learning_rate_factor
from segmodels.training.self_correction import SelfCorrection, estimate_batch_norm
from segmodels.training.state import FitSettings

CLASSES = 3
LABELS = LabelMap(("red", "green", "blue"), ((200, 30, 30), (30, 200, 30), (30, 30, 200)), {0: 0, 1: 1, 2: 2})


class Small(nn.Module):
    """Two convolutions with batch norm and dropout, and one auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2))
        self.head = nn.Conv2d(8, CLASSES, 1)
        self.auxiliary_head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        features = self.features(images)
        return PixelOutput(self.head(features), (self.auxiliary_head(features),) if self.training else ())


class Batches:
    """Batches of squares whose colour is their class; which ones depends on epoch and batch alone."""

    def __init__(self, batches: int = 5, size: int = 4) -> None:
        self.batches, self.size, self.start, self.epoch = batches, size, 0, 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch

    def __len__(self) -> int:
        return self.batches

    def close(self) -> None: ...

    def __iter__(self) -> Any:
        return (self.batch(index) for index in range(self.start, self.batches))

    def batch(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        masks = (
            torch.randint(0, CLASSES, (self.size, 2, 2), generator=generator)
            .repeat_interleave(6, 1)
            .repeat_interleave(6, 2)
        )
        colors = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200]])
        noise = torch.randint(-30, 31, (self.size, 12, 12, 3), generator=generator)
        images = (colors[masks] + noise).clamp(0, 255).byte().permute(0, 3, 1, 2)
        return Batch(images, SemanticTargets(masks.byte()), torch.arange(self.size))


def evaluated(batch: Batch, number: int) -> EvaluationBatch:
    annotations = [Annotation.of_classes(classes.numpy()) for classes in batch.targets.classes]
    return EvaluationBatch(batch.images, annotations, [f"{number}/{i}" for i in batch.ids.tolist()], batch.ids.tolist())


class StopAfter:
    """Asks to stop when it was polled so many times."""

    def __init__(self, polls: int) -> None:
        self.left = polls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def new_learner(losses: dict[str, float], model: nn.Module | None = None, **options: Any) -> SupervisedLearner:
    task = create_task("semantic", LABELS)
    return SupervisedLearner(model or Small(), task, create_loss(losses), mean=(128.0,) * 3, std=(64.0,) * 3, **options)


def new_fit(
    folder: Path,
    *,
    stop: Any = lambda: False,
    warn: Any = print,
    batches: Batches | None = None,
    losses: dict[str, float] | None = None,
    auxiliary_decay: bool = False,
    model: nn.Module | None = None,
    ema: float | None = None,
    self_correction: tuple[int, int] | None = None,
    **settings: Any,
) -> Fit:
    torch.manual_seed(0)
    learner = new_learner(losses or {"cross_entropy": 1.0, "dice": 0.5}, model, auxiliary_decay=auxiliary_decay)
    batches = batches or Batches()
    validation = [evaluated(Batches().batch(100 + index), index) for index in range(3)]
    average: WeightAverage | None = MovingAverage(learner.model, ema) if ema else None
    if self_correction:
        average = SelfCorrection(learner.model, *self_correction, normalised=learner.normalised)
    return Fit(
        Fabric(accelerator="cpu", devices=1, precision=settings.pop("precision", "32-true")),
        learner,
        torch.optim.AdamW(learner.model.parameters(), lr=0.02, fused=settings.pop("fused", None)),
        lambda share: learning_rate_factor("polynomial", share, warmup=0.1),
        batches,
        validation,
        settings=FitSettings(**{"epochs": 3, "save_minutes": 0.0, **settings}),
        checkpoints=Checkpoints(folder),
        average=average,
        stop=stop,
        warn=warn,
    )


def recorded(fit: Fit) -> list[tuple[int, dict[str, float]]]:
    epochs: list[tuple[int, dict[str, float]]] = []
    fit.on_epoch = lambda epoch, metrics: epochs.append((epoch, metrics))
    return epochs


def test_it_learns_and_keeps_the_best_weights(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=6)
    epochs = recorded(fit)
    best = fit.run()
    scores = [metrics["val/miou"] for _, metrics in epochs]
    assert max(scores) > 0.95
    assert fit.progress.best_score == max(scores)
    fit.model.load_state_dict(best)
    assert [epoch for epoch, _ in epochs] == list(range(6))


def test_every_epoch_reports_total_and_each_term_and_the_scores(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=1)
    epochs = recorded(fit)
    fit.run()
    metrics = epochs[0][1]
    assert {
        "train/loss",
        "train/cross_entropy",
        "train/dice",
        "val/loss",
        "val/cross_entropy",
        "val/dice",
        "val/miou",
        "val/fwiou",
    } <= set(metrics)
    assert {"val/pixel_accuracy", "val/mean_pixel_accuracy", "learning_rate", "images_per_second"} <= set(metrics)
    # no auxiliary head in validation: the total is the weighted sum of the terms
    assert metrics["val/loss"] == pytest.approx(metrics["val/cross_entropy"] + 0.5 * metrics["val/dice"], rel=1e-5)
    assert metrics["train/loss"] > metrics["train/cross_entropy"] + 0.5 * metrics["train/dice"]


class Waits(TorchDispatchMode):
    """Counts the operations at which a host waits for its GPU."""

    NAMES = frozenset(
        {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ in self.NAMES
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"gradient_clip": 1.0, "accumulate": 2}])
def test_no_step_waits_for_the_device(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a host that waits in every step cannot queue the next one while the last is computed."""
    counts = []
    for batches in (4, 8):
        fit = new_fit(tmp_path / str(batches), batches=Batches(batches), save_minutes=10.0, fused=True, **options)
        monkeypatch.setattr(LogitsLoss, "_check", lambda *_: None)  # of labels, on the CPU alone
        monkeypatch.setattr(Tensor, "cpu", None)
        monkeypatch.setattr(Tensor, "numpy", None)
        with Waits() as waits:
            fit._train_epoch()
        monkeypatch.undo()
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_what_makes_the_batches_is_closed_however_a_training_ends(tmp_path: Path) -> None:
    def ended(fit: Fit) -> list[str]:
        closed: list[str] = []
        fit.training.close = lambda: closed.append("closed")  # type: ignore[method-assign]
        with suppress(Stopped, InputError):
            fit.run()
        return closed

    assert ended(new_fit(tmp_path / "end")) == ["closed"]
    assert ended(new_fit(tmp_path / "stopped", stop=StopAfter(2))) == ["closed"]
    diverged = new_fit(tmp_path / "diverged")
    diverged.optimisation.factor = lambda _share: math.inf
    assert ended(diverged) == ["closed"]


def test_a_model_is_compiled_once_for_training_and_validation_and_the_first_batch_is_no_training_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, clock, passed = CompileCounter(), time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed[0])
    torch._dynamo.reset()

    def backend(graph: Any, inputs: Any) -> Any:
        passed[0] += 3600
        return counter(graph, inputs)

    model = Small()
    model.compile(backend=backend)
    fit = new_fit(tmp_path, model=model)
    fit.validation = [evaluated(Batches(size=size).batch(100), number) for number, size in enumerate((4, 4, 3))]
    fit.run()
    assert counter.frame_count == 1
    assert fit.progress.seconds < 3600


def test_at_the_end_of_a_cycle_the_average_of_the_cycles_is_validated_and_kept(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=4, self_correction=(2, 1), validate_every=5)
    epochs = recorded(fit)
    ends: list[dict[str, Tensor]] = []
    assert isinstance(fit.average, SelfCorrection)
    end_cycle = fit.average.end_cycle
    fit.average.end_cycle = lambda model, images: (
        ends.append({k: v.clone() for k, v in model.state_dict().items()}),
        end_cycle(model, images),
    )  # type: ignore
    best = fit.run()
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    cycles = fit.progress.best_epoch  # of the cycles, the first ended with epoch 1
    for name in ("features.0.weight", "head.bias"):
        torch.testing.assert_close(best[name], torch.stack([weights[name] for weights in ends[:cycles]]).mean(0))
    fit.training.set_epoch(fit.progress.best_epoch)
    fit.model.load_state_dict(best)
    estimate_batch_norm(fit.model, [fit.learner.normalised(batch.images) for batch in fit.training])
    torch.testing.assert_close(best["features.1.running_mean"], fit.model.state_dict()["features.1.running_mean"])


def test_after_the_first_cycle_the_cross_entropy_is_that_of_corrected_labels(tmp_path: Path) -> None:
    terms = []
    for name, settings in (("plain", {}), ("corrected", {"self_correction": (1, 1)})):
        fit = new_fit(tmp_path / name, epochs=2, **settings)
        fit.optimisation.factor = lambda _share: 1e-6  # the weights stay
        epochs = recorded(fit)
        fit.run()
        terms.append([metrics["train/cross_entropy"] for _, metrics in epochs])
    assert terms[1][0] == pytest.approx(terms[0][0])
    assert terms[1][1] < 0.7 * terms[0][1]  # half of a corrected label is what the network says itself


def test_auxiliary_outputs_count_less_and_less_with_decay() -> None:
    torch.manual_seed(0)
    learner = new_learner({"cross_entropy": 1.0}, auxiliary_weights=(0.5,), auxiliary_decay=True)
    learner.model.features[3] = nn.Identity()
    shares = {}
    for share in (0.0, 0.5, 1.0):
        output = learner(Batches().batch(0), Turn(share_done=share))
        shares[share] = (output.loss - output.terms["cross_entropy"]).item()
    assert shares[0.0] > 0.1
    assert shares[0.5] == pytest.approx(shares[0.0] / 2, rel=1e-5)
    assert shares[1.0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batches", [4, 5])
def test_accumulated_batches_give_the_step_of_the_batch_they_make_up(tmp_path: Path, batches: int) -> None:
    """The last of five batches makes up a step of its own."""

    class Parts(Batches):
        def __iter__(self) -> Any:
            for index in range(self.start, self.batches):
                whole, part = Batches(size=8).batch(index // 2), slice(4 * (index % 2), 4 * (index % 2) + 4)
                yield Batch(whole.images[part], SemanticTargets(whole.targets.classes[part]), whole.ids[part])

    class Wholes(Batches):
        def batch(self, index: int) -> Batch:
            whole, size = Batches(size=8).batch(index), 4 * min(2, batches - 2 * index)
            return Batch(whole.images[:size], SemanticTargets(whole.targets.classes[:size]), whole.ids[:size])

    results = []
    for name, made, accumulate in (("parts", Parts(batches), 2), ("wholes", Wholes((batches + 1) // 2), 1)):
        fit = new_fit(tmp_path / name, batches=made, losses={"cross_entropy": 1.0}, epochs=1, accumulate=accumulate)
        fit.model.features[1] = nn.Identity()  # batch norm and dropout see the difference
        fit.model.features[3] = nn.Identity()
        fit.run()
        results.append(fit.model.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["epochs", "accumulate", "validate_every", "patience", "minutes"])
def test_settings_that_train_nothing_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is 0, expected a"):
        FitSettings(**{"epochs": 1, name: 0})


def test_it_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=40, patience=2, min_delta=2.0)
    epochs = recorded(fit)
    fit.run()
    assert len(epochs) == 3


def test_minutes_end_the_training_and_it_is_still_validated(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=100_000, minutes=0.01)
    epochs = recorded(fit)
    assert fit.run()
    assert epochs
    assert 0.6 <= fit.progress.seconds < 5


def test_validation_can_be_less_frequent_but_the_last_epoch_always_is(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=5, validate_every=2)
    epochs = recorded(fit)
    fit.run()
    assert [epoch for epoch, _ in epochs] == [1, 3, 4]


def test_half_precision_checkpoints_stay_in_full_precision(tmp_path: Path) -> None:
    best = new_fit(tmp_path, epochs=1, precision="bf16-mixed").run()
    assert {value.dtype for value in best.values() if value.is_floating_point()} == {torch.float32}


def test_a_batch_of_one_that_a_model_cannot_normalise_is_refused_in_a_sentence(tmp_path: Path) -> None:
    model = Small()
    model.features = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Upsample((12, 12))
    )
    with pytest.raises(InputError, match=r"of which this one has 1: set train\.batch_size to 2 or more, and train on"):
        new_fit(tmp_path, model=model, batches=Batches(size=1)).run()


def test_gradients_that_the_scaler_skips_are_no_fault(tmp_path: Path) -> None:
    fit = new_fit(tmp_path, epochs=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10_000)  # overflows in the first steps
    fit.fabric.backward = lambda loss: scaler.scale(64 * loss).backward()  # type: ignore[method-assign]
    optimizer, skipped = fit.optimisation.optimizer.optimizer, []

    def step() -> None:
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped.append(scaler.get_scale() < before)

    fit.optimisation.optimizer.step = step
    assert fit.run()
    assert skipped[0]
    assert not skipped[-1]
