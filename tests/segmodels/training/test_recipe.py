"""Recipes: which losses, task, options, optimiser groups and averages follow from settings, model and data."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pipeline import DIGEST, write_shards
from torch import Tensor, nn

from segmodels.annotations import Annotation
from segmodels.data.augment import Augment
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.memory import prediction_bytes, training_bytes
from segmodels.labels import LabelMap
from segmodels.models.registry import MODELS, Card, register_model
from segmodels.outputs import PixelOutput
from segmodels.registry import Entry
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.devices import Devices, choose_devices
from segmodels.training.fit import Fit, Stopped
from segmodels.training.moving_average import MovingAverage
from segmodels.training.optimizers import create_optimizer
from segmodels.training.recipe import Recipe, create_loaders, create_recipe
from segmodels.training.self_correction import SelfCorrection
from segmodels.training.settings import DeepSupervision, SelfCorrectionSettings, TrainSettings

SMALL: dict[str, Any] = {"options": {"widths": [4, 8]}, "accelerator": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardReader, ShardReader]:
    folder = write_shards(tmp_path_factory.mktemp("recipe") / "shards", train=3, val=2, scale=1)
    return ShardReader(folder, "train"), ShardReader(folder, "val")


def recipe(readers: tuple[ShardReader, ShardReader], **settings: Any) -> Recipe:
    return create_recipe(TrainSettings(**{**SMALL, **settings}), *readers)


class Positions(nn.Module):
    """A model with a position embedding, and a head that learns ten times as fast."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.body, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, num_classes, 1)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        return PixelOutput(self.head(self.norm(self.body(images + self.position))))

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.head.parameters()), "lr_factor": 10.0}]


def test_the_model_says_what_does_not_decay_and_what_learns_faster() -> None:
    model = Positions(4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = create_optimizer(TrainSettings(lr=0.01, weight_decay=0.1, optimizer="sgd"), model)
    groups = [
        ([names[id(p)] for p in group["params"]], group["weight_decay"], pytest.approx(group["lr"]))
        for group in optimizer.param_groups
    ]
    assert groups == [
        (["body.weight"], 0.1, 0.01),
        (["position", "body.bias", "norm.weight", "norm.bias"], 0.0, 0.01),
        (["head.weight"], 0.1, 0.1),
        (["head.bias"], 0.0, 0.1),
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"cross_entropy": 1.0}),
        ({"loss": {"dice": 2.0}}, {"dice": 2.0}),
        ({"model": "wnet"}, {"soft_normalized_cut": 1.0, "reconstruction": 1.0}),
        ({"model": "ynet", "options": {"image_classes": 0}}, {"cross_entropy": 1.0}),
        (
            {"model": "encnet_r50_d8", "options": {"encoder": "resnet18"}},
            {"cross_entropy": 1.0, "presence": 0.2},
        ),
        (
            {"model": "encnet_r50_d8", "options": {"encoder": "resnet18"}, "loss": {"dice": 1.0}},
            {"presence": 0.2, "dice": 1.0},
        ),
        (
            {"model": "encnet_r50_d8", "options": {"encoder": "resnet18"}, "loss": {"dice": 1.0, "presence": 0.5}},
            {"presence": 0.5, "dice": 1.0},
        ),
    ],
)
def test_the_losses_are_those_of_the_paper_or_the_user_s_beside_those_of_the_model_s_own_outputs(
    settings: dict[str, Any], expected: dict[str, float], readers: tuple[ShardReader, ShardReader]
) -> None:
    assert recipe(readers, **settings).learner.criterion.weights == expected


def test_class_weights_come_from_the_training_set_and_the_average_from_the_settings(
    readers: tuple[ShardReader, ShardReader],
) -> None:
    weighted = recipe(readers, class_weights="inverse_frequency", ema=0.9)
    pixels = torch.tensor(readers[0].statistics.class_pixels).double()
    expected = torch.where(pixels > 0, pixels.sum() / pixels, 0).float()
    torch.testing.assert_close(weighted.learner.criterion.losses["cross_entropy"].class_weights, expected)
    assert isinstance(weighted.average, MovingAverage)
    corrected = recipe(readers, epochs=3, self_correction=SelfCorrectionSettings(2, 1))
    assert isinstance(corrected.average, SelfCorrection)
    assert corrected.learning_rate_factor(2 / 3) == pytest.approx(0.5)
    assert recipe(readers).average is None


def test_a_step_that_may_miss_parameters_is_known_before_processes_join(
    readers: tuple[ShardReader, ShardReader],
) -> None:
    assert recipe(readers).learner.reaches_all_parameters
    assert not recipe(readers, deep_supervision=DeepSupervision(weights=(0.4, 0.0))).learner.reaches_all_parameters
    assert not recipe(readers, model="wnet").learner.reaches_all_parameters


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "panoptic"}, "train.task is 'panoptic', but model 'unet' learns semantic"),
        (
            {"loss": {"image_label": 1.0}, "model": "ynet", "options": {}},
            "but 3 of the 3 images of split 'train' have no",
        ),
        ({"options": {"in_channels": 5}}, "train.options.in_channels is 5, but the images have 3: leave it out"),
        (
            {"model": "vnet", "options": {"spatial_dims": 3}},
            "train.options.spatial_dims is 3, but the images have 2",
        ),
        ({"loss": {"presence": 1.0}}, "loss 'presence' reads the output 'presence', which model 'unet' does not have"),
        (
            {"loss": {"dice": 1.0}, "model": "encnet_r50_d8", "options": {"encoder": "resnet18", "encodr": 1}},
            "unknown option 'encodr' of model 'encnet_r50_d8': did you mean 'encoder'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    settings: dict[str, Any], said: str, readers: tuple[ShardReader, ShardReader]
) -> None:
    with pytest.raises(InputError, match=said):
        recipe(readers, **settings)


def test_without_a_labelled_pixel_nothing_else_is_asked(tmp_path: Path) -> None:
    labels = LabelMap(("first", "second"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1})
    with ShardWriter(tmp_path, labels, DIGEST, 10**6, source={"kind": "folder", "path": "somewhere"}) as writer:
        for split in ("train", "val"):
            void = np.full((8, 8), labels.ignore_index, np.uint8)
            writer.add(split, split, np.zeros((8, 8, 3), np.uint8), Annotation.of_classes(void, None))
    with pytest.raises(InputError, match="no pixel of the train split is labelled"):
        recipe((ShardReader(tmp_path, "train"), ShardReader(tmp_path, "val")), class_weights="inverse_frequency")


def test_a_new_model_needs_no_other_line(
    readers: tuple[ShardReader, ShardReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    @register_model("positions", Card("this test", 2026, losses={"focal": 1.0}))
    def positions(num_classes: int, in_channels: int = 3) -> Positions:
        assert in_channels == 3
        return Positions(num_classes)

    one = recipe(readers, model="positions", options={})
    assert one.learner.criterion.weights == {"focal": 1.0}
    assert isinstance(one.learner.model, Positions)
    assert len(one.optimizer.param_groups) == 4


def test_the_first_weights_follow_from_the_seed(readers: tuple[ShardReader, ShardReader]) -> None:
    first, second, other = (recipe(readers, seed=seed).learner.model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_kernel_updates_all_parameters_on_gpus_alone(readers: tuple[ShardReader, ShardReader], name: str) -> None:
    on_cpu = recipe(readers, optimizer=name)
    assert [group["fused"] for group in on_cpu.optimizer.param_groups] == [None] * 2
    fused = create_optimizer(TrainSettings(optimizer=name), Positions(4), fused=True)
    assert {group["fused"] for group in fused.param_groups} == {True}


@pytest.mark.parametrize(
    ("cores", "local", "expected"), [(16, 1, 4), (4, 1, 3), (2, 1, 1), (1, 1, 0), (16, 8, 1), (8, 8, 0)]
)
def test_a_gpu_is_fed_by_processes_as_far_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, local: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    devices = Devices(gpu=True, precision="float32", processes=2 * local, local_processes=local)
    assert devices.loader_processes == expected
    assert replace(devices, gpu=False).loader_processes == 0


@pytest.mark.parametrize(("gpu", "workers", "expected"), [(True, "auto", 3), (False, "auto", 0), (True, 0, 0)])
def test_loaders_have_the_processes_of_the_settings(
    readers: tuple[ShardReader, ShardReader], monkeypatch: pytest.MonkeyPatch, gpu: bool, workers: Any, expected: int
) -> None:
    task = recipe(readers).task
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    asked: dict[str, Any] = {}
    monkeypatch.setattr("segmodels.training.recipe.training_loader", lambda *_, **options: asked.update(options))
    settings = TrainSettings(**{**SMALL, "accelerator": "auto", "workers": workers})
    create_loaders(settings, task, *readers, rank=0, processes=1)
    assert (asked["workers"], asked["pin"]) == (expected, gpu)


def test_a_step_that_memory_cannot_hold_is_refused_before_it_is_killed(
    readers: tuple[ShardReader, ShardReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = training_bytes(recipe(readers, batch_size=4, augment=Augment((40, 48))).learner.model, (3, 3, 40, 48))
    monkeypatch.setattr("segmodels.training.memory.free_memory", lambda: 3 * needed // 4)
    words = r"a step of 3 images of 40 x 48 pixels needs at least .* GB .* 'unet', .* set train.batch_size 1, train"
    with pytest.raises(InputError, match=words):
        recipe(readers, batch_size=4, augment=Augment((40, 48)))
    recipe(readers, batch_size=1, augment=Augment((40, 48)))
    monkeypatch.setattr("segmodels.training.memory.free_memory", lambda: 30_000)
    with pytest.raises(
        InputError, match=r"validation image of 20 x 40 pixels needs at least .* preprocess.longer_side"
    ):
        recipe(readers, batch_size=1, augment=Augment((4, 4)))
    monkeypatch.setattr("segmodels.training.memory.free_memory", lambda: None)
    recipe(readers, batch_size=64, augment=Augment((400, 480)))


def test_memory_is_asked_for_no_more_than_a_step_takes(
    readers: tuple[ShardReader, ShardReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recipe(readers).learner.model
    monkeypatch.setattr("segmodels.training.memory.free_memory", lambda: training_bytes(model, (3, 3, 40, 48)))
    recipe(readers, batch_size=64, augment=Augment((40, 48)))  # the train split has 3 images
    needed = prediction_bytes(model, (1, 3, *readers[1].largest))
    monkeypatch.setattr("segmodels.training.memory.free_memory", lambda: needed // 2)
    recipe(readers, batch_size=1, augment=Augment((4, 4)), precision="bfloat16")  # of 2 bytes a value


class Uncopied(Positions):
    """A user's model with what cannot be copied."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lock = threading.Lock()
        self.offset = torch.zeros(3, 1, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        with self.lock:
            return super().forward(images + self.offset)


def test_a_model_that_cannot_be_copied_trains_without_an_average(
    readers: tuple[ShardReader, ShardReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS._entries, "uncopied", Entry("uncopied", Uncopied, Card("", 2026)))
    recipe(readers, model="uncopied", options={})
    for average in ({"ema": 0.9}, {"epochs": 3, "self_correction": SelfCorrectionSettings(2, 1)}):
        with pytest.raises(InputError, match=r"cannot pickle .*lock.*leave them out, or give Uncopied a method"):
            recipe(readers, model="uncopied", options={}, **average)


def test_validation_predicts_no_more_pixels_at_once_than_a_step_has(readers: tuple[ShardReader, ShardReader]) -> None:
    settings = TrainSettings(**{**SMALL, "batch_size": 2, "augment": Augment((20, 20))})
    _, loader = create_loaders(settings, recipe(readers).task, *readers, rank=0, processes=1)
    assert [len(batch.ids) for batch in loader] == [1, 1]


@pytest.mark.slow
def test_workers_change_no_bit_of_the_weights(readers: tuple[ShardReader, ShardReader], tmp_path: Path) -> None:
    """Of a model with dropout, over epochs, stopped and resumed."""
    ends = {}
    for workers, polls in ((0, None), (2, None), (2, 3)):
        for stop_after in [polls, None] if polls else [None]:
            changes = {
                "model": "unet_original",
                "epochs": 3,
                "batch_size": 1,
                "workers": workers,
                "augment": Augment((20, 20)),
            }
            settings = TrainSettings(**{**SMALL, **changes})
            made = create_recipe(settings, *readers)
            fabric = made.devices.launch(reaches_all_parameters=True)
            loaders = create_loaders(settings, made.task, *readers, rank=0, processes=1)
            left = itertools.count(1)
            fit = Fit(
                fabric,
                made.learner,
                made.optimizer,
                made.learning_rate_factor,
                *loaders,
                settings=made.fit,
                checkpoints=Checkpoints(tmp_path / f"{workers}-{polls}"),
                stop=lambda left=left, stop_after=stop_after: next(left) == stop_after,
            )
            with suppress(Stopped):
                ends[workers, polls] = fit.run()
    first, *others = ends.values()
    assert len(others) == 2
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in first.items())


def test_deterministic_algorithms_are_for_cpus_unless_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_devices("cpu").deterministic
    assert not choose_devices("cpu", deterministic=False).deterministic
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not choose_devices("gpu", "float32").deterministic
    assert choose_devices("gpu", "float32", deterministic=True).deterministic
    for value in ("auto", True, False):
        assert TrainSettings(deterministic=value).deterministic == value
