"""Validation: what is warned about, and the pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import layout_trees as trees
import numpy as np
import pytest
import tifffile
from PIL import Image
from small_dataset import write
from test_validate import other_size
from validated_set import ONE_WORKER, SIZE, image, ingested, labels, mask, validated, warnings

from components.params.checking import checked
from components.params.schema import IngestParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.validate import validate
from segmodels.data.decoding import ORIENTATION
from segmodels.errors import InputError


def test_duplicates_in_two_splits_and_in_one_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def change(root: Path) -> None:
        shutil.copy(image(root, 0), image(root, 1, "test"))
        shutil.copy(image(root, 2), image(root, 3))

    ingested(tmp_path, change)
    report, facts = validated(tmp_path)
    assert warnings(report) == {
        "in_one_split": [
            "images/train/000.png (test: images/test/001.png)",
            "images/test/001.png (train: images/train/000.png)",
        ],
        "images_distinct": ["images/train/002.png", "images/train/003.png"],
    }
    assert facts["test", "images/test/001.png"]["also_in"] == "train: images/train/000.png"
    row = (
        r"│ images that are more than once in their split: 2 +│ images/train/002\.png, images/train/003\.png +│ remove"
        r" the copies +│"
    )
    assert re.search(row, capsys.readouterr().out)


def test_things_without_objects_are_warned_about(tmp_path: Path) -> None:
    ingested(tmp_path, lambda root: (root / "classes.txt").write_text("background\nobject\n!things, object\n"))
    report, _ = validated(tmp_path)
    assert warnings(report)["things_have_objects"] == ["object"]
    assert report["success"]


def test_images_whose_file_of_objects_is_missing_are_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        """As a tool exports masks and objects; the classes have a file of their own."""
        (root / "images").rename(root / "JPEGImages")
        (root / "masks").rename(root / "SegmentationClass")
        shutil.copytree(root / "SegmentationClass", root / "SegmentationObject")
        (root / "SegmentationObject" / "train" / "003.png").unlink()
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        for split in ("train", "val", "test"):
            names = sorted(path.stem for path in (root / "JPEGImages" / split).iterdir())
            lines = "".join(f"{split}/{name}\n" for name in names)
            (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)

    ingested(tmp_path, change)
    report, _ = validated(tmp_path)
    assert warnings(report)["objects_complete"] == ["SegmentationClass/train/003.png (object)"]


def test_an_image_that_was_rescaled_and_recompressed_into_another_split_is_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        image(root, 2, "val").unlink()
        mask(root, 2, "val").unlink()
        picture = Image.open(image(root, 6)).resize((128, 96), Image.Resampling.BICUBIC)
        picture.save(root / "images" / "val" / "002.jpg", quality=80)
        write(mask(root, 2, "val"), Image.fromarray(np.zeros((96, 128), np.uint8)))

    ingested(tmp_path, change)
    report, _ = validated(tmp_path)
    assert warnings(report)["unlike_other_splits"] == [
        "images/train/006.png (val: images/val/002.jpg)",
        "images/val/002.jpg (train: images/train/006.png)",
    ]


def test_images_without_texture_do_not_look_like_one_another(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def change(root: Path) -> None:
        for path in (root / "images").rglob("*.png"):
            write(path, Image.fromarray(random.integers(20, 24, (SIZE[1], SIZE[0], 3), dtype=np.uint8)))

    ingested(tmp_path, change)
    report, facts = validated(tmp_path)
    assert warnings(report) == {}
    assert {row["image_hash"] for row in facts.values()} == {None}


def test_void_sizes_and_classes_are_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        (root / "classes.txt").write_text("background\nobject\nghost\n!ignore, 255\n")
        write(mask(root, 5), Image.fromarray(labels(*[255] * 15, 1).astype(np.uint8)))
        write(image(root, 6), Image.open(image(root, 6)).crop((0, 0, 40, 40)))
        write(mask(root, 6), Image.fromarray(np.zeros((40, 40), np.uint8)))
        write(mask(root, 0, "val"), Image.fromarray(labels(2).astype(np.uint8)))

    ingested(tmp_path, change)
    report, _ = validated(tmp_path)
    assert report["success"]
    assert warnings(report) == {
        "mostly_labelled": ["masks/train/005.png (0.938)"],
        "one_size": [],
        "classes_occur": ["ghost (train)", "ghost (test)"],
    }
    assert report["sizes"] == {"64x48": 15, "40x40": 1}
    assert report["classes"]["val"]["ghost"] == {"pixels": SIZE[0] * SIZE[1], "samples": 1}


def test_a_band_that_a_tiff_file_declares_to_be_alpha_is_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for number, alpha in ((2, np.asarray(Image.open(image(root, 2)))[..., 0]), (3, labels(255, 0))):
            pixels = np.dstack([np.asarray(Image.open(image(root, number))), alpha.astype(np.uint8)])
            image(root, number).unlink()
            tifffile.imwrite(image(root, number).with_suffix(".tif"), pixels, photometric="rgb")

    ingested(tmp_path, change)
    report, _ = validated(tmp_path)
    assert warnings(report) == {"bands_read": ["images/train/002.tif"]}


def test_declared_no_data_in_images_is_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for number, path in enumerate(sorted((root / "images").rglob("*.png"))):
            pixels = np.asarray(Image.open(path)).astype(np.float32)
            pixels[:4] = -9999 if number == 2 else pixels[:4]
            pixels[4:8] = 0
            declared = "0" if number == 3 else "-9999"
            tags = [(42113, "s", 0, declared, True)]
            tifffile.imwrite(path.with_suffix(".tif"), pixels, photometric="rgb", extratags=tags)
            path.unlink()

    root = ingested(tmp_path, change)
    third = sorted((root / "images").rglob("*.tif"))[2].relative_to(root)
    report, _ = validated(tmp_path)
    assert warnings(report) == {"values_are_data": [f"{third} (-9999, 8.3% of the values)"]}


def test_animations_are_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for number, pictures in ((2, 3), (3, 1)):
            frames = [
                Image.fromarray(np.roll(np.asarray(Image.open(image(root, number))), n, 0)) for n in range(pictures)
            ]
            image(root, number).unlink()
            frames[0].save(image(root, number).with_suffix(".gif"), save_all=True, append_images=frames[1:])

    ingested(tmp_path, change)
    report, _ = validated(tmp_path)
    assert warnings(report) == {"one_picture": ["images/train/002.gif (3 pictures)"]}


def test_label_maps_whose_affine_is_shifted_are_warned_about(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    root = trees.nifti(tmp_path / "set")
    files = sorted((root / "labelsTr").iterdir())
    for number, path in enumerate(files):
        label = nibabel.load(path)
        affine = label.affine.copy()
        affine[0, 3] += affine[0, 0] * (5 if number == 0 else 0.4)
        nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), affine), path)
    params = {"source": "folder", "path": str(root), "split": {"val": 0.34, "test": 0.34}}
    ingest(checked(IngestParams, params), tmp_path / "dataset", tmp_path / "cache")
    report, _ = validated(tmp_path, ValidateParams(workers=1, min_side=1))
    assert warnings(report)["volumes_in_place"] == [f"labelsTr/{files[0].name} (5.0 voxels)"]


def test_turned_photos_masks_in_alpha_and_nearly_empty_ranges_are_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for path in (root / "images").rglob("*.png"):
            picture = Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16)
            exif = Image.Exif()
            exif[ORIENTATION] = {image(root, 3): 3, image(root, 5): 6}.get(path, 1)
            picture.save(path, exif=exif)
        write(mask(root, 2), Image.fromarray(np.dstack([labels(1)] * 3 + [labels(0, 255)]).astype(np.uint8), "RGBA"))
        flat = Image.fromarray(np.zeros(SIZE[::-1], np.uint8))
        mask(root, 4).unlink()
        flat.save(mask(root, 4).with_suffix(".jpg"))

    ingested(tmp_path, change)
    report, facts = validated(tmp_path)
    found = warnings(report)
    top = max(row["highest"] for row in facts.values())
    assert report["form"] == {"dtype": "uint16", "channels": 1, "spatial_dims": 2}
    assert top < 4096
    assert found.pop("range_used")[0] == f"images/train/000.png (values up to {top} of 65535)"
    assert found == {
        "upright": ["images/train/003.png (3)", "images/train/005.png (6)"],
        "alpha_unused": ["masks/train/002.png"],
        "masks_lossless": ["masks/train/004.jpg"],
    }


# Pages


def test_the_pages_are_plain_words_linked_and_need_no_other_host(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        other_size(root)
        (root / "classes.txt").write_text("background\nobject\nwitch & <wizard>\n")

    ingested(tmp_path, change)
    with pytest.raises(InputError):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    docs = tmp_path / "validation.failed" / "docs"
    pages = {page: page.read_text() for page in docs.rglob("*.html")}
    assert {page.parent.name if page.name == "index.html" else page.relative_to(docs).parts[2] for page in pages} == {
        "docs",
        "Images and masks",
        "Images and masks.html",
        "Classes in each split",
        "Classes in each split.html",
        "Pairs in each split",
        "Pairs in each split.html",
    }
    for page, text in pages.items():
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|<script""", text), page
        for link in re.findall(r'href="([^"#]+)', text):
            assert (page.parent / unquote(link)).exists(), (page, link)
    overview = pages[docs / "index.html"]
    for words in (
        "Every mask has the size of its image.",
        "masks/train/003.png (64x47)",
        "witch &amp; &lt;wizard&gt;",
        "facts.parquet",
    ):
        assert words in overview
    results = next(text for page, text in pages.items() if page.parts[-4:-3] == ("Images and masks",))
    assert "Every mask has the size of its image." in results
    assert "masks/train/003.png" in results
