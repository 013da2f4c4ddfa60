"""predict in the user's formats: GeoTIFF keeps its georeference, labelme and COCO take the results for correction."""

import json
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from small_pipeline import LABELS, write_model

from components.commands.annotation_files import annotation_files
from components.commands.label import label, over_stored_pixels, write_annotation
from components.commands.mask_files import write_large
from components.commands.predict import predict
from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import ORIENTATION, read_pixels
from segmodels.data.geometry import as_stored
from segmodels.data.large_images import open_rows
from segmodels.data.layouts import open_layout
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.results import ClassMap, Instances, PanopticMap

GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    (34737, "s", 0, "WGS 84 / UTM zone 33N|", True),
]
THREE = LabelMap(("background", "road", "tv/monitor"), ((0, 0, 0), (9, 9, 9), (7, 0, 0)), {0: 0, 1: 1, 2: 2})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("formats") / "model", steps=20)


def test_a_volume_among_images_to_be_labelled_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 10, 3), np.uint8), np.eye(4)), tmp_path / "images" / "b.nii.gz")
    with pytest.raises(InputError, match=r"1 of 2 images could not be labelled.*b\.nii\.gz is a volume"):
        label(str(model), tmp_path / "images", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "a.png").is_file()


def test_the_mask_of_a_geotiff_keeps_its_georeference(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "map.tif", pixels, photometric="rgb", extratags=GEO)
    tifffile.imwrite(tmp_path / "images" / "plain.tif", pixels, photometric="rgb")
    predict(str(model), tmp_path / "images", tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "masks" / "map.tif") as file:
        page = file.pages.first
        np.testing.assert_array_equal(page.asarray(), Predictor(load_bundle(model)).masks([pixels])[0])
        assert [page.tags[code].value for code, *_ in GEO] == [value for _, _, _, value, _ in GEO]
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["map.tif", "plain.png"]


def test_world_files_and_projections_are_copied_to_the_masks(model: Path, tmp_path: Path) -> None:
    world = {"a.png": "a.pgw", "b.jpg": "b.JGW", "c.tif": "c.tifw", "turned.jpg": "turned.jgw", "d.bmp": "other.bpw"}
    tag = Image.Exif()
    tag[ORIENTATION] = 6
    for image, file in world.items():
        path = tmp_path / "images" / image
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path, **({"exif": tag} if image == "turned.jpg" else {}))
        (path.parent / file).write_text(f"0.5\n0\n0\n-0.5\n440720\n{len(image)}\n")
    (tmp_path / "images" / "a.prj").write_text("PROJCS[...]")
    predict(str(model), tmp_path / "images", tmp_path / "out")
    masks = tmp_path / "out" / "masks"
    assert {path.name for path in masks.iterdir() if path.suffix != ".png"} == {"a.pgw", "a.prj", "b.pgw", "c.pgw"}
    for image in ("a.png", "b.jpg", "c.tif"):
        found = (masks / image).with_suffix(".pgw").read_text()
        assert found == (tmp_path / "images" / world[image]).read_text()
    with open_rows(tmp_path / "images" / "c.tif") as rows:
        write_large(tmp_path / "large", tmp_path / "images", Path("c.tif"), rows, np.zeros((24, 32), np.uint8), LABELS)
    assert sorted(path.name for path in (tmp_path / "large" / "masks").iterdir()) == ["c.tfw", "c.tif"]


def test_predictions_become_annotations_that_the_layouts_read_again(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("a.png", "deep/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    predict(str(model), tmp_path / "images", tmp_path / "out", annotations="coco")
    rows = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [row["file_name"] for row in rows["images"]] == ["a.png", "deep/b.png"]
    assert [row["name"] for row in rows["categories"]] == list(LABELS.classes)
    (tmp_path / "images" / "coco.json").write_text(json.dumps(rows))
    layout = open_layout("coco_export", tmp_path / "images")
    for sample in layout.samples():
        mask = cv2.imread(str(tmp_path / "out" / "masks" / sample.image), cv2.IMREAD_UNCHANGED)
        found = layout.annotation(sample).classes
        assert mask.ndim == 2 or mask.shape == (*found.shape, 3)
        assert (found > 0).all()  # every pixel has a class of the model; 0 is the layout's background
    predict(str(model), tmp_path / "images", tmp_path / "out", annotations="labelme")
    assert json.loads((tmp_path / "out" / "labelme" / "deep" / "b.json").read_text())["imagePath"].endswith(
        "deep/b.png"
    )
    with pytest.raises(InputError, match="--annotations is 'cvat', expected labelme or coco"):
        predict(str(model), tmp_path / "images", tmp_path / "out", annotations="cvat")


def blobs() -> np.ndarray:
    """A ring of road with a monitor inside and background around the monitor, and a second part of road."""
    classes = np.zeros((120, 160), np.uint8)
    cv2.circle(classes, (60, 60), 45, 1, -1)
    cv2.circle(classes, (60, 60), 30, 0, -1)
    cv2.circle(classes, (60, 60), 15, 2, -1)
    cv2.rectangle(classes, (120, 10), (150, 40), 1, -1)
    return classes


def test_labelme_shows_regions_inside_others_and_reads_back_nearly_the_same(tmp_path: Path) -> None:
    classes = blobs()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*classes.shape, 3), np.uint8))
    files = annotation_files("labelme", tmp_path, tmp_path, THREE)
    files.add(Path("a.png"), classes.shape, ClassMap(classes).regions())
    files.close()
    layout = open_layout("labelme", tmp_path / "labelme")
    assert layout.labels.classes == THREE.classes
    content = json.loads((tmp_path / "labelme" / "a.json").read_text())
    assert content["imagePath"] == "../a.png"
    assert [shape["label"] for shape in content["shapes"]].count("_background_") == 1
    assert max(len(shape["points"]) for shape in content["shapes"]) < 60
    (tmp_path / "labelme" / "a.json").write_text(json.dumps(content | {"imagePath": "a.png"}))
    (tmp_path / "labelme" / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
    layout = open_layout("labelme", tmp_path / "labelme")
    (sample,) = layout.samples()
    found = layout.annotation(sample).classes
    assert (found == classes).mean() > 0.97


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_annotations_of_a_turned_photograph_lie_where_the_layouts_read_it(
    orientation: int, tool: str, tmp_path: Path
) -> None:
    classes = blobs()
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    Image.fromarray(as_stored(classes, orientation) * 100).save(tmp_path / "a.png", exif=tag)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png")[..., 0], classes * 100)  # as predict sees it
    files = annotation_files(tool, tmp_path, tmp_path, THREE)
    files.add(Path("a.png"), classes.shape, ClassMap(classes).regions())
    files.close()
    layout = open_layout({"coco": "coco_export"}.get(tool, tool), tmp_path)
    (sample,) = layout.samples()
    image = layout.read_image(sample)[..., 0] // 100
    assert (layout.annotation(sample).classes == image).mean() > 0.97


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_labels_of_a_turned_photograph_lie_where_layout_folder_reads_it(orientation: int, tmp_path: Path) -> None:
    classes = blobs()
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    photo = tmp_path / "images" / "a.png"
    photo.parent.mkdir()
    Image.fromarray(as_stored(classes, orientation) * 100).save(photo, exif=tag)
    write_annotation(tmp_path, Path("a.png"), over_stored_pixels(Annotation.of_classes(classes), photo), THREE)
    (tmp_path / "classes.txt").write_text("\n".join(THREE.classes))
    layout = open_layout("folder", tmp_path)
    (sample,) = layout.samples()
    np.testing.assert_array_equal(layout.annotation(sample).classes, layout.read_image(sample)[..., 0] // 100)


@pytest.mark.parametrize("kind", ["classes", "instances", "panoptic"])
def test_coco_masks_are_exact_for_every_kind_of_result(kind: str, tmp_path: Path) -> None:
    classes = blobs()
    masks = np.stack([classes == 1, classes == 2])
    result = {
        "classes": ClassMap(classes),
        "instances": Instances.of_masks(masks, [0.9, 0.5], [1, 2]),
        "panoptic": PanopticMap(classes.astype(np.int32), (Segment(1, 1), Segment(2, 2))),
    }[kind]
    files = annotation_files("coco", tmp_path, tmp_path, THREE)
    files.add(Path("a.png"), classes.shape, result.regions())
    files.close()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*classes.shape, 3), np.uint8))
    layout = open_layout("coco_export", tmp_path)
    assert layout.labels.classes == THREE.classes
    (sample,) = layout.samples()
    annotation = layout.annotation(sample)
    np.testing.assert_array_equal(annotation.classes, classes)
    np.testing.assert_array_equal(annotation.masks(), masks)
    scores = [row.get("score") for row in json.loads((tmp_path / "coco.json").read_text())["annotations"]]
    assert scores == ([pytest.approx(0.9), pytest.approx(0.5)] if kind == "instances" else [None, None])
