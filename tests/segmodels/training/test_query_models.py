"""MaskFormer, Mask2Former and K-Net in the small: each learns every task that its card names, by its paper's loss."""

from __future__ import annotations

import pytest
import torch
from object_scenes import DIGITS, digit_scenes

from segmodels.data.batches import Batch
from segmodels.encoders.resnet import BasicBlock, ResNet
from segmodels.losses import create_loss
from segmodels.models.base import Model
from segmodels.models.knet_objects import KNetObjects
from segmodels.models.mask2former import Mask2Former
from segmodels.models.maskformer import MaskFormer
from segmodels.models.registry import model_entry
from segmodels.tasks.registry import create_task
from segmodels.training.learner import SupervisedLearner, Turn

CARDS = {"maskformer_r50": MaskFormer, "mask2former_r50": Mask2Former, "knet_objects_r50": KNetObjects}
CASES = [
    pytest.param(name, task, marks=[] if task == "panoptic" else pytest.mark.slow)
    for name in CARDS
    for task in model_entry(name).card.tasks
]


def small(name: str, num_classes: int) -> Model:
    torch.manual_seed(0)
    body = ResNet(BasicBlock, (1, 1, 1, 1))
    if name == "knet_objects_r50":
        return KNetObjects(body, num_classes, kernels=12, rounds=1)
    if name == "maskformer_r50":
        return MaskFormer(body, num_classes, 12, 64, 32, layers=2, hidden=64, dropout=0.0)
    return Mask2Former(body, num_classes, 12, 64, 32, pixel_layers=1, layers=3, hidden=(64, 64))


@pytest.mark.parametrize(("name", "task_name"), CASES)
def test_a_small_model_learns_scenes_with_objects(name: str, task_name: str) -> None:
    task = create_task(task_name, DIGITS)
    images, annotations = digit_scenes(2)
    model = small(name, task.model_arguments(DIGITS)["num_classes"])
    card = model_entry(name).card
    (options,) = card.losses.values()
    few = {**options, "points": 256} if isinstance(options, dict) and "points" in options else options
    criterion = create_loss({"mask_classification": few})
    learner = SupervisedLearner(
        model, task, criterion, mean=[128.0] * 3, std=[64.0] * 3, auxiliary_weights=card.auxiliary_weights
    )
    pixels = torch.stack([torch.from_numpy(image).movedim(2, 0) for image in images])
    batch = Batch(pixels, task.targets(annotations), ["a", "b"])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    values = []
    for _ in range(5):
        loss = learner(batch, Turn()).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        values.append(loss.item())
    assert min(values[1:]) < 0.95 * values[0], values
    assert all(parameter.grad is not None for parameter in model.parameters())
    learner.eval()
    results = task.predict(lambda raw: model(learner.normalised(raw)), pixels, [(64, 64), (50, 40)])
    assert [len(result.files(DIGITS)) > 0 for result in results] == [True, True]
    evaluator = task.evaluator()
    evaluator.update(
        task.predict(lambda raw: model(learner.normalised(raw)), pixels, [(64, 64)] * 2), annotations, ["a", "b"]
    )
    assert 0 <= evaluator.scores()[next(iter(task.headline))] <= 1
