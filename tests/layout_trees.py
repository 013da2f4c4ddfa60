"""Small datasets in exactly the trees in which their authors publish them; each function returns the root."""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from PIL import Image

from segmodels.annotations import Annotation
from segmodels.data.classes_file import distinct_colors
from segmodels.data.layouts import Layout, Sample, open_layout

RNG = np.random.default_rng(5)
SIZE = (24, 32)
TREES: dict[str, Callable[[Path], Path]] = {}
"""Layout -> the function that writes a tree of it."""


def tree(name: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def add(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
        TREES[name] = write
        return write

    return add


def save(path: Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        cv2.imwrite(str(path), pixels[:, :, ::-1])
        return
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    save(path, RNG.integers(0, 256, (*size, 3), dtype=np.uint8))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def halves(left: int, right: int, dtype: type = np.uint8) -> np.ndarray:
    """A map of two values; the right one covers the last 8 of 32 columns."""
    mask = np.full(SIZE, left, dtype)
    mask[:, 24:] = right
    return mask


def opened(name: str, root: Path) -> tuple[Layout, list[Sample], Annotation]:
    """The layout, its samples, and the annotation of the first."""
    layout = open_layout(name, root)
    samples = list(layout.samples())
    annotation = layout.annotation(samples[0])
    assert annotation is not None
    return layout, samples, annotation


def histogram(layout: Layout, annotation: Annotation) -> dict[str, int]:
    """Pixels of each class by name, and of void."""
    counts = Counter(annotation.classes.ravel().tolist())
    return {
        "void" if train == layout.labels.ignore_index else layout.labels.classes[train]: n
        for train, n in counts.items()
    }


def objects(layout: Layout, annotation: Annotation) -> list[tuple[str, int, bool]]:
    """Class, pixels and crowd flag of each object."""
    masks = annotation.masks()
    return [
        (layout.labels.classes[segment.label], int(mask.sum()), segment.crowd)
        for segment, mask in zip(annotation.segments, masks, strict=True)
    ]


VOC_PALETTE = np.array(distinct_colors(256))


@tree("voc2012")
def voc2012(root: Path) -> Path:
    """Two photos for training and one for val: two people that touch a bottle, void between them."""
    home = root / "VOCdevkit" / "VOC2012"
    classes = np.zeros(SIZE, np.uint8)
    classes[4:12, 4:10], classes[4:12, 10:16], classes[4:12, 20:24] = 15, 15, 5
    classes[3, 4:16] = 255
    objects = np.zeros(SIZE, np.uint8)
    objects[4:12, 4:10], objects[4:12, 10:16], objects[4:12, 20:24] = 1, 2, 3
    objects[3, 4:16] = 255
    for name in ("2007_000032", "2007_000039", "2007_000033"):
        photo(home / "JPEGImages" / f"{name}.jpg")
        save(home / "SegmentationClass" / f"{name}.png", classes, VOC_PALETTE)
        save(home / "SegmentationObject" / f"{name}.png", objects, VOC_PALETTE)
    photo(home / "JPEGImages" / "2007_000027.jpg")  # of the detection challenge: no mask
    photo(home / "JPEGImages" / "2008_000001.jpg")
    lists = home / "ImageSets" / "Segmentation"
    write_text(lists / "train.txt", "2007_000032\r\n2007_000039\r\n")
    write_text(lists / "val.txt", "2007_000033\n")
    write_text(lists / "trainval.txt", "2007_000032\n2007_000033\n2007_000039\n")
    write_text(lists / "test.txt", "2008_000001\n")
    return root


@tree("sbd")
def sbd(root: Path) -> Path:
    """A photo for training and one for val: two people and a bottle."""
    home = root / "benchmark_RELEASE" / "dataset"
    objects = np.zeros(SIZE, np.uint8)
    objects[4:12, 4:10], objects[4:12, 10:16], objects[4:12, 20:24] = 1, 2, 3
    classes = np.array([0, 15, 15, 5], np.uint8)[objects]
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        photo(home / "img" / f"{name}.jpg")
        for folder in ("cls", "inst"):
            (home / folder).mkdir(exist_ok=True)
        outlines = np.full((20, 1), 0, object)
        categories = np.array([[15], [15], [5]], np.uint8)
        scipy.io.savemat(home / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": classes, "Boundaries": outlines}})
        scipy.io.savemat(home / "inst" / f"{name}.mat", {"GTinst": {"Segmentation": objects, "Categories": categories}})
        write_text(home / f"{split}.txt", f"{name}\n")
    return root


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


def coco_rows(name: str = "000000000139.jpg") -> dict:
    """A person as a polygon, a dog in compressed runs, a crowd in plain runs; the person and the dog overlap."""
    from pycocotools import mask

    dog = np.zeros(SIZE, np.uint8)
    dog[8:12, 4:10] = 1
    crowd = np.zeros(SIZE, np.uint8)
    crowd[16:, 20:] = 1
    runs = mask.encode(np.asfortranarray(dog))
    flat = np.concatenate([[0], crowd.ravel(order="F"), [0]])
    starts = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], starts, [crowd.size]])).tolist()
    polygon = [[2, 4, 8, 4, 8, 12, 2, 12]]
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": 139, "file_name": name, "height": SIZE[0], "width": SIZE[1]},
            {"id": 140, "file_name": name.replace("139", "140"), "height": SIZE[0], "width": SIZE[1]},
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ],
        "annotations": [
            {"id": 1, "image_id": 139, "category_id": 1, "iscrowd": 0, "segmentation": polygon, "area": 48.0}
            | {"bbox": [2.0, 4.0, 6.0, 8.0]},
            {"id": 2, "image_id": 139, "category_id": 18, "iscrowd": 0, "area": 24, "bbox": [4, 8, 6, 4]}
            | {"segmentation": {"size": list(SIZE), "counts": runs["counts"].decode()}},
            {"id": 3, "image_id": 139, "category_id": 1, "iscrowd": 1, "area": 96, "bbox": [20, 16, 12, 8]}
            | {"segmentation": {"size": list(SIZE), "counts": counts}},
        ],
    }


@tree("coco")
def coco_panoptic(root: Path) -> Path:
    """Panoptic maps of two splits: a person (id 70000), a crowd of people (id 300), grass, and void."""
    categories = [
        {"id": 1, "name": "person", "supercategory": "person", "isthing": 1, "color": [220, 20, 60]},
        {"id": 193, "name": "grass-merged", "supercategory": "plant", "isthing": 0, "color": [152, 251, 152]},
    ]
    ids = np.zeros(SIZE, np.int32)
    ids[12:], ids[4:12, 2:8], ids[16:, 20:] = 5, 70000, 300
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    infos = [
        {"id": 70000, "category_id": 1, "iscrowd": 0, "area": 48, "bbox": [2, 4, 6, 8]},
        {"id": 300, "category_id": 1, "iscrowd": 1, "area": 96, "bbox": [20, 16, 12, 8]},
        {"id": 5, "category_id": 193, "iscrowd": 0, "area": 288, "bbox": [0, 12, 32, 12]},
    ]
    for split, number in (("train", 9), ("val", 139)):
        name = f"{number:012}"
        photo(root / f"{split}2017" / f"{name}.jpg")
        save(root / "annotations" / f"panoptic_{split}2017" / f"{name}.png", colors)
        rows = {
            "images": [{"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}],
            "annotations": [{"image_id": number, "file_name": f"{name}.png", "segments_info": infos}],
            "categories": categories,
        }
        write_text(root / "annotations" / f"panoptic_{split}2017.json", json.dumps(rows))
    return root


def coco_instances(root: Path) -> Path:
    for split in ("train", "val"):
        for number in (139, 140):
            photo(root / f"{split}2017" / f"{number:012}.jpg")
        write_text(root / "annotations" / f"instances_{split}2017.json", json.dumps(coco_rows()))
    return root


def coco_stuff(root: Path) -> Path:
    for split in ("train", "val"):
        photo(root / "images" / f"{split}2017" / "000000000139.jpg")
        mask = halves(0, 181)
        mask[0] = 255
        save(root / "annotations" / f"{split}2017" / "000000000139.png", mask)
    return root


@tree("coco_export")
def cvat(root: Path) -> Path:
    for number in (139, 140):
        photo(root / "images" / f"{number:012}.jpg")
    write_text(root / "annotations" / "instances_default.json", json.dumps(coco_rows()))
    return root


def roboflow(root: Path) -> Path:
    rows = coco_rows("a_139.jpg")
    rows["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    for row in rows["categories"][1:]:
        row["supercategory"] = "animals"
    for split in ("train", "valid", "test"):
        for number in (139, 140):
            photo(root / split / f"a_{number}.jpg")
        write_text(root / split / "_annotations.coco.json", json.dumps(rows))
    return root


def supervisely(root: Path) -> Path:
    for number in (139, 140):
        photo(root / "ds0" / "images" / f"{number:012}.jpg")
    write_text(root / "ds0" / "annotations" / "instances.json", json.dumps(coco_rows()))
    return root


@tree("ade20k")
def ade20k(root: Path) -> Path:
    home = root / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        name = f"{split}/ADE_{short}_00000001"
        photo(home / "images" / f"{name}.jpg")
        mask = halves(1, 150)
        mask[0] = 0
        save(home / "annotations" / f"{name}.png", mask)
    write_text(home / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName\n")
    return root


@tree("ade20k_full")
def ade20k_full(root: Path) -> Path:
    """A building with a door, and two windows of which only one is in the other picture; blue values have gaps."""
    for split, short in (("training", "train"), ("validation", "val")):
        home = root / "ADE20K_2016_07_26" / "images" / split / "a" / "abbey"
        seg, parts = np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)
        seg[4:], seg[6:10, 4:8], seg[6:10, 20:24] = (10, 44, 60), (120, 5, 120), (120, 5, 250)
        parts[12:20, 12:16] = (30, 7, 90)
        name = f"ADE_{short}_00000970"
        photo(home / f"{name}.jpg")
        save(home / f"{name}_seg.png", seg)
        save(home / f"{name}_parts_1.png", parts)
        rows = ('001 # 0 # 0 # building, edifice # building # ""', '002 # 0 # 0 # window # window # "open"')
        rows += ('003 # 0 # 1 # window # window # ""', '001 # 1 # 0 # door # door # ""')
        rows += ('002 # 1 # 0 # handle # handle # ""',)
        write_text(home / f"{name}_atr.txt", "\n".join(rows) + "\n")
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


@tree("dsb2018")
def dsb2018(root: Path) -> Path:
    """Three nuclei, two of which overlap."""
    for name in ("0a" * 32, "1b" * 32):
        home = root / "stage1_train" / name
        save(home / "images" / f"{name}.png", RNG.integers(0, 256, (*SIZE, 4), dtype=np.uint8))
        for number, (rows, columns) in enumerate(
            ((slice(2, 8), slice(2, 8)), (slice(6, 12), slice(6, 12)), (slice(16, 20), slice(20, 30)))
        ):
            mask = np.zeros(SIZE, np.uint8)
            mask[rows, columns] = 255
            save(home / "masks" / f"{number:064}.png", mask)
    return root


@tree("isbi2012")
def isbi2012(root: Path) -> Path:
    home = root / "data" / "membrane"
    for number in range(3):
        save(home / "train" / "image" / f"{number}.png", RNG.integers(0, 256, SIZE, dtype=np.uint8))
        save(home / "train" / "label" / f"{number}.png", halves(255, 0))
        save(home / "test" / f"{number}.png", RNG.integers(0, 256, SIZE, dtype=np.uint8))
    return root


def isbi2012_stacks(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train-volume", "test-volume", "train-labels"):
        pages = [halves(255, 0) if "labels" in name else np.full(SIZE, 60 * page, np.uint8) for page in range(3)]
        first, *others = (Image.fromarray(page) for page in pages)
        first.save(root / f"{name}.tif", save_all=True, append_images=others)
    return root


@tree("ph2")
def ph2(root: Path) -> Path:
    home = root / "PH2Dataset"
    for number, name in enumerate(("IMD002", "IMD003", "IMD437")):
        photo(home / "PH2 Dataset images" / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        mask = halves(0, 255)
        lesion = home / "PH2 Dataset images" / name / f"{name}_lesion" / f"{name}_lesion.bmp"
        save(lesion, np.repeat(mask[:, :, None], 3, axis=2) if number == 0 else mask > 0)
        save(home / "PH2 Dataset images" / name / f"{name}_roi" / f"{name}_R1_Label3.bmp", mask > 0)
    table = (
        "|| Name   || Histological Diagnosis || Clinical Diagnosis || Asymmetry ||\n"
        "|| IMD002 ||                        || 0                  || 0         ||\n"
        "|| IMD003 || Common Nevus           || 1                  || 0         ||\n"
        "|| IMD437 || Melanoma               || 2                  || 2         ||\n"
        "\nLegend:\nClinical Diagnosis:\t0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n"
    )
    write_text(home / "PH2_dataset.txt", table)
    return root


@tree("mads")
def mads(root: Path) -> Path:
    folder = "segmentation_full_body_mads_dataset_1192_img"
    home = root / folder / folder
    for name in ("HipHop_HipHop1_C0_00180", "HipHop_HipHop1_C1_00225", "Kata_Kata2_C0_00045", "Jazz_Jazz1_C0_00045"):
        photo(home / "images" / f"{name}.png")
        save(home / "masks" / f"{name}.png", np.repeat(halves(0, 255)[:, :, None], 3, axis=2))
        photo(home / "collages" / f"{name}.jpg")
    write_text(root / folder / "df.csv", "images,masks,collages\n")
    return root


@tree("apsis")
def apsis(root: Path) -> Path:
    """Numbers 1 to 4 on the lists; the photographs of 2 and 4 are gone."""
    for number in (1, 3):
        photo(root / "images_data_crop" / f"{number:05}.jpg")
    (root / "images_mask").mkdir()
    for number in (1, 2, 3, 4):
        scipy.io.savemat(root / "images_mask" / f"{number:05}_mask.mat", {"mask": halves(0, 1)})
    scipy.io.savemat(root / "trainlist.mat", {"trainlist": np.array([[1, 2]])})
    scipy.io.savemat(root / "testlist.mat", {"testlist": np.array([[3, 4]])})
    return root


def eg1800(root: Path) -> Path:
    for number in (1, 2):
        photo(root / "EG1800" / "images_data_crop" / f"{number:05}.jpg")
        save(root / "EG1800" / "GT_png" / f"{number:05}_mask.png", halves(0, 255))
    write_text(root / "EG1800" / "eg1800_train.txt", "00001.jpg\n00009.jpg\n")
    write_text(root / "EG1800" / "eg1800_val.txt", "00002.jpg\n")
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


@tree("labelme")
def labelme(root: Path) -> Path:
    """Two polygons of one group, a rectangle over a part of them, an ignored circle."""
    shapes = [
        {"label": "cat", "points": [[2, 2], [8, 2], [8, 8], [2, 8]], "group_id": 1, "shape_type": "polygon"},
        {"label": "cat", "points": [[12, 2], [14, 2], [14, 4], [12, 4]], "group_id": 1, "shape_type": "polygon"},
        {"label": "tv/monitor", "points": [[10, 10], [6, 6]], "group_id": None, "shape_type": "rectangle"},
        {"label": "__ignore__", "points": [[26, 18], [28, 18]], "group_id": None, "shape_type": "circle"},
    ]
    for number in range(3):
        content = {"version": "5", "imagePath": f"{number}.jpg", "imageData": None, "shapes": shapes}
        photo(root / f"{number}.jpg")
        write_text(
            root / f"{number}.json", json.dumps(content | {"imageHeight": SIZE[0], "imageWidth": SIZE[1], "flags": {}})
        )
    return root


def png_in_base64(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def save_nifti(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (0.8, 0.9, 2.0)) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)


@tree("nifti")
def nifti(root: Path) -> Path:
    for number in range(3):
        volume = np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4)
        labels = np.zeros((6, 5, 4), np.uint8)
        labels[2:4, 1:3, 3] = 1
        save_nifti(root / "imagesTr" / f"la_{number:03}.nii.gz", volume)
        save_nifti(root / "labelsTr" / f"la_{number:03}.nii.gz", labels)
    write_text(root / "dataset.json", json.dumps({"labels": {"0": "background", "1": "left atrium"}}))
    return root


@tree("brats")
def brats(root: Path) -> Path:
    for case in ("brats_2013_pat0005_1", "brats_2013_pat0006_1"):
        home = root / "brats2015TrainingData" / "train" / case
        labels = np.zeros((6, 5, 4), np.float32)
        labels[2, 2, 1], labels[3, 2, 2] = 4, 2
        for number, part in enumerate(("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "OTMultiClass", "brainmask")):
            save_nifti(home / f"{part}.nii.gz", labels if number == 2 else np.full((6, 5, 4), number, np.float32))
        write_text(home / "License_CC_BY_NC_SA_3.0.txt", "CC BY-NC-SA 3.0\n")
    return root


@tree("folder")
def folder(root: Path) -> Path:
    for number in range(3):
        photo(root / "images" / f"{number}.png")
        save(root / "masks" / f"{number}.png", halves(0, 1))
    write_text(root / "classes.txt", "ground\nroad, 1\n")
    return root
