"""Trees of street scenes."""

import json
from pathlib import Path

import numpy as np
from tree_files import SIZE, halves, photo, save, tree, write_text


@tree("cityscapes")
def cityscapes(root: Path) -> Path:
    """A road with two cars, a group of people without numbers, a caravan, and the ego vehicle."""
    ids = np.full(SIZE, 7, np.uint8)
    ids[0:4], ids[20:] = 23, 1
    ids[8:12, 2:8], ids[8:12, 8:14], ids[6:8, 20:30], ids[14:18, 20:30] = 26, 26, 24, 29
    numbers = ids.astype(np.uint16)
    numbers[8:12, 2:8], numbers[8:12, 8:14], numbers[14:18, 20:30] = 26000, 26001, 29000
    for split, city in (("train", "aachen"), ("val", "frankfurt"), ("test", "berlin")):
        frame = f"{split}/{city}/{city}_000000_000019"
        photo(root / "leftImg8bit" / f"{frame}_leftImg8bit.png")
        void = split == "test"
        save(root / "gtFine" / f"{frame}_gtFine_labelIds.png", np.ones(SIZE, np.uint8) if void else ids)
        save(root / "gtFine" / f"{frame}_gtFine_instanceIds.png", np.ones(SIZE, np.uint16) if void else numbers)
        save(root / "gtFine" / f"{frame}_gtFine_color.png", np.zeros((*SIZE, 4), np.uint8))
        write_text(root / "gtFine" / f"{frame}_gtFine_polygons.json", '{"objects": []}')
    return root


@tree("camvid")
def camvid(root: Path) -> Path:
    for split in ("train", "val", "test"):
        photo(root / split / "0001TP_006690.png")
        save(root / f"{split}annot" / "0001TP_006690.png", halves(3, 11))
        line = f"/SegNet/CamVid/{split}/0001TP_006690.png /SegNet/CamVid/{split}annot/0001TP_006690.png"
        write_text(root / f"{split}.txt", line)
    return root


@tree("camvid32")
def camvid32(root: Path) -> Path:
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[4:], colors[:, 24:] = (128, 64, 128), (192, 0, 192)
    for name in ("0001TP_006690", "0006R0_f00930", "0016E5_00390", "Seq05VD_f00000"):
        photo(root / "701_StillsRaw_full" / f"{name}.png")
        save(root / "LabeledApproved_full" / f"{name}_L.png", colors)
    write_text(root / "label_colors.txt", "64 128 64\tAnimal\n")
    return root


@tree("synthia")
def synthia(root: Path) -> Path:
    """A road (3) with lane markings (22), two cars (8) and terrain (16)."""
    labels = np.zeros((*SIZE, 3), np.uint16)
    labels[..., 0] = 3
    labels[0], labels[:, 30:, 0] = 0, 22
    labels[4:8, 2:6], labels[4:8, 6:10], labels[20:, :, 0] = (8, 7, 0), (8, 300, 0), 16
    for number in range(3):
        photo(root / "RAND_CITYSCAPES" / "RGB" / f"{number:07}.png")
        save(root / "RAND_CITYSCAPES" / "GT" / "LABELS" / f"{number:07}.png", labels)
        save(root / "RAND_CITYSCAPES" / "GT" / "COLOR" / f"{number:07}.png", np.zeros((*SIZE, 3), np.uint8))
    return root


@tree("synthia_rand")
def synthia_rand(root: Path) -> Path:
    ids = halves(3, 11)
    ids[0], ids[1] = 0, 12
    for number in range(3):
        photo(root / "RGB" / f"ap_{number}.png")
        photo(root / "GT" / f"ap_{number}.png")
        write_text(root / "GTTXT" / f"ap_{number}.txt", "\n".join(" ".join(map(str, row)) for row in ids))
    return root


def cityscapes_polygons(root: Path) -> Path:
    """What ``cityscapes`` draws, as polygons alone."""
    cityscapes(root)
    for path in [*root.glob("gtFine/*/*/*.png")]:
        path.unlink()
    boxes = [("road", 0, 0, 31, 23), ("sky", 0, 0, 31, 3), ("ego vehicle", 0, 20, 31, 23), ("car", 2, 8, 7, 11)]
    boxes += [("car", 8, 8, 13, 11), ("persongroup", 20, 6, 29, 7), ("caravan", 20, 14, 29, 17)]
    boxes += [("license plate", 4, 10, 6, 11)]
    shapes = [
        {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}
        for label, left, top, right, bottom in boxes
    ]
    shapes.append({"label": "train", "polygon": [[0, 0], [9, 0], [9, 9]], "deleted": 1})
    for path in root.glob("gtFine/*/*/*.json"):
        path.write_text(json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": shapes}))
    return root


@tree("synthia_seqs")
def synthia_seqs(root: Path) -> Path:
    """A road with two cars and lane markings (12), which are a motorcycle in ``synthia``."""
    labels = np.zeros((*SIZE, 3), np.uint16)
    labels[..., 0] = 3
    labels[0], labels[:, 30:, 0], labels[4:8, 2:6], labels[4:8, 6:10] = 0, 12, (8, 7, 0), (8, 300, 0)
    for sequence in ("SYNTHIA-SEQS-01-DAWN", "SYNTHIA-SEQS-01-FALL", "SYNTHIA-SEQS-02-FOG"):
        for place in ("Stereo_Left/Omni_F", "Stereo_Right/Omni_B"):
            photo(root / sequence / "RGB" / place / "000000.png")
            save(root / sequence / "GT" / "LABELS" / place / "000000.png", labels)
            save(root / sequence / "GT" / "COLOR" / place / "000000.png", np.zeros((*SIZE, 3), np.uint8))
            save(root / sequence / "Depth" / place / "000000.png", np.zeros((*SIZE, 3), np.uint16))
    return root


@tree("synthia_sf")
def synthia_sf(root: Path) -> Path:
    """Ids in red in one frame, colours in the other: void, road, and cars."""
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[4:, :, 0], ids[:, 24:] = 1, (14, 3, 0)
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[4:], colors[:, 24:] = (128, 64, 128), (0, 0, 142)
    for sequence, mask in (("SEQ1", ids), ("SEQ2", colors)):
        for side in ("Left", "Right"):
            photo(root / "SYNTHIA-SF" / sequence / f"RGB{side}" / "0000000.png")
            save(root / "SYNTHIA-SF" / sequence / f"GT{side}" / "0000000.png", mask)
            photo(root / "SYNTHIA-SF" / sequence / f"Depth{side}" / "0000000.png")
    return root


@tree("synthia_al")
def synthia_al(root: Path) -> Path:
    """Sky over a road."""
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:10], colors[10:20] = (128, 128, 128), (128, 64, 128)
    for split, sequence in (("train", "seq1"), ("train", "seq2"), ("test", "seq3")):
        home = root / "SYNTHIA-AL" / split / sequence / "2018-12-13_20-27-23"
        for frame in ("000000", "000001"):
            photo(home / "RGB" / f"{frame}.png")
            save(home / "SemSeg" / f"{frame}.png", colors)
            photo(home / "Depth" / f"{frame}.png")
    return root
