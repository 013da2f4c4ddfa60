"""Layouts of published datasets, on small trees in exactly their form: classes, objects, groups, splits."""

import pickle
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
import scipy.io
from layout_trees import SIZE, TREES, halves, histogram, objects, opened

from segmodels.data.layouts import LAYOUTS, check_sizes, find_layout, open_layout
from segmodels.errors import InputError
from segmodels.labels import UnknownLabelsError


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_layout_is_found_by_its_files_and_its_samples_hold_together(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "set")
    assert find_layout(root) == name
    layout = pickle.loads(pickle.dumps(open_layout(name, root)))  # as worker processes get it
    samples = list(layout.samples())
    assert len(samples) == len({(sample.split, sample.id) for sample in samples}) > 1
    assert samples == list(layout.samples())
    layout = pickle.loads(pickle.dumps(layout))
    labels = layout.labels
    published = LAYOUTS[name].build.published()
    assert published is None or published.classes == labels.classes or name == "coco"
    for sample in samples:
        assert [file for file in (sample.image, *sample.files) if not (root / file).is_file()] == []
        annotation = layout.annotation(sample)
        assert annotation is not None
        check_sizes(sample, layout.read_image(sample), annotation)
        assert annotation.classes.dtype == labels.dtype
        assert set(np.unique(annotation.classes)) <= {*range(labels.num_classes), labels.ignore_index}
        assert all(segment.label in range(labels.num_classes) for segment in annotation.segments)


@pytest.mark.parametrize("entry", [entry for entry in LAYOUTS if entry.card.samples], ids=lambda entry: entry.name)
def test_a_published_layout_says_where_the_data_comes_from(entry) -> None:
    assert entry.card.licence
    assert entry.card.get or entry.card.archives
    assert all(bool(file.stated) == bool(file.sha256 or file.md5) for file in entry.card.archives)
    with pytest.raises(InputError, match=r"expected"):
        entry.build(Path(__file__).parent)


def test_voc_has_objects_void_borders_and_its_lists(tmp_path: Path) -> None:
    layout, samples, annotation = opened("voc2012", trees.voc2012(tmp_path))
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "2007_000032"),
        ("train", "2007_000039"),
        ("val", "2007_000033"),
    ]
    assert layout.labels.num_classes == 21
    assert layout.labels.things == frozenset(range(1, 21))
    assert histogram(layout, annotation) == {"background": 32 * 24 - 12 - 128, "person": 96, "bottle": 32, "void": 12}
    assert objects(layout, annotation) == [("person", 48, False), ("person", 48, False), ("bottle", 32, False)]
    assert layout.left_out == []
    (tmp_path / layout.top / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\n")
    assert len(list(layout.samples())) == 2
    assert layout.left_out == ["VOCdevkit/VOC2012/SegmentationClass/2007_000039.png"]


def test_an_object_of_voc_has_a_countable_class_or_is_counted_as_empty(tmp_path: Path) -> None:
    layout, samples, annotation = opened("voc2012", trees.voc2012(tmp_path))
    classes = annotation.classes.copy()
    classes[5:12, 4:10] = 0  # most of the first person
    classes[4:12, 20:24] = 0  # all of the bottle
    trees.save(tmp_path / samples[0].files[0], classes, trees.VOC_PALETTE)
    annotation = layout.annotation(samples[0])
    assert objects(layout, annotation) == [("person", 48, False), ("person", 48, False)]
    assert annotation.empty == 1


def test_sbd_reads_classes_and_objects_from_matlab_files(tmp_path: Path) -> None:
    root = trees.sbd(tmp_path)
    layout, samples, annotation = opened("sbd", root)
    assert [(sample.split, sample.id) for sample in samples] == [("train", "2008_000002"), ("val", "2008_000003")]
    assert histogram(layout, annotation) == {"background": 32 * 24 - 128, "person": 96, "bottle": 32}
    assert objects(layout, annotation) == [("person", 48, False), ("person", 48, False), ("bottle", 32, False)]
    assert find_layout(root) == "sbd"

    broken = root / "benchmark_RELEASE" / "dataset" / "inst" / "2008_000002.mat"
    scipy.io.savemat(
        broken, {"GTinst": {"Segmentation": np.full(trees.SIZE, 2, np.uint8), "Categories": np.array([[7]])}}
    )
    with pytest.raises(
        InputError, match=r"inst/2008_000002.mat has the categories \[7\], expected one of 1 to 20 for each"
    ):
        layout.annotation(samples[0])
    broken.write_bytes(b"no Matlab file")
    with pytest.raises(InputError, match=r"inst/2008_000002.mat is damaged .*replace it"):
        layout.annotation(samples[0])


def test_sbd_notes_the_masks_of_no_list(tmp_path: Path) -> None:
    home = trees.sbd(tmp_path) / "benchmark_RELEASE" / "dataset"
    (home / "val.txt").unlink()
    layout = open_layout("sbd", tmp_path)
    assert [sample.id for sample in layout.samples()] == ["2008_000002"]
    assert layout.left_out == ["benchmark_RELEASE/dataset/cls/2008_000003.mat"]


def test_voc_masks_as_colours_are_the_same_and_without_objects_nothing_is_countable(tmp_path: Path) -> None:
    home = trees.voc2012(tmp_path) / "VOCdevkit" / "VOC2012"
    _, _, before = opened("voc2012", tmp_path)
    from PIL import Image

    for path in home.glob("Segmentation*/*.png"):
        Image.open(path).convert("RGB").save(path)
    _, _, after = opened("voc2012", home)
    np.testing.assert_array_equal(before.classes, after.classes)
    np.testing.assert_array_equal(before.layers, after.layers)
    assert before.segments == after.segments
    for path in (home / "SegmentationObject").iterdir():
        path.unlink()
    layout, _, annotation = opened("voc2012", home)
    assert layout.labels.things == frozenset()
    assert annotation.segments == ()


def test_voc_names_a_listed_image_without_a_mask(tmp_path: Path) -> None:
    home = trees.voc2012(tmp_path) / "VOCdevkit" / "VOC2012"
    (home / "SegmentationClass" / "2007_000039.png").unlink()
    with pytest.raises(InputError, match=r"lacks the image or the mask of 2007_000039, which the list of train names"):
        list(open_layout("voc2012", tmp_path).samples())


def test_voc_aug_reads_grey_masks_by_the_longer_list(tmp_path: Path) -> None:
    home = trees.voc2012(tmp_path) / "VOCdevkit" / "VOC2012"
    for name in ("2007_000032", "2007_000033", "2008_000001"):
        trees.save(home / "SegmentationClassAug" / f"{name}.png", halves(15, 255))
    trees.write_text(home / "ImageSets" / "Segmentation" / "trainaug.txt", "2007_000032\n2008_000001\n")
    layout, samples, annotation = opened("voc2012_aug", tmp_path)
    assert [sample.id for sample in samples if sample.split == "train"] == ["2007_000032", "2008_000001"]
    assert histogram(layout, annotation) == {"person": 24 * 24, "void": 24 * 8}
    assert find_layout(tmp_path) == "voc2012"


def test_cityscapes_keeps_objects_crowds_and_void(tmp_path: Path) -> None:
    layout, samples, annotation = opened("cityscapes", trees.cityscapes(tmp_path))
    assert [(sample.split, sample.group) for sample in samples] == [
        ("test", "berlin"),
        ("train", "aachen"),
        ("val", "frankfurt"),
    ]
    assert set(histogram(layout, annotation)) == {"void"}
    annotation = layout.annotation(samples[1])
    assert histogram(layout, annotation) == {
        "sky": 128,
        "person": 20,
        "car": 48,
        "void": 128 + 40,  # ego vehicle, caravan
        "road": 768 - 128 - 20 - 48 - 168,
    }
    assert objects(layout, annotation) == [("person", 20, True), ("car", 24, False), ("car", 24, False)]
    assert [layout.labels.classes[train] for train in sorted(layout.labels.things)] == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]


@pytest.mark.parametrize("kind", ["labelTrainIds", "instanceIds"])
def test_cityscapes_reads_train_ids_and_instance_ids_alone(kind: str, tmp_path: Path) -> None:
    _, samples, before = opened("cityscapes", trees.cityscapes(tmp_path))
    layout = open_layout("cityscapes", tmp_path)
    before = layout.annotation(samples[1])
    for path in list((tmp_path / "gtFine").rglob("*_labelIds.png")):
        if kind == "labelTrainIds":
            annotation = layout.annotation(next(sample for sample in samples if path.name in sample.files[0]))
            trees.save(path.with_name(path.name.replace("labelIds", kind)), annotation.classes)
        path.unlink()
    layout, samples, _ = opened("cityscapes", tmp_path)
    after = layout.annotation(samples[1])
    np.testing.assert_array_equal(before.classes, after.classes)
    assert before.segments == after.segments


def test_cityscapes_leaves_out_annotations_without_image(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    (tmp_path / "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png").unlink()
    layout = open_layout("cityscapes", tmp_path)
    assert {sample.split for sample in layout.samples()} == {"train", "test"}
    assert layout.left_out == ["gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png"]


def test_coarse_cityscapes_is_a_layout_of_its_own(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    (tmp_path / "gtFine").rename(tmp_path / "gtCoarse")
    for path in list((tmp_path / "gtCoarse").rglob("*_gtFine_*")):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    assert find_layout(tmp_path) == "cityscapes_coarse"
    layout, samples, _ = opened("cityscapes_coarse", tmp_path)
    assert len(objects(layout, layout.annotation(samples[1]))) == 3


def test_ade20k_ignores_0_and_counts_from_1(tmp_path: Path) -> None:
    layout, samples, annotation = opened("ade20k", trees.ade20k(tmp_path))
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "ADE_train_00000001"),
        ("val", "ADE_val_00000001"),
    ]
    assert layout.labels.num_classes == 150
    assert histogram(layout, annotation) == {"void": 32, "wall": 23 * 24, "flag": 23 * 8}
    trees.save(tmp_path / samples[0].files[0], halves(1, 151))
    with pytest.raises(UnknownLabelsError, match=r"ADE_train_00000001\.png.*unknown labels \[151\]"):
        layout.annotation(samples[0])


def test_full_ade20k_has_objects_by_name_and_parts(tmp_path: Path) -> None:
    layout, samples, annotation = opened("ade20k_full", trees.ade20k_full(tmp_path))
    assert [(sample.split, sample.id) for sample in samples] == [
        ("train", "ADE_train_00000970"),
        ("val", "ADE_val_00000970"),
    ]
    assert layout.labels.classes == ("building, edifice", "window")
    assert histogram(layout, annotation) == {"void": 128, "building, edifice": 640 - 32, "window": 32}
    assert [pixels for _, pixels, _ in objects(layout, annotation)] == [608, 16, 16]
    assert layout.labels.further["part"].classes == ("door", "handle")
    assert np.count_nonzero(annotation.further["part"] == 0) == 32
    table = tmp_path / samples[0].files[1]
    table.write_text(table.read_text().replace("003 # 0", "004 # 0"))
    with pytest.raises(InputError, match=r"has no row for the objects \[3\]"):
        open_layout("ade20k_full", tmp_path).annotation(samples[0])


def test_camvid_has_11_classes_or_the_original_31(tmp_path: Path) -> None:
    layout, samples, annotation = opened("camvid", trees.camvid(tmp_path / "segnet"))
    assert [sample.split for sample in samples] == ["train", "val", "test"]
    assert histogram(layout, annotation) == {"Road": 24 * 24, "void": 24 * 8}
    layout, samples, annotation = opened("camvid32", trees.camvid32(tmp_path / "original"))
    assert layout.labels.num_classes == 31
    assert {sample.group for sample in samples} == {"0001TP", "0006R0", "0016E5", "Seq05VD"}
    assert histogram(layout, annotation) == {"void": 4 * 24, "Road": 20 * 24, "MotorcycycleScooter": 24 * 8}


def test_dsb_keeps_nuclei_that_overlap(tmp_path: Path) -> None:
    layout, samples, annotation = opened("dsb2018", trees.dsb2018(tmp_path))
    assert layout.read_image(samples[0]).shape == (*SIZE, 3)
    assert histogram(layout, annotation) == {"background": 768 - 108, "nucleus": 108}
    assert sorted(objects(layout, annotation)) == [
        ("nucleus", 36, False),
        ("nucleus", 36, False),
        ("nucleus", 40, False),
    ]
    assert annotation.layers.shape == (2, *SIZE)


@pytest.mark.parametrize("write", [trees.isbi2012, trees.isbi2012_stacks])
def test_isbi_reads_slices_and_stacks(write, tmp_path: Path) -> None:
    layout, samples, annotation = opened("isbi2012", write(tmp_path))
    assert find_layout(tmp_path) == "isbi2012"
    assert len({sample.id for sample in samples}) == 3
    assert histogram(layout, annotation) == {"cell": 24 * 24, "membrane": 24 * 8}
    if write is trees.isbi2012_stacks:
        assert [int(layout.read_image(sample).max()) for sample in samples] == [0, 60, 120]
        trees.save(tmp_path / "train-labels.tif", np.zeros((32, 24), np.uint8))
        with pytest.raises(InputError, match=r"train-labels\.tif has 1 pages but train-volume\.tif 3, expected a page"):
            list(layout.samples())


def test_ph2_has_the_diagnoses_from_either_table(tmp_path: Path) -> None:
    layout, samples, annotation = opened("ph2", trees.ph2(tmp_path))
    assert [(sample.id, sample.image_label) for sample in samples] == [("IMD002", 0), ("IMD003", 1), ("IMD437", 2)]
    assert histogram(layout, annotation) == {"background": 24 * 24, "lesion": 24 * 8}
    np.testing.assert_array_equal(annotation.classes, layout.annotation(samples[1]).classes)  # 24 bits and 1 bit
    table = tmp_path / "PH2Dataset" / "PH2_dataset.txt"
    table.write_text("Name\tClinical Diagnosis\tAsymmetry\nIMD002\t2\t0\nIMD003\t0\t0\n")
    with pytest.raises(InputError, match="has no row for IMD437"):
        list(layout.samples())
    table.write_text("Name\tClinical Diagnosis\tAsymmetry\nIMD002\t3\t0\n")
    with pytest.raises(InputError, match=r"line 2 is 'IMD002\\t3\\t0', expected a clinical diagnosis of 0, 1 or 2"):
        list(layout.samples())
    table.unlink()
    assert {sample.image_label for sample in layout.samples()} == {None}


def test_mads_groups_the_frames_of_a_sequence(tmp_path: Path) -> None:
    layout, samples, annotation = opened("mads", trees.mads(tmp_path))
    assert [sample.group for sample in samples] == ["HipHop_HipHop1", "HipHop_HipHop1", "Jazz_Jazz1", "Kata_Kata2"]
    assert histogram(layout, annotation) == {"background": 24 * 24, "person": 24 * 8}
    folder = "segmentation_full_body_mads_dataset_1192_img"
    assert len(list(open_layout("mads", tmp_path / folder / folder).samples())) == 4


def test_apsis_leaves_out_photographs_that_are_gone(tmp_path: Path) -> None:
    layout, samples, annotation = opened("apsis", trees.apsis(tmp_path / "matlab"))
    assert [(sample.split, sample.id) for sample in samples] == [("train", "00001"), ("test", "00003")]
    assert histogram(layout, annotation) == {"background": 24 * 24, "portrait": 24 * 8}
    assert layout.left_out == ["images_mask/00002_mask.mat", "images_mask/00004_mask.mat"]
    layout, samples, annotation = opened("apsis", trees.eg1800(tmp_path / "png"))
    assert [(sample.split, sample.id) for sample in samples] == [("train", "00001"), ("val", "00002")]
    assert histogram(layout, annotation) == {"background": 24 * 24, "portrait": 24 * 8}
    assert layout.left_out == ["00009 of the list train"]


def test_synthia_reads_class_and_number_from_16_bits(tmp_path: Path) -> None:
    layout, _, annotation = opened("synthia", trees.synthia(tmp_path))
    counts = {"void": 32, "lanemarking": 46, "car": 32, "terrain": 4 * 30 + 8 - 8, "road": 768 - 32 - 46 - 32 - 120}
    counts |= {"terrain": int((annotation.classes == layout.labels.classes.index("terrain")).sum())}
    assert histogram(layout, annotation)["car"] == 32
    assert objects(layout, annotation) == [("car", 16, False), ("car", 16, False)]
    layout, _, annotation = opened("synthia16", tmp_path)
    assert layout.labels.classes[:3] == ("road", "sidewalk", "building")
    assert layout.labels.num_classes == 16
    assert set(histogram(layout, annotation)) == {"road", "car", "void"}


def test_synthia_rand_has_11_classes(tmp_path: Path) -> None:
    layout, _, annotation = opened("synthia_rand", trees.synthia_rand(tmp_path))
    assert layout.labels.num_classes == 11
    assert histogram(layout, annotation) == {"void": 64, "Road": 22 * 24, "Cyclist": 22 * 8}


def test_brats_reads_volumes_and_slices(tmp_path: Path) -> None:
    layout, samples, annotation = opened("brats", trees.brats(tmp_path))
    assert (samples[0].split, samples[0].group) == ("train", "brats_2013_pat0005_1")
    image = layout.read_image(samples[0])
    assert image.shape == (4, 5, 6, 2)
    assert image[0, 0, 0].tolist() == [0.0, 1.0]  # flair, t1c
    assert annotation.spacing == pytest.approx((2.0, 0.9, 0.8))
    assert histogram(layout, annotation) == {"background": 118, "enhancing tumour": 1, "oedema": 1}
    slices, samples, _ = opened("brats_slices", tmp_path)
    assert len(samples) == 8
    assert [sample.id for sample in samples][:2] == ["brats_2013_pat0005_1/000", "brats_2013_pat0005_1/001"]
    second = slices.annotation(samples[1])
    assert histogram(slices, second) == {"background": 29, "enhancing tumour": 1}
    assert second.spacing == pytest.approx((0.9, 0.8))
    assert slices.read_image(samples[1]).shape == (5, 6, 2)
    (t1c,) = tmp_path.glob("**/brats_2013_pat0006_1/T1c_*")
    t1c.rename(t1c.with_name(t1c.name.replace("T1c", "T2")))  # as many channels, with another meaning
    with pytest.raises(InputError, match=r"1 of 2 cases have other modalities .* expected flair, t1c of each"):
        opened("brats_slices", tmp_path)


def test_slices_have_their_neighbours_as_channels(tmp_path: Path) -> None:
    trees.nifti(tmp_path)
    volume = open_layout("nifti", tmp_path)
    whole = volume.read_image(next(iter(volume.samples())))
    layout, samples, _ = opened("nifti_slices_25d", tmp_path)
    for number, sample in enumerate(samples[:4]):
        expected = [whole[place, ..., 0] for place in (max(number - 1, 0), number, min(number + 1, 3))]
        np.testing.assert_array_equal(layout.read_image(sample), np.stack(expected, axis=-1))
    plain, samples, _ = opened("nifti_slices", tmp_path)
    np.testing.assert_array_equal(plain.read_image(samples[3]), whole[3])
    assert histogram(plain, plain.annotation(samples[3])) == {"background": 26, "left atrium": 4}
