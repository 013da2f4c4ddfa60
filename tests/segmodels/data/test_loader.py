"""Loaders: batches that depend on seed, epoch and sample alone, whatever the workers and ranks; and a thread that
behaves.
"""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from segmodels.annotations import Annotation, Segment, rows_of
from segmodels.data import augment as augmentation
from segmodels.data.batches import Batch
from segmodels.data.loader import evaluation_loader, training_loader
from segmodels.data.prefetching import PREFETCH
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.labels import LabelMap

LABELS = LabelMap(("a", "b"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1})
Augment = partial(augmentation.Augment, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0)
"""Nothing but what a test asks for."""

FULL = Augment(crop=(16, 24), scale=(0.7, 1.4), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)


class Classes:
    """A task that learns from the class maps and the images' labels (-1: none); knows which thread called it."""

    reads_objects = False

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def targets(self, annotations: Sequence[Annotation]) -> dict[str, torch.Tensor]:
        self.threads.add(threading.current_thread().name)
        labels = [-1 if annotation.image_label is None else annotation.image_label for annotation in annotations]
        return {
            "classes": torch.from_numpy(np.stack([annotation.classes for annotation in annotations])),
            "image_label": torch.tensor(labels),
        }


class Makers(Classes):
    """Tells which thread of which process made a batch, and counts those of this process."""

    made = 0

    def targets(self, annotations: Sequence[Annotation]) -> dict[str, torch.Tensor]:
        self.made += 1
        maker = torch.tensor([os.getpid(), threading.get_native_id()])
        return {**super().targets(annotations), "maker": maker.sum().expand(len(annotations))}


TASK = Classes()


def shards(
    folder: Path, sizes: list[tuple[int, int]], split: str = "train", mask_sizes: list[tuple[int, int]] | None = None
) -> ShardReader:
    """Samples whose red channel is their number."""
    with ShardWriter(folder, LABELS, "d", shard_bytes=20_000) as writer:
        for index, (height, width) in enumerate(sizes):
            rng = np.random.default_rng(index)
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            image[:, :, 0] = index
            mask = rng.integers(0, 2, (mask_sizes or sizes)[index], dtype=np.uint8)
            writer.add(split, str(index), image, Annotation.of_classes(mask))
    return ShardReader(folder, split)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> ShardReader:
    return shards(tmp_path_factory.mktemp("shards"), [(20, 30)] * 23)


def numbers(images: torch.Tensor) -> list[int]:
    """The samples of a batch, known by their red channel (without colour jitter)."""
    return images[:, 0, 0, 0].tolist()


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other)
        for a, b in zip(first, second, strict=True)
        for one, other in zip(tree_leaves(a), tree_leaves(b), strict=True)
    )


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_are_uint8_channels_last_of_the_crops_size(reader):
    images, targets, ids = next(iter(training_loader(reader, FULL, TASK, batch_size=4, seed=0)))
    masks = targets["classes"]
    assert images.shape == (4, 3, 16, 24)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert masks.shape == (4, 16, 24)
    assert masks.dtype == torch.uint8
    assert (ids.dtype, ids.shape) == (torch.int64, (4,))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_what_the_task_makes_of_the_annotations_and_the_samples_numbers(tmp_path, workers):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index in range(7):
            writer.add(
                "train",
                str(index),
                np.full((8, 8, 3), index, np.uint8),
                Annotation.of_classes(np.zeros((8, 8), np.uint8), 10 + index),
            )
    loader = training_loader(ShardReader(tmp_path, "train"), Augment(), TASK, batch_size=3, seed=0, workers=workers)
    for images, targets, ids in loader:
        assert targets["image_label"].tolist() == [10 + number for number in numbers(images)]
        assert ids.tolist() == numbers(images)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_pinned_beside_the_training(reader, workers, monkeypatch):
    threads = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: (threads.append(threading.current_thread().name), tensor.clone())[1]
    )
    loader = partial(training_loader, reader, FULL, TASK, batch_size=8, seed=0, workers=workers)
    plain = list(loader())
    assert not threads
    assert same(list(loader(pin=True)), plain)
    assert set(threads) == {"prefetch"}
    assert len(threads) >= (len(plain) if workers else len(tree_leaves(plain))), "a process hands over one piece"


def test_targets_are_made_where_the_batches_are_made(reader):
    """In the loader's thread or in its workers, never in the thread that trains."""
    for workers in (0, 1):
        task = Classes()
        list(training_loader(reader, FULL, task, batch_size=8, seed=0, workers=workers))
        assert task.threads == ({"prefetch"} if workers == 0 else set())


def test_a_batch_holds_the_samples_pixels(reader):
    loader = training_loader(reader, Augment(), TASK, batch_size=5, seed=0)
    for images, targets, _ in loader:
        for image, mask in zip(images, targets["classes"], strict=True):
            index = int(image[0, 0, 0])
            np.testing.assert_array_equal(image.permute(1, 2, 0), reader.image(index))
            np.testing.assert_array_equal(mask, reader.annotation(index).classes)


def test_an_epoch_has_every_sample_once_but_an_incomplete_batch(reader):
    loader = training_loader(reader, Augment(), TASK, batch_size=5, seed=0)
    seen = [number for images, *_ in loader for number in numbers(images)]
    assert len(loader) == 4
    assert len(seen) == len(set(seen)) == 20


def test_a_set_smaller_than_a_batch_is_one_smaller_batch(reader):
    loader = training_loader(reader, Augment(), TASK, batch_size=100, seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 1
    assert sorted(numbers(batches[0][0])) == list(range(23))


def test_seed_and_epoch_decide_everything(reader):
    def epoch(seed, number):
        loader = training_loader(reader, FULL, TASK, batch_size=5, seed=seed)
        loader.set_epoch(number)
        return list(loader)

    assert same(epoch(1, 2), epoch(1, 2))
    assert not same(epoch(1, 2), epoch(1, 3))
    assert not same(epoch(1, 2), epoch(2, 2))


def test_a_samples_draws_change_with_the_epoch(reader):
    """Crops of one sample in six epochs are at more than one place."""
    loader = training_loader(reader, Augment(crop=(8, 8)), TASK, batch_size=23, seed=0)
    crops = set()
    for number in range(6):
        loader.set_epoch(number)
        images, *_ = next(iter(loader))
        crops.add(images[numbers(images).index(7)].numpy().tobytes())
    assert len(crops) > 3


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(reader, workers):
    alone = training_loader(reader, FULL, TASK, batch_size=5, seed=3)
    shared = training_loader(reader, FULL, TASK, batch_size=5, seed=3, workers=workers)
    for loader in (alone, shared):
        loader.set_epoch(4, start_batch=1)
    batches = list(shared)
    assert same(list(alone), batches)
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_thread_and_the_processes_make_one_epoch_after_another(tmp_path, workers):
    reader, task = shards(tmp_path, [(8, 8)] * 24), Makers()
    loader = training_loader(reader, Augment(flip=0.5), task, batch_size=2, seed=0, workers=workers)
    seen, makers = {}, set()
    for epoch in (0, 1, 2, 2, 3):  # twice: an average of the weights looks at the images of an epoch again
        loader.set_epoch(epoch)
        batches = list(loader)
        own = {maker for batch in batches for maker in batch.targets["maker"].flatten().tolist()}
        assert len(own) == max(1, workers)
        if epoch not in seen:
            makers |= own
        seen[epoch] = batches
    assert len(makers) == 2 * max(1, workers), "new ones for what does not follow alone"
    for epoch, batches in seen.items():
        alone = training_loader(reader, Augment(flip=0.5), Classes(), batch_size=2, seed=0)
        alone.set_epoch(epoch)
        for batch, expected in zip(batches, alone, strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.targets["classes"], expected.targets["classes"])


def test_the_first_batches_of_the_next_epoch_are_made_before_it_begins(tmp_path):
    reader, task = shards(tmp_path, [(8, 8)] * 6), Makers()
    loader = training_loader(reader, Augment(), task, batch_size=2, seed=0)
    assert len(list(loader)) == 3
    deadline = time.monotonic() + 5
    while task.made < 3 + PREFETCH and time.monotonic() < deadline:
        time.sleep(0.01)
    assert task.made >= 3 + PREFETCH
    loader.set_epoch(1)
    next(iter(loader))
    loader.close()
    assert task.made <= 3 + PREFETCH + 2
    assert threads() == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_program_that_leaves_a_loader_open_ends(reader, workers):
    script = (
        "from segmodels.data.augment import Augment\n"
        "from segmodels.data.loader import training_loader\n"
        "from segmodels.data.shards import ShardReader\n"
        "from segmodels.tasks.registry import create_task\n"
        "if __name__ == '__main__':\n"
        f"    reader = ShardReader({str(reader.folder)!r}, 'train')\n"
        "    task = create_task('semantic', reader.labels)\n"
        f"    loader = training_loader(reader, Augment(), task, batch_size=2, seed=0, workers={workers})\n"
        "    batches = iter(loader)\n"
        "    print(next(batches).images.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "torch.Size([2, 3, 20, 30])\n"


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_make_the_batches_of_one_process(reader, world_size):
    whole = list(training_loader(reader, FULL, TASK, batch_size=2 * world_size, seed=0))
    parts = [
        list(training_loader(reader, FULL, TASK, batch_size=2, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for rank, part in enumerate(parts):
        assert same([tree_map(lambda tensor, rank=rank: tensor[rank::world_size], batch) for batch in whole], part)


def test_a_resumed_epoch_has_exactly_the_remaining_batches(reader):
    loader = training_loader(reader, FULL, TASK, batch_size=3, seed=0)
    loader.set_epoch(5)
    whole = list(loader)
    for start in range(len(loader) + 1):
        resumed = training_loader(reader, FULL, TASK, batch_size=3, seed=0)
        resumed.set_epoch(5, start_batch=start)
        assert same(list(resumed), whole[start:])
        assert len(resumed) == 7


def test_a_crop_is_padded_with_the_datasets_mean_colour(reader):
    images, targets, _ = next(iter(training_loader(reader, Augment(crop=(64, 64)), TASK, batch_size=2, seed=0)))
    outside = targets["classes"][0] == 255
    assert outside.sum() == 64 * 64 - 20 * 30
    assert {tuple(pixel) for pixel in images[0].permute(1, 2, 0)[outside].tolist()} == {
        tuple(round(value) for value in reader.statistics.mean)
    }


def test_images_of_many_sizes_need_a_crop(tmp_path):
    mixed = shards(tmp_path, [(20, 30), (40, 20), (20, 30)])
    with pytest.raises(InputError, match=r"images from 20x20 to 30x40 pixels and no crop, .* set train\.augment\.crop"):
        training_loader(mixed, Augment(), TASK, batch_size=2, seed=0)
    images, *_ = next(iter(training_loader(mixed, Augment(crop=(32, 32)), TASK, batch_size=3, seed=0)))
    assert images.shape == (3, 3, 32, 32)


def test_fewer_samples_than_processes_are_refused(tmp_path):
    with pytest.raises(InputError, match="2 samples for 3 processes"):
        training_loader(shards(tmp_path, [(8, 8)] * 2), Augment(), TASK, batch_size=1, seed=0, rank=0, world_size=3)


# Evaluation


def test_evaluation_shows_every_sample_in_order_at_its_masks_resolution(tmp_path):
    sizes = [(8, 9), (8, 9), (8, 9), (5, 6), (8, 9), (8, 9)]
    mask_sizes = [(16, 18), (8, 9), (4, 4), (5, 6), (8, 9), (24, 27)]
    reader = shards(tmp_path, sizes, "test", mask_sizes)
    loader = evaluation_loader(reader, batch_size=2)
    batches = list(loader)
    assert [batch.indices for batch in batches] == [[0, 1], [2], [3], [4, 5]]
    assert [batch.ids for batch in batches] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    assert len(loader) == 4
    for images, annotations, _, indices in batches:
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, annotation, index in zip(images, annotations, indices, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0), reader.image(index))
            np.testing.assert_array_equal(annotation.classes, reader.annotation(index).classes)
            assert annotation.size == mask_sizes[index]


def test_evaluation_batches_have_no_more_pixels_than_allowed_but_an_image_at_least(tmp_path):
    reader = shards(tmp_path, [(8, 8)] * 5 + [(16, 16)] * 2, "test")
    assert reader.largest == (16, 16)
    batches = evaluation_loader(reader, batch_size=4, most_pixels=2 * 8 * 8 + 5)
    assert [batch.indices for batch in batches] == [[0, 1], [2, 3], [4], [5], [6]]


def test_evaluation_ranks_share_the_samples(reader):
    seen = [
        index
        for rank in range(3)
        for *_, indices in evaluation_loader(reader, batch_size=4, rank=rank, world_size=3)
        for index in indices
    ]
    assert sorted(seen) == list(range(23))


def test_evaluation_keeps_no_shard_mapped(reader):
    kept = list(evaluation_loader(reader, batch_size=4))
    assert len(kept) == 6
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("memory maps are listed on Linux only")
    assert str(reader.folder) not in maps.read_text()


def test_the_thread_ends_when_the_iterator_is_dropped(reader):
    stream = iter(training_loader(reader, FULL, TASK, batch_size=1, seed=0))
    next(stream)
    assert threads() == ["prefetch"]
    del stream
    gc.collect()
    assert threads() == []


def test_a_corrupt_shard_is_named_by_the_loader(tmp_path):
    reader = shards(tmp_path, [(20, 30)] * 4)
    path = tmp_path / "train-00000.arrow"
    data = bytearray(path.read_bytes())
    data[8:5000] = bytes(4992)
    path.write_bytes(data)
    reader = ShardReader(tmp_path, "train")
    for workers in (0, 1):
        loader = training_loader(reader, FULL, TASK, batch_size=4, seed=0, workers=workers)
        with pytest.raises(InputError, match=r"train-00000\.arrow is damaged \(.*\): run the step preprocess again$"):
            list(loader)


def test_objects_are_unpacked_for_the_tasks_that_read_them_alone(tmp_path):
    layers = np.zeros((1, 8, 8), np.uint16)
    layers[0, 2:5, 3:7] = 4
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        annotation = Annotation(np.zeros((8, 8), np.uint8), layers, rows_of(layers, [Segment(4, 1)]))
        writer.add("train", "a", np.zeros((8, 8, 3), np.uint8), annotation)

    class Counting(Classes):
        def targets(self, annotations):
            return [len(annotation.segments) for annotation in annotations]

    for reads, expected in ((False, [0]), (True, [1])):
        task = Counting()
        task.reads_objects = reads
        loader = training_loader(ShardReader(tmp_path, "train"), Augment(), task, batch_size=1, seed=0)
        assert next(iter(loader)).targets == expected
