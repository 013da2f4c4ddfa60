"""The peer of quality.py: a plain loop of segmentation_models.pytorch and albumentations, in an environment of its own.

``python quality_peer.py CAMVID OUT MINUTES SEED [ENCODER WEIGHTS]`` trains U-Net on ResNet-18 (or ENCODER, from a file
of WEIGHTS) as its documentation's examples do, and writes one PNG of class ids per image of the val split.
"""

import random
import sys
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

CLASSES, VOID, BATCH = 11, 11, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Frames(torch.utils.data.Dataset):
    """Image and mask of each line of a list."""

    def __init__(self, camvid: Path, split: str, transform: A.Compose) -> None:
        lines = (camvid / f"{split}.txt").read_text().split("\n")
        names = [Path(line.split()[0]).name for line in lines if line.strip()]
        self.images = [camvid / split / name for name in names]
        self.masks = [camvid / f"{split}annot" / f"{Path(name).stem}.png" for name in names]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.cvtColor(_pixels(self.images[index]), cv2.COLOR_BGR2RGB)
        mask = _pixels(self.masks[index], cv2.IMREAD_UNCHANGED)
        changed = self.transform(image=image, mask=np.where(mask == VOID, 255, mask))
        return torch.from_numpy(changed["image"]).permute(2, 0, 1), torch.from_numpy(changed["mask"]).long()


def _pixels(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    pixels = cv2.imread(str(path), flags)
    assert pixels is not None, path
    return pixels


def main(camvid: Path, out: Path, minutes: float, seed: int, encoder: str = "resnet18", weights: str = "") -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model = smp.Unet(encoder, encoder_weights=None, classes=CLASSES).to(memory_format=torch.channels_last)
    if weights:
        model.encoder.load_state_dict(torch.load(weights, weights_only=True))
    training = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomScale((-0.25, 0.5), p=1),
            A.PadIfNeeded(320, 320, fill_mask=255),
            A.RandomCrop(320, 320),
            A.ColorJitter(0.3, 0.3, 0.3, 0, p=0.8),
            A.Normalize(MEAN, STD),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Frames(camvid, "train", training), BATCH, shuffle=True, drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    start, seconds, steps = time.monotonic(), 60 * minutes, 0
    while (share := (time.monotonic() - start) / seconds) < 1:
        for images, masks in loader:
            share = min((time.monotonic() - start) / seconds, 1)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - share) ** 0.9
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images.to(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits.float(), masks, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if share == 1:
                break
    print(f"peer: {steps} steps, {BATCH * steps / seconds:.1f} images/s, loss {loss.item():.3f}", file=sys.stderr)
    model.eval()
    frames = Frames(camvid, "val", A.Compose([A.PadIfNeeded(None, None, 32, 32), A.Normalize(MEAN, STD)]))
    with torch.no_grad():
        for number, path in enumerate(frames.images):
            image, _ = frames[number]
            height, width = _pixels(path).shape[:2]
            top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
            classes = model(image[None]).argmax(1)[0, top : top + height, left : left + width]
            cv2.imwrite(str(out / f"{path.stem}.png"), classes.byte().numpy())


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]), Path(arguments[1]), float(arguments[2]), int(arguments[3]), *arguments[4:])
