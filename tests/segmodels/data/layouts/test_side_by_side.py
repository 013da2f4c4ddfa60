"""Images and masks side by side: in one folder, in neighbouring ones, as Roboflow and Carvana have them."""

from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import halves, histogram, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError

ROBOFLOW = "Pixel Value, Class\n0, background\n7, große Katze\n"


def write(root: Path, *pairs: tuple[str, str], values: tuple[int, int] = (0, 255)) -> Path:
    for image, mask in pairs:
        trees.photo(root / image)
        trees.save(root / mask, halves(*values))
    return root


@pytest.mark.parametrize(
    ("pairs", "ids"),
    [
        ([("a.jpg", "a_mask.png"), ("b 1.JPG", "b 1-Mask.PNG")], {"a": None, "b 1": None}),
        ([("a.jfif", "a_Mask.png")], {"a": None}),
        ([("p/a_1.tif", "p/a_1_mask.tif"), ("q/b.tif", "q/b_mask.tif")], {"p/a_1": None, "q/b": None}),
        ([("train/a_01.jpg", "train_masks/a_01_mask.gif")], {"train/a_01": None}),
        (
            [("train/a.jpg", "train_masks/a.png"), ("val/b.jpg", "val_masks/b.png")],
            {"train/a": "train", "val/b": "val"},
        ),
        ([("images/a.jpg", "images/a_mask.png")], {"images/a": None}),
        (
            [(f"{split}/a.rf.0b.jpg", f"{split}/a.rf.0b_mask.png") for split in ("train", "valid", "test")],
            {"train/a.rf.0b": "train", "valid/a.rf.0b": "val", "test/a.rf.0b": "test"},
        ),
    ],
    ids=["one folder", "capitals", "a folder for each patient", "carvana", "neighbours", "images/", "roboflow"],
)
def test_a_mask_is_known_by_its_name(pairs: list, ids: dict[str, str | None], tmp_path: Path) -> None:
    assert find_layout(write(tmp_path, *pairs)) == "side_by_side"
    layout, samples, annotation = opened("side_by_side", tmp_path)
    assert {sample.id: sample.split for sample in samples} == ids
    assert [(samples[0].image, *samples[0].files)] == [pairs[0]]
    assert layout.labels.classes == ("background", "foreground")
    np.testing.assert_array_equal(annotation.classes, halves(0, 1))
    assert layout.read_image(samples[0]).shape == (*trees.SIZE, 3)


@pytest.mark.parametrize(
    ("pairs", "ids"),
    [
        ([(f"{split}/1.png", f"{split}_labels/1_L.png") for split in ("train", "val")], ["train/1", "val/1"]),
        ([(f"{split}/1.tiff", f"{split}_labels/1.tif") for split in ("train", "test")], ["train/1", "test/1"]),
        (
            [("train/123_sat.jpg", "train/123_mask.png"), ("train/4_sat.jpg", "train/4_mask.png")],
            ["train/123", "train/4"],
        ),
        ([("train_images/a.jpg", "train_masks/a.png"), ("val_images/b.jpg", "val_masks/b.png")], ["train/a", "val/b"]),
        ([("a.jpg", "a_label.png"), ("b_L.jpg", "b_L_label.png")], ["a", "b_L"]),
        ([("a.jpg", "a_seg.png")], ["a"]),
        ([("x/a.jpg", "x/a-GT.png")], ["x/a"]),
        ([("a.jpg", "a_segmentation.png")], ["a"]),
        ([("a_rgb.jpg", "a_rgb_mask.png")], ["a_rgb"]),
    ],
    ids=["camvid", "massachusetts", "deepglobe", "folders", "label", "seg", "gt", "segmentation", "rgb"],
)
def test_masks_and_images_may_have_other_endings(pairs: list, ids: list[str], tmp_path: Path) -> None:
    assert find_layout(write(tmp_path, *pairs)) == "side_by_side"
    layout, samples, annotation = opened("side_by_side", tmp_path)
    assert [sample.id for sample in samples] == ids
    assert [(sample.image, *sample.files) for sample in samples] == pairs
    places = [name.partition("/")[0] for name in ids]
    assert [sample.split for sample in samples] == (
        places if len(set(places) - {"a", "b_L"}) > 1 else [None] * len(ids)
    )
    assert layout.left_out == []
    np.testing.assert_array_equal(annotation.classes, halves(0, 1))


@pytest.mark.parametrize("name", ["class_dict.csv", "label_class_dict.csv"])
def test_colours_of_a_table_are_classes(name: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        trees.photo(tmp_path / split / "1.png")
        trees.save(tmp_path / f"{split}_labels" / "1_L.png", np.stack([halves(0, 64)] * 2 + [halves(0, 9)], axis=2))
    trees.write_text(tmp_path / name, "name,r,g,b\nroad,64,64,9\nVoid,0,0,0\n")
    assert find_layout(tmp_path) == "side_by_side"
    layout, _, annotation = opened("side_by_side", tmp_path)
    assert histogram(layout, annotation) == {"Void": 24 * 24, "road": 24 * 8}


def test_other_endings_need_an_image_and_photos_are_no_masks(tmp_path: Path) -> None:
    write(tmp_path, ("a_L.jpg", "a_R.jpg"), ("b_rgb.jpg", "b_img.jpg"))
    with pytest.raises(InputError, match="fits no layout"):
        find_layout(tmp_path)
    trees.photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a_L\.jpg holds \d+ colours"):
        list(open_layout("side_by_side", tmp_path).samples())


def test_images_without_masks_in_such_folders(tmp_path: Path) -> None:
    write(tmp_path, ("train_images/a.jpg", "train_masks/a.png"))
    trees.photo(tmp_path / "test_images" / "b.jpg")
    layout = open_layout("side_by_side", tmp_path)
    assert [sample.id for sample in layout.samples()] == ["train/a"]
    assert layout.left_out == ["test_images/b.jpg"]
    trees.photo(tmp_path / "train_images" / "c.jpg")
    with pytest.raises(InputError, match=r"has no mask: train_images/c\.jpg"):
        list(open_layout("side_by_side", tmp_path).samples())


def test_roboflows_list_names_the_classes(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(tmp_path, (f"{split}/a.jpg", f"{split}/a_mask.png"), values=(0, 7))
        trees.write_text(tmp_path / split / "_classes.csv", ROBOFLOW)
    layout, _, annotation = opened("side_by_side", tmp_path)
    assert histogram(layout, annotation) == {"background": 24 * 24, "große Katze": 24 * 8}
    assert layout.assumed_void == 255
    (tmp_path / "valid" / "_classes.csv").write_text(ROBOFLOW.replace("7", "8"))
    with pytest.raises(InputError, match=r"valid/_classes\.csv has other classes than .*train/_classes\.csv"):
        open_layout("side_by_side", tmp_path)
    (tmp_path / "valid" / "_classes.csv").write_text("filename, cat\na.jpg, 1\n")
    with pytest.raises(InputError, match=r"valid/_classes\.csv cannot be understood, expected lines 'Pixel Value, Cl"):
        open_layout("side_by_side", tmp_path)
    trees.write_text(tmp_path / "classes.txt", "background\ncat, 7\n")
    assert open_layout("side_by_side", tmp_path).labels.classes == ("background", "cat")


def test_images_of_folders_without_masks_are_left_out_and_others_need_theirs(tmp_path: Path) -> None:
    write(tmp_path, ("train/a.jpg", "train_masks/a_mask.gif"), ("train/b.jpg", "train_masks/b_mask.gif"))
    trees.photo(tmp_path / "test" / "c.jpg")
    layout = open_layout("side_by_side", tmp_path)
    assert [sample.id for sample in layout.samples()] == ["train/a", "train/b"]
    assert layout.left_out == ["test/c.jpg"]
    (tmp_path / "train_masks" / "b_mask.gif").rename(tmp_path / "train_masks" / "b_mask_x.gif")
    with pytest.raises(InputError, match=r"has no mask: train/b\.jpg: add each mask under the same name or remove"):
        list(open_layout("side_by_side", tmp_path).samples())
    trees.save(tmp_path / "train" / "a_mask.png", halves(0, 1))
    with pytest.raises(InputError, match=r"train/a_mask\.png and train_masks/a_mask\.gif are masks of one image"):
        open_layout("side_by_side", tmp_path)


def test_numbered_masks_of_one_image_are_united(tmp_path: Path) -> None:
    """As in BUSI, which numbers all masks of an image but the first."""
    write(tmp_path, ("benign/a (1).png", "benign/a (1)_mask.png"), ("normal/b_mask_1.png", "normal/b_mask_1_mask.png"))
    second = np.zeros(trees.SIZE, np.uint8)
    second[0, 0] = 255
    trees.save(tmp_path / "benign" / "a (1)_mask_1.png", second)
    assert find_layout(tmp_path) == "side_by_side"
    layout, samples, annotation = opened("side_by_side", tmp_path)
    assert [sample.id for sample in samples] == ["benign/a (1)", "normal/b_mask_1"]
    assert samples[0].files == ("benign/a (1)_mask.png", "benign/a (1)_mask_1.png")
    np.testing.assert_array_equal(annotation.classes, np.maximum(halves(0, 1), second > 0))
    trees.save(tmp_path / "benign" / "a (1)_mask_1.png", second[1:])
    with pytest.raises(InputError, match=r"a \(1\)_mask_1\.png is 32x23 but benign/a \(1\)_mask\.png is 32x24"):
        layout.annotation(samples[0])


def test_masks_in_a_folder_of_their_own_are_not_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, ("images/a.jpg", "masks/a_mask.png"))
    assert find_layout(tmp_path) == "folder"
    with pytest.raises(InputError, match=r"1 file in .* has no image: masks/a_mask\.png"):
        list(open_layout("side_by_side", tmp_path).samples())


def test_slices_of_a_patient_of_tcga_are_a_group(tmp_path: Path) -> None:
    names = [
        "TCGA_CS_4941_19960909_1",
        "TCGA_CS_4941_20010101_2",
        "TCGA_HT_A61A_20000127_1",
        "TCGA-CS-4941-01Z",
        "TCGAX",
    ]
    write(tmp_path, *((f"{name}/{name}.png", f"{name}/{name}_mask.png") for name in names))
    groups = {sample.id.rpartition("/")[2]: sample.group for sample in open_layout("side_by_side", tmp_path).samples()}
    assert [groups[name] for name in names] == [
        "TCGA-CS-4941",
        "TCGA-CS-4941",
        "TCGA-HT-A61A",
        "TCGA-CS-4941",
        "TCGAX/TCGAX",
    ]
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"{name}/{name},{name}\n" for name in names))
    groups = {sample.id.rpartition("/")[2]: sample.group for sample in open_layout("side_by_side", tmp_path).samples()}
    assert groups == {name: name for name in names}
