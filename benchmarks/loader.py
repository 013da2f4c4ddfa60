"""Training input side by side with PNG files + albumentations: ``python -m benchmarks.loader``.

albumentations is not a requirement of the project: `make bench` installs it beside the project's environment.
"""

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.annotations import Annotation
from segmodels.data.augment import Augment
from segmodels.data.digits import scene, split_sources
from segmodels.data.layouts import open_layout
from segmodels.data.loader import training_loader
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.labels import LabelMap

HEIGHT, WIDTH, CROP, IMAGES, BATCH = 360, 480, 320, 64, 16
SCALE, JITTER = (0.75, 1.5), 0.2
LABELS = LabelMap(tuple(map(str, range(12))), tuple((20 * c, 0, 0) for c in range(12)), {c: c for c in range(12)})


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    samples, kind = real_frames() or (scenes(), "generated scenes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_png(folder, samples)
        with ShardWriter(folder, LABELS, "benchmark") as writer:
            for number, (image, mask) in enumerate(samples):
                writer.add("train", str(number), image, Annotation.of_classes(mask))
        augment = Augment((CROP, CROP), SCALE, flip=0.5, brightness=JITTER, contrast=JITTER, saturation=JITTER, hue=0.1)
        loader = training_loader(ShardReader(folder, "train"), augment, Classes(), batch_size=BATCH, seed=0)
        contenders = {
            "PNG + albumentations": lambda: run(
                batch(augmented(*decode(*files[n])) for n in numbers) for numbers in epoch()
            ),
            "albumentations alone, decoded in memory": lambda: run(
                batch(augmented(*samples[n]) for n in numbers) for numbers in epoch()
            ),
            "this project, uint8 (normalised on the device)": lambda: run(loader),
            "this project, normalised to float32 here": lambda: run(
                (normalised(batch.images), batch.targets) for batch in loader
            ),
        }
        milliseconds = side_by_side(contenders)
    rates = {name: 1e3 * IMAGES / time for name, time in milliseconds.items()}
    peer = rates["PNG + albumentations"]
    rows = [[name, rate, rate / peer] for name, rate in rates.items()]
    text = (
        f"{IMAGES} {kind}, {HEIGHT}x{WIDTH} to {CROP}x{CROP}, random scale {SCALE[0]}-{SCALE[1]}, crop or pad, flip,"
        f" brightness, contrast, saturation and hue; batches of {BATCH}, one process, OpenCV and torch on one"
        f" thread.\n\n{markdown_table(['input', 'images/s', 'ratio'], rows)}"
    )
    write_section("Loader", text, ("albumentations", "opencv-python-headless", "numpy", "torch"))


class Classes:
    """A task that learns from the class maps."""

    reads_objects = False

    def targets(self, annotations: Sequence[Annotation]) -> torch.Tensor:
        return torch.from_numpy(np.stack([annotation.classes for annotation in annotations]))


def run(batches: Iterable[object]) -> None:
    """Take every batch and keep none, as training does."""
    deque(batches, maxlen=0)


Samples = list[tuple[np.ndarray, np.ndarray]]


def real_frames() -> tuple[Samples, str] | None:
    """CamVid's frames, where the tests find them too."""
    folder = (
        Path(os.environ.get("SEGMODELS_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
        / "camvid"
    )
    if not folder.is_dir():
        return None
    layout = open_layout("camvid", folder)
    annotated = [(sample, layout.annotation(sample)) for sample in list(layout.samples())[:IMAGES]]
    return [(layout.read_image(sample), own.classes) for sample, own in annotated if own], "CamVid frames"


def scenes() -> Samples:
    sources = split_sources(0)["train"]
    made = (scene(np.random.default_rng(number), sources, WIDTH) for number in range(IMAGES))
    return [(image[:HEIGHT], mask[:HEIGHT]) for image, mask in made]


def write_png(folder: Path, samples: Samples) -> list[tuple[str, str]]:
    files = []
    for number, (image, mask) in enumerate(samples):
        names = str(folder / f"{number}.png"), str(folder / f"{number}-mask.png")
        cv2.imwrite(names[0], image[:, :, ::-1])
        cv2.imwrite(names[1], mask)
        files.append(names)
    return files


def decode(image: str, mask: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = cv2.imread(image, cv2.IMREAD_COLOR_RGB), cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert labels is not None
    return pixels, labels


PIPELINE = A.Compose(
    [
        A.HorizontalFlip(p=0.5),
        A.RandomScale((SCALE[0] - 1, SCALE[1] - 1), p=1),
        A.PadIfNeeded(CROP, CROP, fill_mask=255),
        A.RandomCrop(CROP, CROP),
        A.ColorJitter(JITTER, JITTER, JITTER, 0.1, p=1),
        A.Normalize(),
    ]
)


def augmented(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    made = PIPELINE(image=image, mask=mask)
    return made["image"], made["mask"]


def epoch() -> list[np.ndarray]:
    return np.split(np.random.permutation(IMAGES), IMAGES // BATCH)


def batch(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))


MEAN, STD = (255 * np.array(values, np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
GAIN, OFFSET = (torch.from_numpy(np.tile(values, CROP)) for values in (1 / STD, -MEAN / STD))


BUFFER = torch.empty(BATCH, CROP, 3 * CROP)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Into one buffer, as each batch is used before the next; by rows of pixels, as torch is slow in broadcasting over
    an innermost dimension of three.
    """
    rows = images.permute(0, 2, 3, 1).reshape(BATCH, CROP, 3 * CROP)
    torch.mul(rows, GAIN, out=BUFFER).add_(OFFSET)
    return BUFFER.view(BATCH, CROP, CROP, 3).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
