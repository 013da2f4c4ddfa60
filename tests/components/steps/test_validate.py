"""Validation: what stops the pipeline, in one sentence."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_dataset import write
from validated_set import ONE_WORKER, SIZE, image, ingested, labels, mask, read, validated

from components.running.digests import folder_digest
from components.steps.validate import validate
from components.validation.sample_facts import gather_facts
from segmodels.errors import InputError


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
            r" `!ignore, 255`; if 0 has become 255 \(ids reduced by one, reduce_zero_label\), make the masks again"
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
        for number, cause in zip((0, 2), (jpeg_mask, twelve_bits_among_eight), strict=True):
            cause(root, number)
        Image.open(mask(root, 1)).transpose(Image.Transpose.ROTATE_90).save(mask(root, 1))

    ingested(tmp_path, change)
    expected = (
        r"masks of another size than their image, masks/train/001\.png \(48x64: width and height are"
        r" exchanged\): export .*;"
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
    named = ", ".join(rf"masks/train/00{number}\.png" for number in range(5))
    with pytest.raises(
        InputError, match=rf"masks of another size than their image, {named} and 2 more \(64x47\): export them again"
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


def test_a_file_in_the_place_of_a_failed_validation_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "validation.failed").write_text("mine")
    with pytest.raises(InputError, match=r"validation\.failed cannot be used \(not a directory\)"):
        validate(ONE_WORKER, tmp_path / "absent", tmp_path / "validation")
    assert (tmp_path / "validation.failed").read_text() == "mine"


def test_the_output_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    ingested(tmp_path)
    (tmp_path / "disk" / "mine").mkdir(parents=True)
    (tmp_path / "validation").symlink_to(tmp_path / "disk" / "mine")
    for _ in range(2):
        validated(tmp_path)
        assert (tmp_path / "validation").is_symlink()
        assert (tmp_path / "disk" / "mine" / "report.json").is_file()


def test_a_folder_of_the_user_under_the_name_of_a_failed_validation_stays(tmp_path: Path) -> None:
    ingested(tmp_path)
    (tmp_path / "validation.failed").mkdir()
    (tmp_path / "validation.failed" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"validation\.failed is where step validate writes, .* \(mine\.txt\)"):
        validated(tmp_path)
    assert (tmp_path / "validation.failed" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "validation").exists()


def test_pages_are_the_same_in_all_time_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested(tmp_path)
    digests = set()
    for zone in ("UTC", "Asia/Kathmandu", "CET-1CEST"):  # the last is one of the C library
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        validated(tmp_path)
        digests.add(folder_digest(tmp_path / "validation"))
        assert os.environ["TZ"] == zone
    monkeypatch.undo()
    time.tzset()
    assert len(digests) == 1


def test_a_page_that_cannot_be_written_is_no_message_of_great_expectations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("great_expectations.data_context.store.html_site_store.HtmlSiteStore.set", refuse)
    ingested(tmp_path)
    with pytest.raises(OSError, match="File too large"):
        validated(tmp_path)


@pytest.mark.slow
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


def test_great_expectations_is_imported_while_the_samples_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingested(tmp_path)
    importing = threading.Event()

    def gather_meanwhile(*arguments: Any) -> pa.Table:
        assert importing.wait(10)
        return gather_facts(*arguments)

    monkeypatch.setattr("components.steps.validate.import_packages", importing.set)
    monkeypatch.setattr("components.steps.validate.gather_facts", gather_meanwhile)
    report, _ = validated(tmp_path)
    assert report["success"]
