"""Further forms in which the authors of datasets publish them: later releases, archives unpacked side by side."""

import json
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import SIZE, histogram, objects, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError


def test_ade20k_of_2021_has_classes_by_number_objects_by_blue_and_two_levels_of_parts(tmp_path: Path) -> None:
    layout, samples, annotation = opened("ade20k_2021", trees.ade20k_2021(tmp_path))
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "ADE_train_00016869"),
        ("val", "ADE_val_00016869"),
    ]
    assert layout.labels.classes == ("building, edifice", "hidden", "window")
    assert histogram(layout, annotation) == {"void": 128, "building, edifice": 640 - 32, "window": 32}
    assert [(name, pixels) for name, pixels, _ in objects(layout, annotation)] == [
        ("window", 16),
        ("window", 16),
        ("building, edifice", 608),
    ]
    assert {name: labels.classes for name, labels in layout.labels.further.items()} == {
        "part": ("door", "handle"),
        "part_2": ("hinge", "knob"),
    }
    assert np.count_nonzero(annotation.further["part"] == 0) == 32
    assert np.count_nonzero(annotation.further["part_2"] == 1) == 32
    table = tmp_path / samples[0].files[1]
    table.write_text(table.read_text().replace("312", "313"))
    with pytest.raises(InputError, match=r"ADE_train_00016869.json lists no object of the classes \[312\] of its map"):
        open_layout("ade20k_2021", tmp_path).annotation(samples[0])


def test_ade20k_has_objects_with_the_maps_of_the_places_challenge(tmp_path: Path) -> None:
    layout, samples, annotation = opened("ade20k_instances", trees.ade20k_instances(tmp_path / "alone"))
    assert layout.labels.num_classes == 101
    assert histogram(layout, annotation) == {"background": 768 - 32 - 16, "bed": 32, "flag": 16}
    expected = [("bed", 32, False), ("flag", 8, False), ("flag", 8, False)]
    assert objects(layout, annotation) == expected
    root = trees.ade20k(tmp_path / "both")
    assert open_layout("ade20k", root).labels.things == frozenset()
    trees.ade20k_instances(root / "ADEChallengeData2016")
    assert find_layout(root) == "ade20k"
    layout, samples, annotation = opened("ade20k", root)
    assert len(layout.labels.things) == 100
    assert histogram(layout, annotation) == {"void": 32, "wall": 23 * 24, "flag": 23 * 8}
    assert objects(layout, annotation) == expected
    trees.save(root / samples[0].files[1], np.full((*SIZE, 3), 101, np.uint8))
    with pytest.raises(InputError, match=r"holds the classes \[101\], expected 1 to 100"):
        layout.annotation(samples[0])


def test_cocos_own_stuff_maps_hold_category_ids(tmp_path: Path) -> None:
    layout, samples, annotation = opened("coco_stuff", trees.coco_pixel_maps(tmp_path))
    assert find_layout(tmp_path) == "coco"
    assert [sample.split for sample in samples] == ["train", "val"]
    assert layout.labels.num_classes == 92
    assert layout.labels.classes[0] == "banner"
    assert histogram(layout, annotation) == {"wall-wood": 23 * 24, "other": 23 * 8, "void": 32}
    trees.coco_instances(tmp_path)
    assert open_layout("coco", tmp_path).labels.num_classes == 3  # objects say more
    trees.coco_stuff(tmp_path)
    assert open_layout("coco", tmp_path).labels.num_classes == 171


def test_cocos_stuff_without_maps_is_drawn_from_its_json_files(tmp_path: Path) -> None:
    trees.coco_instances(tmp_path)
    for split in ("train", "val"):
        path = tmp_path / "annotations" / f"instances_{split}2017.json"
        rows = json.loads(path.read_text())
        for row, id, name in zip(rows["categories"], (92, 183), ("banner", "other"), strict=True):
            row |= {"id": id, "name": name}
        for row in rows["annotations"]:
            row["category_id"] = {1: 92, 18: 183}[row["category_id"]]
        path.unlink()
        path.with_name(f"stuff_{split}2017.json").write_text(json.dumps(rows))
    assert find_layout(tmp_path) == "coco"
    layout, samples, annotation = opened("coco", tmp_path)
    assert (len(samples), layout.labels.num_classes) == (4, 92)
    assert histogram(layout, annotation) == {"banner": 48 - 16 + 96, "other": 24, "void": 768 - 48 - 96 - 8}
    assert annotation.segments == ()


@pytest.mark.parametrize(
    ("annotations", "maps"),
    [
        ("annotations", "annotations/panoptic_{}/panoptic_{}"),
        ("annotations", "panoptic_{}"),
        (
            "panoptic_annotations_trainval2017/annotations",
            "panoptic_annotations_trainval2017/annotations/panoptic_{}",
        ),
    ],
)
def test_panoptic_maps_lie_where_their_zip_file_was_unpacked(annotations: str, maps: str, tmp_path: Path) -> None:
    trees.coco_panoptic(tmp_path)
    _, _, before = opened("coco", tmp_path)
    for split in ("train2017", "val2017"):
        target, aside = tmp_path / maps.format(split, split), tmp_path / f"aside_{split}"
        (tmp_path / "annotations" / f"panoptic_{split}").rename(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(target)
        (tmp_path / annotations).mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"panoptic_{split}.json").rename(tmp_path / annotations / f"panoptic_{split}.json")
    _, samples, after = opened("coco", tmp_path)
    assert len(samples) == 2
    np.testing.assert_array_equal(before.classes, after.classes)
    assert before.segments == after.segments


def test_panoptic_maps_that_are_still_packed_are_named(tmp_path: Path) -> None:
    trees.coco_panoptic(tmp_path)
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "aside")
    trees.write_text(tmp_path / "annotations" / "panoptic_val2017.zip", "")
    with pytest.raises(InputError, match=r"annotations/panoptic_val2017\.zip is packed, .*: unpack it into annot"):
        list(open_layout("coco", tmp_path).samples())


def test_cityscapes_draws_polygons_where_there_are_no_maps(tmp_path: Path) -> None:
    layout, samples, before = opened("cityscapes", trees.cityscapes(tmp_path / "maps"))
    before = layout.annotation(samples[1])
    layout, samples, _ = opened("cityscapes", trees.cityscapes_polygons(tmp_path / "polygons"))
    after = layout.annotation(samples[1])
    np.testing.assert_array_equal(before.classes, after.classes)
    np.testing.assert_array_equal(before.layers, after.layers)
    assert before.segments == after.segments
    path = layout.root / samples[1].files[0]
    path.write_text(path.read_text().replace('"caravan"', '"carravan"'))
    with pytest.raises(InputError, match=r"polygons.json: unknown class 'carravan': did you mean 'caravan'"):
        layout.annotation(samples[1])


def test_voc_and_sbd_side_by_side_train_on_all_that_val_does_not_have(tmp_path: Path) -> None:
    trees.voc2012(tmp_path)
    home = trees.sbd(tmp_path) / "benchmark_RELEASE" / "dataset"
    (home / "val.txt").write_text("2008_000003\n2007_000033\n2007_000032\n")
    for name in ("2007_000033", "2007_000032"):
        trees.photo(home / "img" / f"{name}.jpg")
        for part in ("cls", "inst"):
            (home / part / f"{name}.mat").write_bytes((home / part / "2008_000003.mat").read_bytes())
    with pytest.raises(InputError, match="fits the layouts sbd and voc2012 and voc2012_sbd"):
        find_layout(tmp_path)
    layout, samples, annotation = opened("voc2012_sbd", tmp_path)
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "2007_000032"),
        ("train", "2007_000039"),
        ("train", "2008_000002"),
        ("train", "2008_000003"),
        ("val", "2007_000033"),
    ]
    assert histogram(layout, annotation)["void"] == 12  # VOC's own mask
    expected = [("person", 48, False), ("person", 48, False), ("bottle", 32, False)]
    assert objects(layout, annotation) == objects(layout, layout.annotation(samples[3])) == expected
    assert layout.read_image(samples[3]).shape == (*SIZE, 3)


def test_synthias_sequences_have_ids_of_their_own_and_one_group_for_a_drive(tmp_path: Path) -> None:
    layout, samples, annotation = opened("synthia_seqs", trees.synthia_seqs(tmp_path))
    assert {sample.group for sample in samples} == {"SYNTHIA-SEQS-01", "SYNTHIA-SEQS-02"}
    assert len(samples) == 6
    assert histogram(layout, annotation) == {"void": 30, "lanemarking": 48, "car": 32, "road": 768 - 110}
    assert objects(layout, annotation) == [("car", 16, False), ("car", 16, False)]
    assert find_layout(tmp_path / "SYNTHIA-SEQS-01-DAWN") == "synthia_seqs"
    _, samples, _ = opened("synthia_seqs", tmp_path / "SYNTHIA-SEQS-01-DAWN")
    assert {sample.group for sample in samples} == {"Omni_F", "Omni_B"}


def test_synthia_sf_is_read_from_red_or_from_colours(tmp_path: Path) -> None:
    layout, samples, annotation = opened("synthia_sf", trees.synthia_sf(tmp_path))
    assert [sample.group for sample in samples] == ["SEQ1", "SEQ1", "SEQ2", "SEQ2"]
    assert histogram(layout, annotation) == {"void": 4 * 24, "road": 20 * 24, "car": 24 * 8}
    np.testing.assert_array_equal(annotation.classes, layout.annotation(samples[2]).classes)


def test_synthia_al_is_grouped_by_sequence(tmp_path: Path) -> None:
    layout, samples, annotation = opened("synthia_al", trees.synthia_al(tmp_path))
    assert [(sample.split, sample.group) for sample in samples] == [
        *[("test", "seq3")] * 2,
        *[("train", "seq1")] * 2,
        *[("train", "seq2")] * 2,
    ]
    assert histogram(layout, annotation) == {"sky": 320, "road": 320, "void": 128}


def test_void_is_minus_1_in_some_of_synthia_rands_text_files(tmp_path: Path) -> None:
    _, samples, before = opened("synthia_rand", trees.synthia_rand(tmp_path))
    path = tmp_path / samples[0].files[0]
    path.write_text("\n".join(" ".join("-1" if id == "0" else id for id in line.split()) for line in path.open()))
    _, _, after = opened("synthia_rand", tmp_path)
    np.testing.assert_array_equal(before.classes, after.classes)


def test_cases_of_brats_in_one_folder_are_refused(tmp_path: Path) -> None:
    for path in sorted(trees.brats2023(tmp_path).rglob("*.nii.gz")):
        (tmp_path / "all").mkdir(exist_ok=True)
        path.rename(tmp_path / "all" / path.name)
    with pytest.raises(InputError, match=r"are both the \w+ of one case, expected a folder for each case"):
        list(open_layout("brats", tmp_path).samples())


def test_brats_of_2023_has_other_names_and_ids(tmp_path: Path) -> None:
    layout, samples, annotation = opened("brats", trees.brats2023(tmp_path))
    assert find_layout(tmp_path) == "brats"
    assert layout.read_image(samples[0])[0, 0, 0].tolist() == [0, 1, 2, 3]
    assert histogram(layout, annotation) == {"background": 118, "enhancing tumour": 1, "oedema": 1}


@pytest.mark.parametrize("truth", ["gtFine", "gtCoarse"])
def test_cityscapes_archives_may_be_unpacked_into_folders_of_their_own(truth: str, tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    (tmp_path / "leftImg8bit_trainvaltest").mkdir()
    (tmp_path / "leftImg8bit").rename(tmp_path / "leftImg8bit_trainvaltest" / "leftImg8bit")
    home = tmp_path / {"gtFine": "gtFine_trainvaltest", "gtCoarse": "gtCoarse"}[truth]
    home.mkdir()
    (tmp_path / "gtFine").rename(home / truth)
    for path in [*home.rglob("*_gtFine_*")]:
        path.rename(path.with_name(path.name.replace("gtFine", truth)))
    name = {"gtFine": "cityscapes", "gtCoarse": "cityscapes_coarse"}[truth]
    assert find_layout(tmp_path) == name
    _, samples, _ = opened(name, tmp_path)
    assert [sample.split for sample in samples] == ["test", "train", "val"]


def test_camvid_in_32_colours_has_the_splits_of_kaggle(tmp_path: Path) -> None:
    _, _, before = opened("camvid32", trees.camvid32(tmp_path / "original"))
    home = tmp_path / "kaggle" / "CamVid"
    for split, frame in (("train", "0001TP_006690"), ("val", "0016E5_00390"), ("test", "Seq05VD_f00000")):
        for part, end, source in ((split, "", "701_StillsRaw_full"), (f"{split}_labels", "_L", "LabeledApproved_full")):
            (home / part).mkdir(parents=True)
            path = tmp_path / "original" / source / f"{frame}{end}.png"
            path.rename(home / part / path.name)
    (home / "class_dict.csv").write_text("name,r,g,b\n")
    assert find_layout(tmp_path / "kaggle") == "camvid32"
    _, samples, after = opened("camvid32", tmp_path / "kaggle")
    assert [(sample.split, sample.group) for sample in samples] == [
        ("train", "0001TP_006690"),
        ("val", "0016E5_00390"),
        ("test", "Seq05VD_f00000"),
    ]
    np.testing.assert_array_equal(before.classes, after.classes)
