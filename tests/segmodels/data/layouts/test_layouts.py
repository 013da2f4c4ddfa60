"""Layouts: found by name, one registered class each; CamVid on its real files."""

import cv2
import numpy as np
import pytest
from small_folder import IMAGE, folder

from segmodels.data.layouts import Layout, LayoutCard, Sample, list_layouts, open_layout, register_layout
from segmodels.data.layouts.base import LAYOUTS
from segmodels.errors import InputError
from segmodels.labels import LabelMap

# The layout camvid, on its real files


def test_camvid_reads_the_real_frames(shared_data):
    layout = open_layout("camvid", shared_data / "camvid")
    samples = list(layout.samples())
    assert {split: sum(s.split == split for s in samples) for split in ("train", "val")} == {"train": 367, "val": 101}
    assert samples[0] == Sample(
        "0001TP_006690", "train", "train/0001TP_006690.jpg", ("trainannot/0001TP_006690.png",), "0001TP_006690"
    )
    image, mask = layout.read_image(samples[0]), layout.annotation(samples[0]).classes
    assert image.shape == (360, 480, 3)
    assert set(np.unique(mask)) <= {*range(11), 255}
    raw = cv2.imread(str(shared_data / "camvid" / "trainannot" / "0001TP_006690.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, np.where(raw == 11, 255, raw))
    assert image[mask == 0].mean() > image[mask == 3].mean()  # the sky is brighter than the road


def test_camvid_without_lists_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'camvid', expected train\.txt, val\.txt or test\.txt beside trainannot/"):
        open_layout("camvid", tmp_path)


def test_camvid_names_a_broken_line(tmp_path):
    (tmp_path / "trainannot").mkdir()
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/a.png\n")
    with pytest.raises(InputError, match=r"train\.txt line 1"):
        list(open_layout("camvid", tmp_path).samples())


def test_layouts_are_found_by_name():
    assert {"folder", "camvid"} <= set(list_layouts())
    with pytest.raises(InputError, match=r"unknown layout 'fodler'.*folder"):
        open_layout("fodler", ".")
    for entry in LAYOUTS:
        assert entry.card.reads
        assert entry.card.source
        assert len(entry.build.tree.splitlines()) > 1
        assert entry.build.marks or not entry.build.automatic


def test_a_layout_is_one_registered_class(tmp_path):
    @register_layout("test stripes", LayoutCard("stripes", "this test"))
    class Stripes(Layout):
        tree = "*.npy   stripes"
        labels = LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1})

        def samples(self):
            yield Sample("only", None, "only.npy", (), "only")

        def read_image(self, sample):
            return np.load(self.root / sample.image)

        def annotation(self, sample):
            assert sample.files == ()

    np.save(tmp_path / "only.npy", IMAGE)
    try:
        layout = open_layout("test stripes", tmp_path)
        assert layout.name == "test stripes"
        assert layout.annotation(next(iter(layout.samples()))) is None
    finally:
        LAYOUTS._entries.pop("test stripes")


def test_without_masks_nothing_is_annotated_under_either_name(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    (tmp_path / "masks").rmdir()
    for name in ("folder", "images"):
        layout = open_layout(name, tmp_path)
        assert layout.name == "folder"
        assert [sample.files for sample in layout.samples()] == [()] * 3
        assert layout.annotation(next(iter(layout.samples()))) is None
