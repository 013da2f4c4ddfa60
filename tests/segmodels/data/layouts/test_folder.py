"""The layout ``folder``: files that belong together, splits, classes, and what is wrong with them."""

import json
import time

import numpy as np
import pytest
from small_folder import IMAGE, MASK, folder, read_both, save

from segmodels.data.layouts import Sample, open_layout
from segmodels.errors import InputError
from segmodels.labels import UnknownLabelsError


def test_folder_reads_images_masks_and_classes(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    assert layout.labels.classes == ("ground", "road", "car")
    assert layout.labels.ids == {0: 0, 1: 1, 2: 2, 255: 255}
    samples = list(layout.samples())
    assert samples == [Sample(name, None, f"images/{name}.png", (f"masks/{name}.png",), name) for name in "abc"]
    annotation = layout.annotation(samples[1])
    np.testing.assert_array_equal(layout.read_image(samples[1]), IMAGE)
    np.testing.assert_array_equal(annotation.classes, MASK)
    assert annotation.layers.shape == (0, 12, 17)
    assert layout.labels.things == frozenset()


def test_folder_takes_splits_from_lists(tmp_path):
    folder(tmp_path, names=("a", "b.x", "deep/c", "left"))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("b.x\n\na.png\n")
    (tmp_path / "splits" / "test.txt").write_text("deep/c\n")
    layout = open_layout("folder", tmp_path)
    assert [(s.split, s.id) for s in layout.samples()] == [("train", "b.x"), ("train", "a"), ("test", "deep/c")]
    assert layout.left_out == ["images/left.png"]


def test_folder_refuses_a_list_with_a_sample_that_is_not_there(tmp_path):
    folder(tmp_path)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "val.txt").write_text("a\nzebra\n")
    with pytest.raises(InputError, match=r"val\.txt names the sample 'zebra'"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_takes_splits_from_sub_folders(tmp_path):
    folder(tmp_path, names=("val/a", "train/a", "train/b", "test/z"))
    assert [(s.split, s.id) for s in open_layout("folder", tmp_path).samples()] == [
        ("train", "train/a"),
        ("train", "train/b"),
        ("val", "val/a"),
        ("test", "test/z"),
    ]


def test_folder_takes_other_sub_folders_for_names(tmp_path):
    folder(tmp_path, names=("train/a", "town/b"))
    assert {s.split for s in open_layout("folder", tmp_path).samples()} == {None}


def test_folder_takes_groups_from_csv(tmp_path):
    folder(tmp_path)
    (tmp_path / "groups.csv").write_text("id,group\na.png,anna\nb,bert\nc.jpg,anna\n")
    assert [s.group for s in open_layout("folder", tmp_path).samples()] == ["anna", "bert", "anna"]
    (tmp_path / "groups.csv").write_text("id,group\na,anna\n")
    with pytest.raises(InputError, match="no group for 2 samples: b, c"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_takes_the_classes_of_whole_images_from_csv(tmp_path):
    folder(tmp_path)
    assert {s.image_label for s in open_layout("folder", tmp_path).samples()} == {None}
    (tmp_path / "image_labels.csv").write_text("id,label\nc,2\na,0\nb,1\n")
    assert [s.image_label for s in open_layout("folder", tmp_path).samples()] == [0, 1, 2]
    (tmp_path / "image_labels.csv").write_text("id,label\na,0\nc,1\n")
    with pytest.raises(InputError, match="no label for 1 samples: b"):
        list(open_layout("folder", tmp_path).samples())
    (tmp_path / "image_labels.csv").write_text("id,label\na,0\nb,benign\nc,1\n")
    with pytest.raises(InputError, match="label 'benign' for b, expected the number"):
        list(open_layout("folder", tmp_path).samples())


@pytest.mark.parametrize(("part", "missing"), [("masks", "mask"), ("images", "image")])
def test_folder_names_up_to_five_files_without_partner(tmp_path, part, missing):
    folder(tmp_path, names=[f"n{i}" for i in range(9)])
    for i in range(1, 8):
        (tmp_path / part / f"n{i}.png").unlink()
    with pytest.raises(InputError, match=rf"7 files in .* have no {missing}: ") as error:
        list(open_layout("folder", tmp_path).samples())
    assert str(error.value).count(".png") == 5


def test_folder_refuses_two_files_of_one_name(tmp_path):
    folder(tmp_path)
    save(tmp_path / "images" / "a.jpg", IMAGE)
    with pytest.raises(InputError, match=r"a\.jpg.*a\.png|a\.png.*a\.jpg"):
        list(open_layout("folder", tmp_path).samples())


def test_folder_without_its_parts_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        open_layout("folder", tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no folder images/"):
        open_layout("folder", tmp_path)
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"neither classes\.txt nor classes\.json"):
        open_layout("folder", tmp_path)


def test_folder_without_images_is_refused(tmp_path):
    folder(tmp_path, names=())
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        list(open_layout("folder", tmp_path).samples())


def test_a_mask_of_another_size_is_refused(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    save(tmp_path / "masks" / "a.png", MASK[:5])
    with pytest.raises(InputError, match=r"masks/a\.png is 17x5 but its image images/a\.png is 17x12"):
        read_both(layout)


def test_a_mask_with_an_unknown_label_is_refused(tmp_path):
    layout = open_layout("folder", folder(tmp_path))
    save(tmp_path / "masks" / "a.png", MASK + np.uint8(1))
    with pytest.raises(UnknownLabelsError, match=r"^masks/a\.png: mask holds unknown labels \[3\]") as error:
        read_both(layout)
    assert error.value.unknown == [3]


# The classes file


@pytest.mark.parametrize(
    ("lines", "assumed"),
    [
        ("sky\nroad\n", 255),
        ("sky\nroad, 255\n", None),
        ("sky\nroad\n!ignore, 255\n", None),
        ("sky\nroad\n!ignore, 7\n", None),
    ],
)
def test_255_is_void_by_default_alone_where_the_file_says_nothing_of_it(tmp_path, lines, assumed):
    (folder(tmp_path) / "classes.txt").write_text(lines)
    assert open_layout("folder", tmp_path).assumed_void == assumed


def test_a_long_list_of_classes_is_read_at_once_and_refused_briefly(tmp_path):
    names = [f"c{number}" for number in range(70_000)]
    (folder(tmp_path) / "classes.txt").write_text("\n".join([*names, "!things, " + ", ".join(names)]))
    start = time.process_time()
    with pytest.raises(InputError, match=r"the ids \[65536, .*\] and 4459 more are out of range") as error:
        open_layout("folder", tmp_path)
    assert time.process_time() - start < 5
    assert len(str(error.value)) < 300


TEXT = "# my classes\nsky, 4\n\nroad crossing, 7\n!ignore, 0\n!ignore, 9\n"
JSON = {"classes": [{"name": "sky", "id": 4}, {"name": "road crossing", "id": 7}], "ignore": [0, 9]}


@pytest.mark.parametrize(("name", "content"), [("classes.txt", TEXT), ("classes.json", json.dumps(JSON))])
def test_classes_may_have_ids_and_ignored_ids(tmp_path, name, content):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / name).write_text(content)
    labels = open_layout("folder", tmp_path).labels
    assert labels.classes == ("sky", "road crossing")
    assert labels.ids == {4: 0, 7: 1, 0: 255, 9: 255}
    assert len(set(labels.palette)) == 2


COLORS = "no, 0, 0, 0\nyes, 255, 255, 255, 255\n!ignore, 9, 9, 9\n"


def test_classes_may_have_colours_that_read_rgb_masks(tmp_path):
    layout = open_layout("folder", folder(tmp_path, classes=COLORS))
    assert layout.labels.palette == ((0, 0, 0), (255, 255, 255))
    assert layout.labels.ids == {0: 0, 255: 1, 65535: 255}
    save(tmp_path / "masks" / "a.png", np.array([(0, 0, 0), (255, 255, 255), (9, 9, 9)], np.uint8)[MASK])
    _, annotation = read_both(layout)
    np.testing.assert_array_equal(annotation.classes, np.array([0, 1, 255])[MASK])


def test_plain_names_are_enough_in_json(tmp_path):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    assert open_layout("folder", tmp_path).labels.ids == {0: 0, 1: 1, 2: 2, 255: 255}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("a\nb, 1, 2\n", r"classes\.txt line 2 is 'b, 1, 2'"),
        ("a\nb, x\n", r"line 2 is 'b, x'"),
        ("a\nb, 0, 0, 300\n", r"line 2 .* colours 0\.\.255"),
        ("a, 1\nb\n", r"ids \[1\] are given to more than one class"),
        ("a\nb\n!ignore, 1\n", r"ids \[1\] are both classes and ignored"),
        ("a\nb, 70000\n", r"ids \[70000\] are out of range"),
        ("a\nb, 1, 1, 1\n", "1 of 2 classes have a colour"),
        ("a, 1, 1, 1\nb, 1, 1, 1\n", r"the classes .a. and .b. have the same colour \(1, 1, 1\)"),
        ("a\n", r"the classes \['a'\], expected at least 2"),
        ("a\na\n", r"\['a'\] more than once"),
    ],
)
def test_a_wrong_classes_file_is_refused(tmp_path, classes, message):
    with pytest.raises(InputError, match=message):
        open_layout("folder", folder(tmp_path, classes=classes))


@pytest.mark.parametrize(
    ("classes", "line", "better"),
    [
        ("background 0\nb 2\na 1\n", "background 0", "background, 0"),
        ("0 background\n2\tb\n1 a\n", "0 background", "background, 0"),
        ("0: background\n2: b\n1: a\n!ignore, 255\n", "0: background", "background, 0"),
        ("dry road=0\nb=2\n# and\na = 1\n", "dry road=0", "dry road, 0"),
        ("0. background\n2. b\n1) a\n", "0. background", "background, 0"),
        ("bg 0 0 0\na 255 0 0\nb 0 255 0\n", "bg 0 0 0", "bg, 0, 0, 0"),
        ("bg;0;0;0\na; 255; 0; 0\nb;0;255;0\n", "bg;0;0;0", "bg, 0, 0, 0"),
        ("3 sky 9 8 7\n1 a 255 0 0\n", "3 sky 9 8 7", "sky, 9, 8, 7, 3"),
        ("3 9 8 7 sky\n1 255 0 0 a\n", "3 9 8 7 sky", "sky, 9, 8, 7, 3"),
    ],
)
def test_names_and_numbers_without_commas_are_refused(tmp_path, classes, line, better):
    with pytest.raises(InputError) as error:
        open_layout("folder", folder(tmp_path, classes=classes))
    assert f"classes.txt has the line {line!r}, expected commas before the numbers: write {better!r}" in str(
        error.value
    )


@pytest.mark.parametrize(
    "names",
    [
        ("class 0", "class 1", "class 2"),
        ("zone 2", "zone 1", "lane 1"),
        ("background", "class 1", "b 7"),
        ("0", "1", "2"),
        ("b1", "b2", "2x"),
    ],
)
def test_numbers_may_belong_to_names(tmp_path, names):
    assert open_layout("folder", folder(tmp_path, classes="\n".join(names))).labels.classes == names


def test_names_that_end_in_numbers_may_have_ids(tmp_path):
    layout = open_layout("folder", folder(tmp_path, classes="sentinel 2, 0\nlandsat 8, 1\n"))
    assert layout.labels.classes == ("sentinel 2", "landsat 8")


def test_an_ignored_id_needs_its_comma(tmp_path):
    with pytest.raises(InputError, match=r"line 3 is '!ignore 255'"):
        open_layout("folder", folder(tmp_path, classes="a\nb\n!ignore 255\n"))


@pytest.mark.parametrize("white", [(255, 255, 255), (255, 0, 0)])
def test_colours_may_stand_in_class_dict(tmp_path, white):
    (folder(tmp_path) / "classes.txt").unlink()
    (tmp_path / "class_dict.csv").write_text(f"name, r, g, b\nroad,{white[0]},{white[1]},{white[2]}\n\nbg, 0,0,0\n")
    save(tmp_path / "masks" / "a.png", np.array([(0, 0, 0), white, white], np.uint8)[MASK])
    layout = open_layout("folder", tmp_path)
    assert layout.labels.classes == ("road", "bg")
    np.testing.assert_array_equal(read_both(layout)[1].classes, np.array([1, 0, 0])[MASK])
    if white == (255, 255, 255):
        save(tmp_path / "masks" / "a.png", np.array([0, 255, 255], np.uint8)[MASK])
        np.testing.assert_array_equal(read_both(layout)[1].classes, np.array([1, 0, 0])[MASK])


@pytest.mark.parametrize(
    ("content", "line"), [("", "1 is ''"), ("a,0,0,0\n", "1 is"), ("name,r,g,b\na,0,0,300\n", "2 is"), ("\n\n", "1")]
)
def test_a_wrong_class_dict_is_refused(tmp_path, content, line):
    (folder(tmp_path) / "classes.txt").unlink()
    (tmp_path / "class_dict.csv").write_text(content)
    with pytest.raises(InputError, match=rf"class_dict\.csv line {line}.*expected the header name,r,g,b"):
        open_layout("folder", tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"classes": [{"id": 3}, "b"]}', '{"classes": [{"name": "a", "color": [1, 2]}, "b"]}']
)
def test_a_wrong_json_classes_file_is_refused(tmp_path, content):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json cannot be understood"):
        open_layout("folder", tmp_path)


def test_a_class_name_is_unicode_text(tmp_path):
    folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(r'{"classes": ["ground", "r\ud800ad"]}')
    with pytest.raises(InputError, match=r"class 'r\\ud800ad' has half a surrogate pair in its name"):
        open_layout("folder", tmp_path)
