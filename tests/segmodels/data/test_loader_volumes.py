"""Volumes, and images of other channels and types than 8-bit RGB, from shards through the loader into a model."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segmodels.annotations import Annotation
from segmodels.data import augment as augmentation
from segmodels.data.loader import evaluation_loader, training_loader
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.losses import create_loss
from segmodels.metrics.surface import case_scores
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task
from segmodels.windows import SlidingWindow

LABELS = LabelMap(("background", "lesion"), ((0, 0, 0), (255, 0, 0)), {0: 0, 1: 1})
Augment = partial(augmentation.Augment, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0)
"""Nothing but what a test asks for."""

SPACING = (3.0, 1.0, 1.0)


def scan(seed: int, size: tuple[int, int, int]) -> tuple[np.ndarray, Annotation]:
    """Two modalities with negative values; an ellipsoid that is bright in the first and dark in the second."""
    rng = np.random.default_rng(seed)
    center = [rng.uniform(0.35, 0.65) * length for length in size]
    radius = [rng.uniform(0.2, 0.3) * length for length in size]
    grid = np.meshgrid(*[np.arange(length) for length in size], indexing="ij")
    inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radius, strict=True)) < 1
    image = np.stack([np.where(inside, 250.0, -400.0), np.where(inside, -0.8, 0.3)], axis=-1)
    noise = rng.normal(0, 1, image.shape) * (120, 0.2)
    return (image + noise).astype(np.float32), replace(Annotation.of_classes(inside.astype(np.uint8)), spacing=SPACING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    with ShardWriter(folder, LABELS, "digest") as writer:
        for number in range(6):
            size = (12, 24 + 2 * (number % 2), 28)
            writer.add("train" if number < 4 else "test", f"case_{number}", *scan(number, size))
    return folder


def test_batches_hold_patches_of_volumes(folder: Path) -> None:
    reader = ShardReader(folder, "train")
    task = create_task("semantic", LABELS)
    augment = Augment(crop=(8, 16, 16), scale=(0.8, 1.2), flip=0.5, brightness=0.1, contrast=0.1)
    for workers in (0, 1):
        images, targets, ids = next(iter(training_loader(reader, augment, task, batch_size=3, seed=0, workers=workers)))
        assert (images.shape, images.dtype) == ((3, 2, 8, 16, 16), torch.float32)
        assert images.is_contiguous()
        assert images.min() < -300
        assert (targets.classes.shape, targets.classes.dtype) == ((3, 8, 16, 16), torch.uint8)
        assert len(set(ids.tolist())) == 3


def test_a_patch_beyond_the_volume_has_its_mean_intensities(folder: Path) -> None:
    reader = ShardReader(folder, "train")
    loader = training_loader(reader, Augment(crop=(16, 32, 32)), create_task("semantic", LABELS), batch_size=2, seed=0)
    images, targets, _ = next(iter(loader))
    outside = targets.classes == 255
    assert outside.any()
    mean = torch.tensor(reader.statistics.mean, dtype=torch.float32)
    torch.testing.assert_close(images.movedim(1, -1)[outside].unique(dim=0), mean[None])


def test_evaluation_keeps_spacing_and_groups_equal_sizes(folder: Path) -> None:
    batches = list(evaluation_loader(ShardReader(folder, "test"), batch_size=2))
    assert [batch.ids for batch in batches] == [["case_4"], ["case_5"]]
    for batch in batches:
        assert batch.images.shape[1:] == (2, *batch.annotations[0].size)
        assert batch.annotations[0].spacing == SPACING


def test_augmentation_that_does_not_fit_is_refused_before_the_first_batch(folder: Path) -> None:
    task = create_task("semantic", LABELS)
    reader = ShardReader(folder, "train")
    for augment, sentence in (
        (Augment(crop=(8, 8)), r"train\.augment\.crop is \[8, 8\] but the images have 3 axes"),
        (Augment(crop=(8, 8, 8), saturation=0.2), r"saturation is 0\.2 but the volumes have 2 channels of float32"),
        (Augment(), r"images from 28x24x12 to 28x26x12 pixels and no crop"),
    ):
        with pytest.raises(InputError, match=sentence):
            training_loader(reader, augment, task, batch_size=2, seed=0)


def test_vnet_learns_volumes_from_the_loader_and_finds_the_lesion_through_windows(folder: Path) -> None:
    torch.manual_seed(0)
    reader = ShardReader(folder, "train")
    task = create_task("semantic", LABELS, {"sliding_window": SlidingWindow((8, 16, 16), overlap=0.5)})
    augment = Augment(crop=(8, 16, 16), scale=(0.9, 1.1), flip=0.5, brightness=0.1)
    loader = training_loader(reader, augment, task, batch_size=2, seed=0)
    model = create_model("vnet", num_classes=2, in_channels=2, widths=[4, 8], spatial_dims=3)
    loss = create_loss({"cross_entropy": 1.0, "dice": 1.0})
    mean, std = (
        torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
        for values in (reader.statistics.mean, reader.statistics.std)
    )

    def network(images: torch.Tensor) -> object:
        return model((images.float() - mean) / std)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for epoch in range(12):
        loader.set_epoch(epoch)
        for images, targets, _ in loader:
            optimizer.zero_grad()
            value = loss(network(images).logits, targets.classes.long())
            value.backward()
            optimizer.step()
            losses.append(value.item())
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    model.eval()
    with torch.inference_mode():
        for images, annotations, _, _ in evaluation_loader(ShardReader(folder, "test"), batch_size=1):
            (result,) = task.predict(network, images, [annotations[0].size])
            (lesion,) = case_scores(result.classes, annotations[0].classes, 2, 255, annotations[0].spacing)
            assert lesion["dice"] > 0.85
            assert lesion["mean_surface_distance"] < 1.5


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (4, np.uint16), (7, np.int16), (3, np.float32)])
def test_images_of_any_channels_and_type_reach_the_model_as_stored(tmp_path: Path, channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    low, high = (-1e3, 1e3) if dtype is np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pictures = [rng.uniform(low, high, (20, 24, channels)).astype(dtype) for _ in range(4)]
    with ShardWriter(tmp_path, LABELS, "digest") as writer:
        for number, image in enumerate(pictures):
            writer.add("train", str(number), image, Annotation.of_classes(np.zeros((20, 24), np.uint8)))
    reader = ShardReader(tmp_path, "train")
    task = create_task("semantic", LABELS)
    loader = training_loader(reader, Augment(), task, batch_size=2, seed=0)
    for images, _, ids in loader:
        for image, number in zip(images, ids.tolist(), strict=True):
            np.testing.assert_array_equal(image.movedim(0, -1).numpy(), pictures[number])
    for batch in evaluation_loader(reader, batch_size=2):
        np.testing.assert_array_equal(batch.images.movedim(1, -1).numpy(), [pictures[i] for i in batch.indices])
    padded = training_loader(reader, Augment(crop=(32, 32), flip=0.5, contrast=0.3), task, batch_size=4, seed=0)
    images, targets, _ = next(iter(padded))
    fill = images.movedim(1, -1)[targets.classes == 255].float().unique(dim=0)
    mean = torch.tensor(reader.statistics.mean)
    torch.testing.assert_close(fill[0], (mean if dtype is np.float32 else mean.round()).float())
    assert len(fill) == 1
