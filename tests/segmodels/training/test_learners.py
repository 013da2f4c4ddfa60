"""Learners: further heads, models of queries, and training by two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from ports import free_port
from torch import Tensor, nn

from segmodels.annotations import Annotation
from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.encoders.registry import create_encoder
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.losses import create_loss
from segmodels.models.registry import model_entry
from segmodels.models.upernet import UPerNet
from segmodels.outputs import PixelOutput, QueryOutput
from segmodels.tasks.registry import create_task
from segmodels.tasks.targets import SemanticTargets
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.devices import Devices
from segmodels.training.fit import Fit
from segmodels.training.learner import LEARNERS, Learner, Turn
from segmodels.training.state import FitSettings

LABELS = LabelMap(("sky", "wall", "grass"), ((0, 0, 255), (128, 128, 128), (0, 255, 0)), {0: 0, 1: 1, 2: 2})
TASKS = {"scene": 4, "part": 5, "material": 2, "texture": 3}


def learner(model: nn.Module, losses: dict[str, float], **options: Any) -> Learner:
    task = create_task("semantic", LABELS)
    statistics: dict[str, Any] = {"mean": (128.0,) * 3, "std": (64.0,) * 3}
    return LEARNERS["supervised"].build(model, task, create_loss(losses), **statistics, **options)


def parsing(seed: int = 0) -> Learner:
    """Unified perceptual parsing on a small encoder."""
    torch.manual_seed(seed)
    model = UPerNet(create_encoder("resnet18"), 3, channels=16, tasks=TASKS)
    return learner(model, dict(model_entry("upernet_r50_multitask").card.losses))


def batch(seed: int, size: int = 2, side: int = 64) -> Batch:
    """Labels of the classes, the scene and the parts; none of materials and textures."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, 3, (size, side, side), dtype=torch.uint8, generator=generator)
    scene, part = torch.randint(0, 4, (size,), generator=generator), classes + 2
    return Batch(images, SemanticTargets(classes, scene, {"part": part}), torch.arange(size))


def test_every_head_of_a_multitask_model_trains_and_those_without_labels_get_a_gradient_of_zero() -> None:
    parse = parsing()
    assert parse.reaches_all_parameters
    losses = parse(batch(0), Turn())
    assert set(losses.terms) == {"cross_entropy", "further"}
    losses.loss.backward()
    gradients = {name: parameter.grad for name, parameter in parse.model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    heads = {
        task: max(float(g.abs().max()) for n, g in gradients.items() if f"task_heads.{task}." in n) for task in TASKS
    }
    assert [task for task, largest in heads.items() if largest > 0] == ["scene", "part"]


class Queries(nn.Module):
    """Four learnt kernels over a convolution's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, padding=1)
        self.kernels, self.classes = nn.Linear(8, 4), nn.Linear(8, 4 * 4)

    def forward(self, images: Tensor, guide: Any = None) -> QueryOutput:
        maps = self.features(images).relu()
        masks = torch.einsum("qc,bchw->bqhw", self.kernels.weight, maps)
        return QueryOutput(self.classes(maps.mean((2, 3))).view(-1, 4, 4), masks, size=images.shape[2:])


def test_a_model_of_queries_learns_class_maps_and_a_loss_of_logits_is_refused_for_it() -> None:
    torch.manual_seed(0)
    model = Queries()
    value = learner(model, {"mask_classification": 1.0})(batch(0), Turn()).loss
    value.backward()
    assert model.features.weight.grad.any()
    with pytest.raises(InputError, match=r"\(QueryOutput\) has nothing to compute a loss from: 'cross_entropy' reads"):
        learner(model, {"cross_entropy": 1.0})(batch(0), Turn())


def test_a_validation_has_no_loss_where_the_output_has_nothing_that_is_read() -> None:
    class Presence(nn.Module):
        def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
            return PixelOutput(images, extras={"presence": images.mean((2, 3))} if self.training else {})

    one = learner(Presence(), {"presence": 1.0})
    assert one(batch(0), Turn()).loss is not None
    losses = one.eval()(batch(0), Turn())
    assert (losses.loss, losses.terms) == (None, {})
    assert losses.output.logits.shape == (2, 3, 64, 64)


def test_another_model_stands_in_for_as_long_as_it_is_used() -> None:
    one, other = learner(Queries(), {"mask_classification": 1.0}), Queries()
    own = one.model
    with one.using(other):
        assert one.model is other
    assert one.model is own


class Batches:
    """Two batches of two images; each of two processes takes every second image."""

    def __init__(self, rank: int, processes: int) -> None:
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...

    def close(self) -> None: ...

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        for seed in range(2):
            images, targets, ids = batch(seed, size=4)
            mine = slice(self.rank, None, self.processes)
            further = {"part": targets.further["part"][mine]}
            yield Batch(
                images[mine], SemanticTargets(targets.classes[mine], targets.image_label[mine], further), ids[mine]
            )


def validation(rank: int) -> list[EvaluationBatch]:
    """One batch, of the first process alone."""
    images, targets, ids = batch(9)
    annotations = [
        Annotation(c.numpy(), np.zeros((0, 64, 64), np.uint16), further={"part": p.numpy()}, image_label=int(label))
        for c, p, label in zip(targets.classes, targets.further["part"], targets.image_label, strict=True)
    ]
    return [] if rank else [EvaluationBatch(images, annotations, ["a", "b"], ids.tolist())]


def train_share(rank: int, port: int, folder: str, processes: int) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    own |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in own.items()})
    torch.set_num_threads(1)
    parse = parsing(seed=0)
    devices = Devices(gpu=False, precision="float32", processes=processes, local_processes=processes)
    fabric = devices.launch(reaches_all_parameters=parse.reaches_all_parameters)
    optimizer = torch.optim.SGD(parse.model.parameters(), lr=0.01)
    metrics: list[dict[str, float]] = []
    fit = Fit(
        fabric,
        parse,
        optimizer,
        lambda _: 1.0,
        Batches(rank, processes),
        validation(rank),
        settings=FitSettings(epochs=1),
        checkpoints=Checkpoints(Path(folder) / "states"),
        on_epoch=lambda _, values: metrics.append(values),
    )
    fit.run()
    torch.save({"model": parse.model.state_dict(), "metrics": metrics}, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_all_heads_and_agree_on_weights_and_scores(tmp_path: Path) -> None:
    """Heads without labels do not stop DDP, nor does a process without an image to validate on."""
    port = free_port()
    multiprocessing.spawn(train_share, args=(port, str(tmp_path), 2), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    start = parsing(seed=0).model.state_dict()
    for name, value in first["model"].items():
        if "running" not in name:  # batch norms were not synchronised here
            assert torch.equal(value, second["model"][name]), name
    for task in ("scene", "part"):
        assert any(not torch.equal(v, start[n]) for n, v in first["model"].items() if f"task_heads.{task}." in n)
    same = set(first["metrics"][0]) - {"images_per_second"}
    assert "val/miou" in same
    assert {name: first["metrics"][0][name] for name in same} == {name: second["metrics"][0][name] for name in same}
