"""Validation: what is measured of each sample of a dataset that passes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from small_dataset import write
from validated_set import SIZE, SPLITS, image, ingested, labels, mask, validated, warnings

from components.params.checking import checked
from components.params.schema import IngestParams, ValidateParams
from components.running.digests import file_md5
from components.steps.ingest import ingest


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
    assert "16 samples passed 36 of 36 checks" in capsys.readouterr().out
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


@pytest.mark.slow
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
