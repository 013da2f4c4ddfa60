"""Validation: what is measured of each sample, what stops the pipeline, what is warned about, and the pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_dataset import write, write_small_dataset

from components.params.checking import checked
from components.params.schema import IngestParams, ValidateParams
from components.running.digests import file_md5
from components.steps.ingest import ingest
from components.steps.validate import validate
from segmodels.data.decoding import ORIENTATION
from segmodels.errors import InputError

SPLITS = {"train": 8, "val": 4, "test": 4}
SIZE = (64, 48)  # width, height
ONE_WORKER = ValidateParams(workers=1)

Facts = dict[tuple[str, str], dict[str, Any]]


def ingested(tmp_path: Path, change: Callable[[Path], None] | None = None, **facts: Any) -> Path:
    """A small dataset in ``tmp_path/set``, changed, and its manifest."""
    root = write_small_dataset(tmp_path / "set", SPLITS, SIZE)
    if change:
        change(root)
    params = checked(IngestParams, {"source": "folder", "path": str(root), **facts})
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    return root


def validated(tmp_path: Path, params: ValidateParams = ONE_WORKER) -> tuple[dict[str, Any], Facts]:
    """Report and facts by (split, image)."""
    validate(params, tmp_path / "dataset", tmp_path / "validation")
    return read(tmp_path / "validation")


def read(folder: Path) -> tuple[dict[str, Any], Facts]:
    rows = pq.read_table(folder / "facts.parquet").to_pylist()
    return json.loads((folder / "report.json").read_text()), {(row["split"], row["image"]): row for row in rows}


def warnings(report: dict[str, Any]) -> dict[str, list[str]]:
    return {entry["check"]: entry["examples"] for entry in report["warnings"]}


def image(root: Path, number: int, split: str = "train") -> Path:
    return root / "images" / split / f"{number:03d}.png"


def mask(root: Path, number: int, split: str = "train") -> Path:
    return root / "masks" / split / f"{number:03d}.png"


def labels(*values: int) -> np.ndarray:
    """A mask of the dataset's size with these values in stripes."""
    return np.repeat(np.resize(np.array(values), SIZE[0])[None], SIZE[1], axis=0)


# What passes


def test_a_sound_dataset_passes_without_a_word_to_other_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contacted = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:  # by which processes of this machine speak
            contacted.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: contacted.append(address))
    root = ingested(tmp_path)
    report, facts = validated(tmp_path)
    assert report["success"]
    assert report["critical"] == report["warnings"] == []
    assert report["samples"] == SPLITS
    assert report["sizes"] == {"64x48": 16}
    assert report["image_formats"] == {"RGB, 8 bits": 16}
    assert len(facts) == 16
    row = facts["val", "images/val/002.png"]
    assert (row["size"], row["annotation_size"]) == ([48, 64], [48, 64])
    assert (row["image_md5"], row["md5s"]) == (file_md5(image(root, 2, "val")), [file_md5(mask(root, 2, "val"))])
    assert (row["dtype"], row["channels"], row["objects"]) == ("uint8", 3, 0)
    assert report["form"] == {"dtype": "uint8", "channels": 3, "spatial_dims": 2}
    assert sum(row["class_pixels"]) == 48 * 64
    assert "16 samples passed 23 of 23 checks" in capsys.readouterr().out
    assert contacted == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "set", "validation"]


def test_the_same_dataset_gives_the_same_report_and_facts(tmp_path: Path) -> None:
    ingested(tmp_path)
    files = ("facts.parquet", "report.json")
    seen = []
    for _ in range(2):
        validated(tmp_path)
        seen.append([file_md5(tmp_path / "validation" / name) for name in files])
    assert seen[0] == seen[1]


def test_masks_of_all_meaningful_forms_are_accepted_and_their_forms_told(tmp_path: Path) -> None:
    wanted = labels(0, 1, 1, 255)
    binary = labels(0, 1)
    palette = Image.fromarray(wanted.astype(np.uint8))
    palette.putpalette([10, 20, 30] * 256)
    forms = {
        0: Image.fromarray(wanted.astype(np.uint16)),
        1: Image.fromarray(np.stack([wanted] * 3 + [np.full_like(wanted, 99)], axis=2).astype(np.uint8), "RGBA"),
        2: palette,
        3: Image.fromarray(binary.astype(bool)),
    }

    def change(root: Path) -> None:
        for number, form in forms.items():
            write(mask(root, number), form)

    ingested(tmp_path, change)
    report, facts = validated(tmp_path)
    assert report["success"]
    rows = [facts["train", f"images/train/{number:03d}.png"] for number in forms]
    assert [(row["annotation_mode"], row["annotation_bits"]) for row in rows] == [
        ("I;16", 16),
        ("RGBA", 8),
        ("P", 8),
        ("1", 1),
    ]
    stripe = SIZE[1] * SIZE[0] // 4
    assert [row["class_pixels"] for row in rows] == [[stripe, 2 * stripe]] * 3 + [[2 * stripe, 2 * stripe]]
    assert [row["void_share"] for row in rows] == [0.25] * 3 + [0]


def test_images_of_all_common_forms_are_accepted_and_their_forms_told(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    deep = random.integers(0, 65536, (SIZE[1], SIZE[0], 3), dtype=np.uint16)
    colored = Image.fromarray((deep >> 8).astype(np.uint8))

    def change(root: Path) -> None:
        cv2.imwrite(str(image(root, 0)), deep)
        write(image(root, 1), Image.fromarray(deep[:, :, 0]))
        write(image(root, 2), colored.convert("RGBA"))
        write(image(root, 3), colored.convert("L"))
        write(image(root, 4), colored.quantize(64))
        write(image(root, 5), colored.convert("1"))

    ingested(tmp_path, change)
    report, facts = validated(tmp_path)
    assert report["success"]
    assert "one_form" in warnings(report)
    assert report["form"] == {"dtype": "uint8", "channels": 3, "spatial_dims": 2}
    rows = [facts["train", f"images/train/{number:03d}.png"] for number in range(6)]
    assert [(row["channels"], row["dtype"]) for row in rows] == [
        (3, "uint16"),
        (1, "uint16"),
        (3, "uint8"),
        (1, "uint8"),
        (3, "uint8"),
        (1, "uint8"),
    ]
    assert [(row["image_mode"], row["image_bits"]) for row in rows] == [
        ("RGB", 16),
        ("I;16", 16),
        ("RGBA", 8),
        ("L", 8),
        ("P", 8),
        ("1", 1),
    ]


def test_camvid_is_measured_on_all_cores(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "camvid"
    params = checked(
        IngestParams,
        {"source": "folder", "path": str(root), "layout": "camvid", "splits": {"test": "val"}},
    )
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    report, facts = validated(tmp_path, ValidateParams())
    assert report["success"]
    assert {name: len(examples) for name, examples in warnings(report).items()} == {"in_one_split": 202}
    total = {"train": np.zeros(12, int), "val": np.zeros(12, int)}
    for (split, _), row in facts.items():
        if split in total:
            with Image.open(root / row["annotation"]) as picture:
                counts = np.bincount(np.asarray(picture).ravel(), minlength=12)
            total[split] += counts
            assert row["class_pixels"] == counts[:11].tolist()
            assert row["void_share"] == pytest.approx(counts[11] / counts.sum())
    for split, counts in total.items():
        assert [entry["pixels"] for entry in report["classes"][split].values()] == counts[:11].tolist()
    assert report["classes"]["test"] == report["classes"]["val"]


# What stops the pipeline


def truncate_image(root: Path) -> None:
    image(root, 3).write_bytes(image(root, 3).read_bytes()[:-40])


def truncate_mask(root: Path) -> None:
    mask(root, 3).write_bytes(mask(root, 3).read_bytes()[:60])


def no_picture(root: Path) -> None:
    image(root, 3).write_text("<html>404</html>")


def other_size(root: Path) -> None:
    write(mask(root, 3), Image.fromarray(np.zeros((47, 64), np.uint8)))


def unknown_labels(root: Path) -> None:
    write(mask(root, 3), Image.fromarray(labels(0, 1, 7, 254).astype(np.uint8)))


def unknown_label_in_16_bits(root: Path) -> None:
    write(mask(root, 3), Image.fromarray(labels(0, 1, 256).astype(np.uint16)))


def all_void(root: Path) -> None:
    write(mask(root, 3), Image.fromarray(labels(255).astype(np.uint8)))


def colors_without_meaning(root: Path) -> None:
    write(mask(root, 3), Image.fromarray(np.dstack([labels(0, 1), labels(1, 0), labels(0, 0)]).astype(np.uint8)))


def object_is_255(root: Path) -> None:
    for path in (root / "masks").rglob("*.png"):
        write(path, Image.fromarray(np.asarray(Image.open(path)) * np.uint8(255)))


def jpeg_mask(root: Path, number: int) -> None:
    mask(root, number).unlink()
    Image.fromarray((labels(0, 1) * np.eye(SIZE[1], SIZE[0])).astype(np.uint8) * 9).save(
        mask(root, number).with_suffix(".jpg")
    )


def turned_photo(root: Path, number: int) -> None:
    """Over whose stored pixels the mask was drawn."""
    picture = Image.open(image(root, number))
    picture.getexif()[ORIENTATION] = 6
    picture.save(image(root, number), exif=picture.getexif())


def twelve_bits_among_eight(root: Path, number: int) -> None:
    write(
        image(root, number),
        Image.fromarray(np.asarray(Image.open(image(root, number)).convert("L")).astype(np.uint16) * 16 + 15),
    )


def too_small(root: Path) -> None:
    write(image(root, 3), Image.open(image(root, 3)).resize((40, 15)))
    write(mask(root, 3), Image.fromarray(np.zeros((15, 40), np.uint8)))


BAD = [
    (
        truncate_image,
        r"images that cannot be read, images/train/003\.png: file \S+/images/train/003\.png is truncated.*: replace it",
    ),
    (
        truncate_mask,
        r"masks that cannot be read, masks/train/003\.png: file \S+/masks/train/003\.png is truncated.*: replace it",
    ),
    (
        no_picture,
        (
            r"images that cannot be read, images/train/003\.png: file \S+/images/train/003\.png is truncated or broken"
            r" \(no known image format.*: replace it"
        ),
    ),
    (
        other_size,
        (
            r"masks of another size than their image, masks/train/003\.png \(64x47\): export them again at the size of"
            r" the image"
        ),
    ),
    (
        unknown_labels,
        (
            r"masks with unknown labels, masks/train/003\.png \(7, 254\): correct them or add the labels to the"
            r" dataset's classes"
        ),
    ),
    (
        unknown_label_in_16_bits,
        (
            r"masks with unknown labels, masks/train/003\.png \(256\): correct them or add the labels to the dataset's"
            r" classes"
        ),
    ),
    (
        object_is_255,
        (
            r"classes without a training pixel while masks hold 255, which is void unless the classes file says"
            r" otherwise, object \(write `object, 255`\): if 255 is the class, give it this id; if it is void, write"
            r" `!ignore, 255`"
        ),
    ),
    (all_void, r"masks that are void everywhere, masks/train/003\.png: label them or remove the samples"),
    (
        colors_without_meaning,
        r"masks that cannot be read, masks/train/003\.png: mask \S+ (holds the colour|is a colour picture).*",
    ),
    (
        too_small,
        (
            r"images with a side shorter than 16 pixels, images/train/003\.png \(15\): remove them or lower"
            r" validate\.min_side"
        ),
    ),
]


@pytest.mark.parametrize(("damage", "sentence"), BAD)
def test_a_bad_sample_is_one_sentence_and_the_report_lies_beside(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    ingested(tmp_path, damage)
    page = re.escape(str(tmp_path / "validation.failed" / "docs" / "index.html"))
    with pytest.raises(InputError, match=rf"^the dataset has {sentence}; {page} shows all$"):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    assert not (tmp_path / "validation").exists()
    report, facts = read(tmp_path / "validation.failed")
    assert not report["success"]
    assert [entry["count"] for entry in report["critical"]] == [1]
    assert len(facts) == 16
    assert "critical checks that failed: 1" in (tmp_path / "validation.failed" / "docs" / "index.html").read_text()


def test_known_causes_of_failures_are_named(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for number, cause in enumerate((jpeg_mask, turned_photo, twelve_bits_among_eight)):
            cause(root, number)

    ingested(tmp_path, change)
    expected = (
        r"masks of another size than their image, masks/train/001\.png \(64x48: the image's EXIF orientation 6"
        r" exchanges width and height, and the mask was drawn over the stored pixels\): export .*;"
        r" masks with unknown labels, masks/train/000\.jpg \([\d, ]+; JPEG changes label values when it compresses:"
        r" export masks as PNG\): .*; images whose channels or type do not fit the others, images/train/002\.png"
        r" \(images of 1 channel uint16, values up to \d{4} of 65535, beside images of 8 bits\): convert"
    )
    with pytest.raises(InputError, match=expected):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")


def test_files_that_changed_or_vanished_after_ingest_are_told(tmp_path: Path) -> None:
    root = ingested(tmp_path)
    shutil.copy(image(root, 1), image(root, 2))
    mask(root, 4, "train").unlink()
    expected = (
        r"masks that cannot be read, masks/train/004\.png: file \S+ cannot be read \(No such file or directory\):"
        r" restore it.*; "
        r"images that have changed since the step ingest, images/train/002\.png: run it again; "
    )
    with pytest.raises(InputError, match=expected):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")


def test_an_image_without_a_mask_is_told(tmp_path: Path) -> None:
    ingested(tmp_path)
    table = pq.read_table(tmp_path / "dataset" / "manifest.parquet").to_pylist()
    table[5].update(files=[], md5s=[])
    schema = pq.read_schema(tmp_path / "dataset" / "manifest.parquet")
    pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / "dataset" / "manifest.parquet")
    with pytest.raises(
        InputError,
        match=r"^the dataset has images without a mask, images/train/005\.png: add the masks or remove the images; ",
    ):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")


def test_of_many_bad_files_five_are_named_and_the_others_counted(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for number in range(7):
            write(mask(root, number), Image.fromarray(np.zeros((47, 64), np.uint8)))

    ingested(tmp_path, change)
    named = ", ".join(rf"masks/train/00{number}\.png \(64x47\)" for number in range(5))
    with pytest.raises(
        InputError, match=rf"masks of another size than their image, {named} and 2 more: export them again"
    ):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    report, _ = read(tmp_path / "validation.failed")
    assert len(report["critical"][0]["examples"]) == 7


def test_success_removes_what_the_last_failure_left_and_failure_what_success_left(tmp_path: Path) -> None:
    root = ingested(tmp_path)
    validated(tmp_path)
    sound = mask(root, 3).read_bytes()
    truncate_mask(root)
    with pytest.raises(InputError):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "set", "validation.failed"]
    mask(root, 3).write_bytes(sound)
    validated(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "set", "validation"]


def test_the_command_ends_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    ingested(tmp_path, unknown_labels)
    (tmp_path / "params.yaml").write_text("validate: {workers: 2}\n")
    command = [sys.executable, "-m", "components", "validate", "--dataset", "dataset", "--validation", "validation"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr
        == "error: the dataset has masks with unknown labels, masks/train/003.png (7, 254): correct them or add the"
        " labels to the dataset's classes; validation.failed/docs/index.html shows all\n"
    )


# What is warned about


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


def test_turned_photos_masks_in_alpha_and_nearly_empty_ranges_are_warned_about(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for path in (root / "images").rglob("*.png"):
            picture = Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16)
            exif = Image.Exif()
            exif[ORIENTATION] = 3 if path == image(root, 3) else 1
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
        "upright": ["images/train/003.png (3)"],
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
