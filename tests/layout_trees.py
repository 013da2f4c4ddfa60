"""Small datasets in exactly the trees in which their authors publish them; each function returns the root."""

import json
from pathlib import Path

import numpy as np
import scipy.io
from coco_trees import (
    coco_instances,
    coco_panoptic,
    coco_pixel_maps,
    coco_rows,
    coco_stuff,
    cvat,
    cvat_masks,
    labelme,
    roboflow,
    supervisely,
    supervisely_project,
)
from medical_trees import brats, brats2023, dsb2018, isbi2012, isbi2012_stacks, nifti, ph2
from street_trees import (
    camvid,
    camvid32,
    cityscapes,
    cityscapes_polygons,
    synthia,
    synthia_al,
    synthia_rand,
    synthia_seqs,
    synthia_sf,
)
from tree_files import (
    RNG,
    SIZE,
    TREES,
    VOC_PALETTE,
    halves,
    histogram,
    objects,
    opened,
    pairs,
    photo,
    png_in_base64,
    save,
    save_nifti,
    tree,
    write_text,
)

__all__ = [
    "RNG",
    "SIZE",
    "TREES",
    "VOC_PALETTE",
    "ade20k",
    "ade20k_2021",
    "ade20k_full",
    "ade20k_instances",
    "apsis",
    "brats",
    "brats2023",
    "camvid",
    "camvid32",
    "cityscapes",
    "cityscapes_polygons",
    "coco_instances",
    "coco_panoptic",
    "coco_pixel_maps",
    "coco_rows",
    "coco_stuff",
    "cvat",
    "cvat_masks",
    "dsb2018",
    "eg1800",
    "folder",
    "halves",
    "histogram",
    "isbi2012",
    "isbi2012_stacks",
    "labelme",
    "mads",
    "nifti",
    "objects",
    "opened",
    "pairs",
    "ph2",
    "photo",
    "png_in_base64",
    "roboflow",
    "save",
    "save_nifti",
    "sbd",
    "supervisely",
    "supervisely_project",
    "synthia",
    "synthia_al",
    "synthia_rand",
    "synthia_seqs",
    "synthia_sf",
    "tree",
    "voc2012",
    "write_text",
]


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


@tree("folder")
def folder(root: Path) -> Path:
    for number in range(3):
        photo(root / "images" / f"{number}.png")
        save(root / "masks" / f"{number}.png", halves(0, 1))
    write_text(root / "classes.txt", "ground\nroad, 1\n")
    return root


@tree("ade20k_2021")
def ade20k_2021(root: Path) -> Path:
    """A building (class 312) with a door, and two windows (class 5) of one class and of no other number than blue."""
    for split, short in (("training", "train"), ("validation", "val")):
        home = root / "ADE20K_2021_17_01" / "images" / "ADE" / split / "urban" / "street"
        name = f"ADE_{short}_00016869"
        seg, parts = np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)
        seg[4:], seg[6:10, 4:8], seg[6:10, 20:24] = (10, 56, 60), (0, 5, 60), (0, 5, 250)
        parts[12:20, 12:16] = (30, 6, 90)
        photo(home / f"{name}.jpg")
        save(home / f"{name}_seg.png", seg)
        save(home / f"{name}_parts_1.png", parts)
        save(home / f"{name}_parts_2.png", parts // 30 * 10)  # class 256 + 0
        rows = [("building, edifice", 312, 0), ("window", 5, 0), ("window", 5, 0), ("door", 774, 1), ("handle", 9, 1)]
        rows += [("hidden", 7, 0), ("knob", 256, 2), ("hinge", 8, 2), ("-", [], 0)]
        listed = [
            {"id": number, "name": name, "raw_name": "raw", "name_ndx": index, "parts": {"part_level": level}}
            for number, (name, index, level) in enumerate(rows)
        ]
        write_text(home / f"{name}.json", json.dumps({"annotation": {"object": listed}}))
        save(home / name / f"instance_000_{name}.png", halves(0, 255))
    return root


@tree("ade20k_instances")
def ade20k_instances(root: Path) -> Path:
    """A bed (1), and two flags (100)."""
    for split, short in (("training", "train"), ("validation", "val")):
        name = f"{split}/ADE_{short}_00000001"
        photo(root / "images" / f"{name}.jpg")
        mask = np.zeros((*SIZE, 3), np.uint8)
        mask[2:6, 2:10], mask[8:12, 2:4], mask[8:12, 4:6] = (1, 1, 0), (100, 2, 0), (100, 3, 0)
        save(root / "annotations_instance" / f"{name}.png", mask)
    return root
