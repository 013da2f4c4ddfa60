"""Folders of one's own as people have them, and what file managers leave in them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import SIZE, halves, histogram, objects, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError

Write = Callable[[Path], None]


def leftovers(root: Path) -> None:
    trees.pairs(root, "images/{}.jpg", "masks/{}.png")
    for name in (
        "images/Thumbs.db",
        "images/.DS_Store",
        "masks/desktop.ini",
        "__MACOSX/images/._a.jpg",
        "images/._b.jpg",
    ):
        trees.write_text(root / name, "none")
    for name in ("images/.ipynb_checkpoints/a-checkpoint.jpg", "images/@eaDir/a.jpg", "masks/__MACOSX/._a.png"):
        trees.photo(root / name)


def splits(image: str, mask: str) -> Write:
    def make(root: Path) -> None:
        for split in ("train", "valid", "test"):
            trees.pairs(root, image.replace("S", split), mask.replace("S", split))

    return make


def test_masks_that_are_no_pictures_are_named_and_an_empty_folder_is_passed_over(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "masks").rename(tmp_path / "labels")
    (tmp_path / "masks").mkdir()
    assert next(iter(open_layout("folder", tmp_path).samples())).files == ("labels/a.png",)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(InputError, match=r"has no mask in masks/, which holds no files, expected pictures"):
        open_layout("folder", tmp_path)
    for name in "abc":
        np.save(tmp_path / "masks" / f"{name}.npy", halves(0, 1))
    assert find_layout(tmp_path) == "folder"
    with pytest.raises(InputError, match=r"no mask in masks/, which holds files ending in \['\.npy'\], expected pict"):
        open_layout("folder", tmp_path)


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (lambda root: trees.pairs(root, "images/{}.jpg", "masks/{}_mask.png"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "images/{}.JPG", "masks/{}.PNG"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "images/{}.jpeg", "labels/{}.tif"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "images/{}_1.jpg", "masks/{}_1 - label.bmp"), {None: "a_1 b_1 c_1"}),
        (leftovers, {None: "a b c"}),
        (
            splits("images/S/{}.jpg", "masks/S/{}.png"),
            {"train": "train/a train/b train/c", "val": "valid/a valid/b valid/c", "test": "test/a test/b test/c"},
        ),
        (
            splits("S/images/{}.jpg", "S/masks/{}_mask.png"),
            {"train": "train/a train/b train/c", "val": "valid/a valid/b valid/c", "test": "test/a test/b test/c"},
        ),
        (lambda root: trees.pairs(root, "Images/{}.jpg", "Masks/{}.png"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "imgs/{}.jpg", "gts/{}.png"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "RGB/{}.png", "GT/{}.png"), {None: "a b c"}),
        (lambda root: trees.pairs(root, "Original/{}.tif", "Ground Truth/{}.tif"), {None: "a b c"}),
        (
            splits("img_dir/S/{}.jpg", "ann_dir/S/{}.png"),
            {"train": "train/a train/b train/c", "val": "valid/a valid/b valid/c", "test": "test/a test/b test/c"},
        ),
        (
            splits("S/image/{}.png", "S/label/{}.png"),
            {"train": "train/a train/b train/c", "val": "valid/a valid/b valid/c", "test": "test/a test/b test/c"},
        ),
        (
            lambda root: [
                trees.pairs(root, f"images/{split}/{{}}.jpg", f"annotations/{split}/{{}}.png")
                for split in ("training", "validation")
            ],
            {"train": "training/a training/b training/c", "val": "validation/a validation/b validation/c"},
        ),
    ],
    ids=[
        *("ending", "upper case", "labels", "long ending", "leftovers", "splits below", "splits above"),
        *("capitals", "mmseg's tests", "as SYNTHIA-RAND", "as CVC-ClinicDB", "mmseg", "as membrane", "as ADE20K"),
    ],
)
def test_images_and_masks_are_paired(make: Write, ids: dict[str | None, str], tmp_path: Path) -> None:
    make(tmp_path)
    assert find_layout(tmp_path) == "folder"
    _, samples, annotation = opened("folder", tmp_path)
    assert {split: [one.id for one in samples if one.split == split] for split in ids} == {
        split: names.split() for split, names in ids.items()
    }
    assert len(samples) == sum(len(names.split()) for names in ids.values())
    np.testing.assert_array_equal(annotation.classes, halves(0, 1))


@pytest.mark.parametrize("image", ["S/images/{}.jpg", "images/S/{}.jpg"])
def test_a_test_split_without_any_mask_is_left_out_and_one_of_some_masks_is_not(image: str, tmp_path: Path) -> None:
    splits(image, image.replace("images", "masks").replace("jpg", "png"))(tmp_path)
    hidden = sorted(path for path in tmp_path.rglob("*.png") if "test" in path.parts)
    for path in hidden[1:]:
        path.unlink()
    layout = open_layout("folder", tmp_path)
    with pytest.raises(InputError, match=r"2 files in .* have no mask"):
        list(layout.samples())
    hidden[0].unlink()
    assert {sample.split for sample in layout.samples()} == {"train", "val"}
    assert layout.left_out == [image.replace("S", "test").format(name) for name in "abc"]


def test_a_split_whose_images_lie_in_a_folder_of_another_name_is_not_left_out_in_silence(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "train/images/{}.jpg", "train/masks/{}.png")
    trees.pairs(tmp_path, "val/imgs/{}.jpg", "val/masks/{}.png")
    with pytest.raises(InputError, match=r"images in images/ of one split and in val/imgs/ of another, .* rename"):
        open_layout("folder", tmp_path)


def test_masks_of_some_images_may_have_the_ending_alone(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.png", "masks/{}_mask.png", ("a", "b"))
    trees.pairs(tmp_path, "images/{}.png", "masks/{}.png", ("c", "d"))
    masks = [sample.files[0] for sample in open_layout("folder", tmp_path).samples()]
    assert masks == ["masks/a_mask.png", "masks/b_mask.png", "masks/c.png", "masks/d.png"]
    trees.save(tmp_path / "masks" / "a.png", halves(0, 255))
    with pytest.raises(InputError, match=r"1 file in .* has no mask: images/b\.png"):
        list(open_layout("folder", tmp_path).samples())


def test_brush_labels_of_label_studio_are_known_by_their_names(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/task-1-annotation-2-by-1-tag-{}-0.png")
    with pytest.raises(InputError, match=r"have no mask: .*names its PNG files by tasks.* export the project as COCO"):
        list(open_layout("folder", tmp_path).samples())


def test_masks_whose_endings_differ_are_named(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}_mask.png", ("a", "b"))
    (tmp_path / "masks" / "b_mask.png").rename(tmp_path / "masks" / "b_label.png")
    with pytest.raises(InputError, match=r"have no mask: images/a\.jpg, images/b\.jpg: add each mask under the same"):
        list(open_layout("folder", tmp_path).samples())


@pytest.mark.parametrize("folder", ["my data", "archive/archive"])
def test_folders_around_the_dataset_are_named(folder: str, tmp_path: Path) -> None:
    trees.pairs(tmp_path / folder, "images/{}.jpg", "masks/{}.png")
    with pytest.raises(InputError, match=rf"fits no layout, but its folder {folder}/ fits folder: set ingest\.path to"):
        find_layout(tmp_path)


def test_several_folders_below_that_fit_are_all_named(tmp_path: Path) -> None:
    for folder in ("test/city", "train/city"):
        trees.pairs(tmp_path / folder, "images/{}.jpg", "masks/{}.png")
    with pytest.raises(
        InputError, match=r"its folders test/city/, train/city/ fit folder: set .* one of them, or make"
    ):
        find_layout(tmp_path)


def test_own_data_in_the_folders_of_camvid_is_not_camvid(tmp_path: Path) -> None:
    splits("S/{}.png", "S_labels/{}.png")(tmp_path)
    assert find_layout(tmp_path) == "side_by_side"
    trees.photo(tmp_path / "train_labels" / "Seq05VD_f00000_L.png")
    assert find_layout(tmp_path) == "camvid32"


def test_slices_that_are_not_numbered_are_no_membranes(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "train/image/{}.png", "train/label/{}.png", ("1", "2", "road"))
    assert find_layout(tmp_path) == "folder"
    (tmp_path / "train" / "label" / "road.png").unlink()
    assert find_layout(tmp_path) == "isbi2012"


def test_masks_of_cvat_have_their_own_classes_and_colours(tmp_path: Path) -> None:
    layout, samples, annotation = opened("voc_export", trees.cvat_masks(tmp_path))
    assert [(sample.split, sample.id) for sample in samples] == [(None, "frame 1"), (None, "frame 2")]
    assert layout.labels.classes == ("background", "dog", "große Katze, alt")
    assert layout.labels.palette[2] == (51, 221, 255)
    assert histogram(layout, annotation) == {"background": 18 * 32, "große Katze, alt": 4 * 32, "dog": 64}
    assert objects(layout, annotation) == [
        ("große Katze, alt", 36, False),
        ("große Katze, alt", 92, False),
        ("dog", 64, False),
    ]
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    (lists / "Train.txt").write_text("frame 1\n")
    (lists / "Validation.txt").write_text("frame 2\n")
    assert [sample.split for sample in open_layout("voc_export", tmp_path).samples()] == ["train", "val"]
    (tmp_path / "labelmap.txt").write_text("background:0,0::\ncat:1,1,1::\n")
    with pytest.raises(InputError, match=r"labelmap\.txt has the line 'background:0,0::', expected name:red"):
        open_layout("voc_export", tmp_path).labels  # noqa: B018


def test_masks_of_labelme2voc_have_numbers_of_the_list(tmp_path: Path) -> None:
    trees.cvat_masks(tmp_path)
    (tmp_path / "labelmap.txt").unlink()
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    for path in (tmp_path / "SegmentationClass").iterdir():
        trees.save(path, np.where(halves(0, 1) == 1, np.uint8(255), np.uint8(2)), trees.VOC_PALETTE)
    assert find_layout(tmp_path) == "voc_export"
    layout, _, annotation = opened("voc_export", tmp_path)
    assert histogram(layout, annotation) == {"dog": SIZE[0] * 24, "void": SIZE[0] * 8}


def test_a_list_of_classes_in_the_folders_of_voc_takes_the_place_of_vocs(tmp_path: Path) -> None:
    trees.cvat_masks(tmp_path)
    (tmp_path / "labelmap.txt").unlink()
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    for path in (tmp_path / "SegmentationClass").iterdir():
        trees.save(path, np.full(SIZE, 2, np.uint8), trees.VOC_PALETTE)
    assert find_layout(tmp_path) == "voc_export"
    layout, _, annotation = opened("voc_export", tmp_path)
    assert layout.labels.classes == ("background", "cat", "dog")
    assert histogram(layout, annotation) == {"dog": SIZE[0] * SIZE[1]}


def test_the_field_of_view_beside_drives_masks_is_not_the_mask(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "training/images/{}.tif", "training/mask/{}_mask.gif")
    trees.pairs(tmp_path, "test/images/{}.tif", "test/1st_manual/{}_manual1.gif", ("d",))
    for name in "abc":
        trees.save(tmp_path / "training" / "1st_manual" / f"{name}_manual1.gif", halves(255, 0))
    files = [sample.files for sample in open_layout("folder", tmp_path).samples()]
    assert files[0] == ("training/1st_manual/a_manual1.gif",)


@pytest.mark.parametrize("name", ["Masks_png/0001.png", "reference/0001_L.png", "labels/0001.txt"])
def test_images_without_masks_beside_files_of_their_names_are_not_taken_as_unannotated(
    name: str, tmp_path: Path
) -> None:
    for path in (tmp_path / "images" / "0001.png", tmp_path / name):
        path.parent.mkdir()
        trees.save(path.with_suffix(".png"), np.zeros(SIZE, np.uint8))
        path.with_suffix(".png").rename(path)
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    folder = name.partition("/")[0]
    with pytest.raises(InputError, match=rf"has no folder masks/, but files in {folder}/ have the names of the images"):
        open_layout("folder", tmp_path)
    (tmp_path / name).unlink()
    assert [sample.files for sample in open_layout("folder", tmp_path).samples()] == [()]


def test_volumes_in_folders_of_images_are_sent_to_their_layout(tmp_path: Path) -> None:
    for name in ("images/a.nii.gz", "masks/a.nii.gz"):
        trees.write_text(tmp_path / name, "none")
    with pytest.raises(InputError, match=r"holds NIfTI volumes, masks/a\.nii\.gz, .* \(layout nifti\)"):
        open_layout("folder", tmp_path)


@pytest.mark.parametrize("mask", ["{}_1", "{}/1", "car/{}"])
def test_several_masks_of_an_image_are_to_become_one(mask: str, tmp_path: Path) -> None:
    for part in (mask, mask.replace("1", "2").replace("car", "road")):
        trees.pairs(tmp_path, "images/{}.jpg", f"masks/{part}.png")
    with pytest.raises(
        InputError, match=r"3 files in .* have no mask: .* look like parts of one mask: write the label"
    ):
        list(open_layout("folder", tmp_path).samples())


def test_a_missing_mask_is_no_part_of_that_of_another_image(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png", ("a_1", "a_2"))
    trees.photo(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"1 file in .* has no mask: images/a\.jpg: add each mask under"):
        list(open_layout("folder", tmp_path).samples())
