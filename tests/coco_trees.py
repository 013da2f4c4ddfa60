"""Trees of COCO and of what annotation tools export."""

import base64
import json
import zlib
from pathlib import Path

import cv2
import numpy as np
from tree_files import SIZE, VOC_PALETTE, halves, photo, save, tree, write_text


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


def coco_pixel_maps(root: Path) -> Path:
    """As stuff_annotations_trainval2017.zip unpacks into a folder of its own name: wall-wood, things, and no label."""
    for split in ("train", "val"):
        photo(root / f"{split}2017" / "000000000139.jpg")
        mask = halves(177, 183)
        mask[0] = 0
        home = root / "stuff_annotations_trainval2017" / "annotations"
        save(home / f"stuff_{split}2017_pixelmaps" / "000000000139.png", mask)
        write_text(home / f"stuff_{split}2017.json", "{}")
    return root


@tree("voc_export")
def cvat_masks(root: Path) -> Path:
    """CVAT's Segmentation mask 1.1: two cats, a dog."""
    colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
    classes, objects = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    classes[4:8], classes[10:12] = 2, 1
    objects[4:8, :9], objects[4:8, 9:], objects[10:12] = 1, 2, 3
    for name in ("frame 1", "frame 2"):
        photo(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", colors[classes])
        save(root / "SegmentationObject" / f"{name}.png", VOC_PALETTE[objects].astype(np.uint8))
    lines = [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "dog:250,50,83::",
        "große Katze, alt:51,221,255::",
    ]
    write_text(root / "labelmap.txt", "\n".join(lines) + "\n")
    write_text(root / "ImageSets" / "Segmentation" / "default.txt", "frame 1\nframe 2\n")
    return root


@tree("supervisely")
def supervisely_project(root: Path) -> Path:
    """A polygon with a hole, a bitmap partly over it, a rectangle, and a point."""
    blob = np.zeros((4, 6, 4), np.uint8)
    blob[..., 3], blob[0, 0] = 255, 0
    _, png = cv2.imencode(".png", blob)
    corners = [[2, 2], [11, 2], [11, 9], [2, 9]]
    shapes = [
        {"classTitle": "große Katze", "geometryType": "polygon", "points": {"exterior": corners}},
        {"classTitle": "dog", "geometryType": "bitmap"},
        {
            "classTitle": "dog",
            "geometryType": "rectangle",
            "points": {"exterior": [[20, 20], [24, 23]]},
        },
        {"classTitle": "nose", "geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}},
    ]
    shapes[0]["points"]["interior"] = [[[4, 4], [5, 4], [5, 5], [4, 5]]]
    shapes[1]["bitmap"] = {"data": base64.b64encode(zlib.compress(png.tobytes())).decode(), "origin": [8, 6]}
    content = {"description": "", "tags": [], "size": {"height": SIZE[0], "width": SIZE[1]}, "objects": shapes}
    for dataset in ("ds1", "ds2"):
        for name in ("a.jpg", "b.png"):
            photo(root / dataset / "img" / name)
            write_text(root / dataset / "ann" / f"{name}.json", json.dumps(content))
    titles = {"große Katze": "#33DDFF", "dog": "#FA3253", "nose": "#000001"}
    rows = [{"title": title, "shape": "any", "color": color} for title, color in titles.items()]
    write_text(root / "meta.json", json.dumps({"classes": rows, "tags": []}))
    return root
