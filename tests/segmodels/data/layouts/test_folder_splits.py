"""Splits of one's own in layout folder and in VOC's folders: lists, tables and folders, in whatever form people write
them.
"""

from pathlib import Path

import layout_trees as trees
import pytest
from layout_trees import halves

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError

SIX = ("a", "b", "c", "d", "e", "f")


def split_names(root: Path, layout: str = "folder") -> dict[str | None, str]:
    found: dict[str | None, list[str]] = {}
    for sample in open_layout(layout, root).samples():
        found.setdefault(sample.split, []).append(sample.id)
    return {split: " ".join(names) for split, names in found.items()}


@pytest.mark.parametrize(
    "files",
    [
        {"train.txt": "a\nb\n", "valid.txt": "c\nd\n", "test.txt": "e\nf\n", "readme.txt": "mine"},
        {"splits/train.txt": "a\nb\n", "splits/valid.txt": "c\nd\n", "splits/test.txt": "e\nf\n"},
        {
            "train.txt": "images/a.jpg masks/a.png\nimages/b.jpg masks/b.png\n",
            "val_list.txt": "images/c.jpg\n./images/d.jpg\n",
            "test.txt": "e.jpg\nf\n",
        },
        {"splits.csv": "id,split\na,train\nb,training\nc,val\nd,dev\ne,test\nf,test\n"},
        {"split.csv": "id,split\na,train\nb,Train\nc,valid\nd,eval\ne,test\nf,test\n"},
        {"Splits/Train.TXT": "a\nb\n", "Splits/Val.TXT": "c\nd\n", "Splits/Test.TXT": "e\nf\n"},
        {"Train_List.txt": "a\nb\n", "VAL.txt": "c\nd\n", "test.TXT": "e\nf\n"},
        {"Splits.CSV": "id,split\na,train\nb,train\nc,val\nd,val\ne,test\nf,test\n"},
    ],
    ids=["lists", "splits/", "paths in lists", "splits.csv", "split.csv", "Splits/", "Lists", "Splits.CSV"],
)
def test_splits_of_ones_own_are_read_wherever_people_write_them(files: dict[str, str], tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png", SIX)
    for name, text in files.items():
        trees.write_text(tmp_path / name, text)
    assert split_names(tmp_path) == {"train": "a b", "val": "c d", "test": "e f"}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"splits/mine.txt": "a"}, r"splits/mine\.txt has the name of no split, expected train\.txt, .* rename it"),
        (
            {"splits/val.txt": "a", "splits/valid.txt": "b"},
            r"val\.txt and valid\.txt are both lists of val, ",
        ),
        (
            {"splits/train.txt": "a\nb\n\na.jpg\n"},
            r"train\.txt names the sample 'a\.jpg' in the lines 1 and 4",
        ),
        (
            {"train.txt": "images/a.jpg masks/b.png\nimages/b.jpg masks/a.png\n"},
            r"names the mask 'masks/b\.png' for images/a\.jpg, but the mask of the image's name, masks/a\.png, is read",
        ),
        ({"train.txt": "a\nz\n"}, r"train\.txt names the sample 'z', which has no image"),
        (
            {"splits.csv": "id,split\n" + "".join(f"{one},fold1\n" for one in SIX)},
            r"splits\.csv has the split 'fold1' fo",
        ),
        (
            {"splits.csv": "id,split\na,train\nb,val\na,test\n"},
            r"splits\.csv gives 'a' the split 'train' and 'test', expected one: remove one of the rows",
        ),
        ({"splits.csv": "id;split\na;train\n"}, r"expected the header id,split and such rows, with commas"),
        ({"groups.csv": "id,group\n" + "".join(f"{one},\n" for one in SIX)}, "has no group for 6 samples: a, b, c"),
        ({"splits.csv": "id,split\na,train\n"}, r"splits\.csv has no split for 5 samples: b, c, d, e, f: add them"),
    ],
)
def test_splits_that_leave_doubts_are_one_sentence(files: dict[str, str], sentence: str, tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png", SIX)
    for name, text in files.items():
        trees.write_text(tmp_path / name, text)
    with pytest.raises(InputError, match=sentence):
        split_names(tmp_path)


def test_files_beside_the_images_may_have_capitals_in_their_names(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "Images/{}.JPG", "MASKS/{}.PNG", ("a", "b"))
    trees.write_text(tmp_path / "Classes.TXT", "sky, 0\nroad, 255\n")
    trees.write_text(tmp_path / "Groups.csv", "id,group\na,one\nb,one\n")
    for name in ("a.png", "b.png"):
        trees.save(tmp_path / "Objects" / name, halves(0, 1))
    layout = open_layout(find_layout(tmp_path), tmp_path)
    assert (layout.labels.classes, layout.labels.things) == (("sky", "road"), {1})
    assert [(sample.group, sample.files[1:]) for sample in layout.samples()] == [
        ("one", ("Objects/a.png",)),
        ("one", ("Objects/b.png",)),
    ]


@pytest.mark.parametrize("mask", ["./masks/a.png", "labels/a.png", "elsewhere/a.png"])
def test_a_list_may_name_the_mask_that_is_read_in_other_ways(mask: str, tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "labels/{}.png", ("a",))
    (tmp_path / "masks").symlink_to("labels")
    trees.write_text(tmp_path / "train.txt", f"images/a.jpg {mask}\n")
    assert split_names(tmp_path) == {"train": "a"}


def test_a_split_beside_images_at_the_top_is_refused(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    trees.pairs(tmp_path, "test/images/{}.jpg", "test/masks/{}.png", ("t",))
    with pytest.raises(InputError, match=r"images in images/ and in test/images/, expected all at the top or .*: move"):
        open_layout("folder", tmp_path)
    for path in (tmp_path / "test" / "masks").iterdir():
        path.unlink()
    (tmp_path / "test" / "masks").rmdir()
    layout = open_layout("folder", tmp_path)
    assert len(list(layout.samples())) == 3
    assert layout.left_out == ["test/images/t.jpg"]


def test_folders_beside_the_splits_are_splits_or_said_to_be_left_out(tmp_path: Path) -> None:
    for home in ("train", "eval", "extra"):
        trees.pairs(tmp_path, f"{home}/images/{{}}.jpg", f"{home}/masks/{{}}.png", ("a", "b"))
    assert split_names(tmp_path) == {"train": "train/a train/b", "val": "eval/a eval/b"}
    layout = open_layout("folder", tmp_path)
    list(layout.samples())
    assert layout.left_out == ["extra/images/a.jpg", "extra/images/b.jpg"]


def test_a_stray_pair_does_not_undo_the_folders_of_the_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        trees.pairs(tmp_path, f"images/{split}/{{}}.jpg", f"masks/{split}/{{}}.png")
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png", ("stray",))
    with pytest.raises(InputError, match=r"1 of 10 samples in .* \(test, train, valid\): stray: move them into"):
        split_names(tmp_path)


def test_further_lists_of_voc_do_not_undo_the_splits(tmp_path: Path) -> None:
    trees.cvat_masks(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    for name, text in (("train", "frame 1"), ("val", "frame 2"), ("trainval", "frame 1\nframe 2"), ("all", "frame 1")):
        (lists / f"{name}.txt").write_text(text)
    assert split_names(tmp_path, "voc_export") == {"train": "frame 1", "val": "frame 2"}


@pytest.mark.parametrize("name", ["my photo {}", "img.{}"])
def test_lists_of_voc_may_hold_names_with_blanks_and_dots(name: str, tmp_path: Path) -> None:
    trees.pairs(tmp_path, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", ("a", "b", "c"))
    for split, one in (("train", "a"), ("val", "b")):
        trees.write_text(tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt", name.format(one))
    assert split_names(tmp_path, "voc2012") == {"train": name.format("a"), "val": name.format("b")}
    trees.write_text(tmp_path / "ImageSets" / "Segmentation" / "val.txt", name.format("gone"))
    with pytest.raises(InputError, match=f"lacks the image or the mask of {name.format('gone')}, which"):
        split_names(tmp_path, "voc2012")


def test_lists_of_voc_may_name_pairs_of_one_name(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", ("a", "b"))
    lists = tmp_path / "ImageSets" / "Segmentation"
    trees.write_text(lists / "val.txt", "b\n")
    trees.write_text(lists / "train.txt", "/JPEGImages/a.jpg /SegmentationClass/a.png\n")
    assert split_names(tmp_path, "voc2012") == {"train": "a", "val": "b"}
    trees.write_text(lists / "train.txt", "/JPEGImages/a.jpg /SegmentationClass/b.png\n")
    with pytest.raises(
        InputError, match=r"train\.txt names the mask '/SegmentationClass/b\.png' for /JPEGImages/a\.jpg"
    ):
        split_names(tmp_path, "voc2012")


def test_images_that_no_list_names_need_no_mask(tmp_path: Path) -> None:
    trees.pairs(tmp_path, "images/{}.jpg", "masks/{}.png", SIX)
    (tmp_path / "masks" / "f.png").unlink()
    trees.write_text(tmp_path / "train.txt", "a\nb\nc\n")
    trees.write_text(tmp_path / "val.txt", "d\n")
    assert split_names(tmp_path) == {"train": "a b c", "val": "d"}
    trees.write_text(tmp_path / "val.txt", "d\nf\n")
    with pytest.raises(InputError, match=r"1 file in .* has no mask: images/f\.jpg: add each mask"):
        list(open_layout("folder", tmp_path).samples())
