"""Finding the layout of a folder, and merging, renaming and dropping classes."""

from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import histogram, objects

from segmodels.data.layouts import LAYOUTS, find_layout, open_layout
from segmodels.errors import InputError


def test_a_folder_that_fits_nothing_says_what_each_layout_looks_for(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(
        InputError, match=r"fits no layout, it holds notes\.txt, pictures/; correct ingest\.path"
    ) as told:
        find_layout(tmp_path)
    for entry in LAYOUTS:
        assert (f"\n  {entry.name}: {entry.build.marks}" in str(told.value)) == entry.build.automatic
    with pytest.raises(InputError, match="is not there"):
        find_layout(tmp_path / "missing")


@pytest.mark.parametrize(
    ("images", "masks", "sentence"),
    [
        ("Task1-2_Training_Input/{}.jpg", ["Task1_Training_GroundTruth/{}_segmentation.png"], "rename (or link) I to"),
        ("CXR_png/{}.png", ["mask/{}_mask.png"], "rename (or link) I to images/ and its masks to masks/"),
        ("CXR_png/{}.png", ["Manual/left/{}.png", "Manual/right/{}.png"], "holds CXR_png/, Manual/;"),
        ("CXR_png/{}.png", ["M/leftMask/{}.png", "M/rightMask/{}.png"], "in M/leftMask/ and M/rightMask/ have"),
        ("Train/Rural/images_png/{}.png", ["Train/Rural/masks_png/{}.png"], "Rural/images_png/ to images/"),
        ("rgb_1/{}.png", ["thermal/{}.png"], "fits no layout, it holds rgb_1/, thermal/;"),
        ("input/{}.png", ["gt/{}9.png"], "fits no layout, it holds gt/, input/;"),
    ],
)
def test_folders_of_images_and_masks_under_other_names_are_to_be_renamed(
    images: str, masks: list[str], sentence: str, tmp_path: Path
) -> None:
    for name in ("ISIC_1", "ISIC_2", "ISIC_3"):
        for form in (images, *masks):
            trees.photo(tmp_path / form.format(name))
    root = tmp_path / "Train" if images.startswith("Train") else tmp_path
    with pytest.raises(InputError) as told:
        find_layout(root)
    assert sentence.replace(" I ", f" {images.rpartition('/')[0]}/ ") in str(told.value)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["train.zip", "Val.ZIP", "README.md"], r"it holds archives \(Val\.ZIP, train\.zip\), .*: unpack them"),
        (["Images/0001.jpg", "README.md"], r"it holds Images/ alone, expected images/ and masks/: add the masks, or"),
        (["SegmentationClass/0001.png", "labelmap.txt"], r"has SegmentationClass/ without JPEGImages/, .*\(CVAT: Save"),
        (["imagesTr/a_0000.nii.gz"], r"it has imagesTr/ without dataset\.json, expected \{\"labels\": .* write it"),
        (["data/train-00000-of-00001.parquet", "README.md"], r"it holds tables \(Parquet or Arrow, .*: save"),
        (["images/0001.jpg", "polygons.json"], r"it holds images/, polygons\.json; .*what LoveDA, Potsdam, iSAID"),
    ],
)
def test_what_a_part_of_a_dataset_lacks_is_said(files: list[str], sentence: str, tmp_path: Path) -> None:
    for file in files:
        trees.write_text(tmp_path / file, "none")
    with pytest.raises(InputError, match=f"fits no layout.*{sentence}"):
        find_layout(tmp_path)


def test_two_layouts_that_fit_are_both_named(tmp_path: Path) -> None:
    trees.voc2012(tmp_path)
    trees.cityscapes(tmp_path)
    with pytest.raises(InputError, match=r"fits the layouts cityscapes and voc2012: set ingest\.layout"):
        find_layout(tmp_path)


def test_classes_are_merged_renamed_and_ignored(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    plain = open_layout("cityscapes", tmp_path)
    classes = {"human, été": ["person", "rider"], "ignore": ["sky"], "Straße": ["road"], "flat": ["car", "sidewalk"]}
    layout = open_layout("cityscapes", tmp_path, classes)
    samples = list(layout.samples())
    before, after = plain.annotation(samples[1]), layout.annotation(samples[1])
    assert layout.labels.classes[:3] == ("Straße", "flat", "building")
    assert layout.labels.num_classes == 19 - 1 - 1 - 1
    counts = histogram(plain, before)
    assert histogram(layout, after) == {
        "human, été": counts["person"],
        "Straße": counts["road"],
        "flat": counts["car"],
        "void": counts["void"] + counts["sky"],
    }
    assert objects(layout, after) == [("human, été", 20, True)]  # flat is no thing: one of its parts is stuff
    assert after.layers.shape[0] == 1
    assert set(np.unique(after.layers)) == {0, after.segments[0].id}
    assert layout.labels.palette[0] == plain.labels.palette[0]
    assert layout.labels.palette[1] == plain.labels.palette[plain.labels.classes.index("car")]
    assert layout.labels.ids[23] == 255
    np.testing.assert_array_equal(layout.read_image(samples[1]), plain.read_image(samples[1]))


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ({"vehicle": ["car", "truk"]}, r"ingest\.classes\.vehicle: unknown class 'truk': did you mean 'truck'"),
        ({"vehicle": []}, r"gives 'vehicle' no classes"),
        ({"a": ["car"], "b": ["car"]}, r"has 'car' in both 'a' and 'b'"),
        ({"car": ["truck"]}, r"makes the class 'car', which the dataset has already"),
    ],
)
def test_wrong_classes_are_one_sentence(classes: dict, sentence: str, tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    with pytest.raises(InputError, match=sentence):
        open_layout("cityscapes", tmp_path, classes)


def test_at_least_two_classes_stay(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"leaves the classes \['nucleus'\], expected at least 2"):
        open_layout("dsb2018", trees.dsb2018(tmp_path), {"ignore": ["background"]})
