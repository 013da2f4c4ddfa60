"""What a later step would refuse after the training is refused before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_scenes import write_scene_shards
from small_pipeline import DIGEST, LABELS, write_shards

from components.__main__ import main
from components.params.measuring import check_measuring
from components.params.overrides import assembled_params
from segmodels.annotations import Annotation
from segmodels.data.shard_writer import ShardWriter
from segmodels.errors import InputError

PANOPTIC, INSTANCE = {"model": "mask2former_r50"}, {"model": "mask2former_r50", "task": "instance"}


def write_blank_shards(folder: Path, shape: tuple[int, ...], dtype: str, *, void: bool = False) -> Path:
    folder.mkdir()
    with ShardWriter(folder, LABELS, DIGEST, source={"kind": "folder"}) as writer:
        for split in ("train", "val", "test"):
            classes = np.full(shape[:-1], 255 if void and split == "test" else 0, np.uint8)
            writer.add(split, f"{split}/0", np.zeros(shape, dtype), Annotation.of_classes(classes))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shards")
    return {
        "rgb": write_shards(root / "rgb"),
        "objects": write_scene_shards(root / "objects", DIGEST),
        "grey": write_blank_shards(root / "grey", (32, 32, 1), "uint8"),
        "16 bits": write_blank_shards(root / "16 bits", (32, 32, 3), "uint16"),
        "volumes": write_blank_shards(root / "volumes", (8, 32, 32, 1), "float32"),
        "void test": write_blank_shards(root / "void test", (32, 32, 3), "uint8", void=True),
    }


def check(folder: Path, sections: dict[str, Any]) -> None:
    check_measuring(assembled_params([json.dumps(sections)]), folder)


@pytest.mark.parametrize(
    ("name", "sections", "sentence"),
    [
        ("grey", {"evaluate": {"crf": {}}}, "evaluate: crf is given for images of 1 channel uint8, expected images of"),
        ("16 bits", {"evaluate": {"crf": {}}}, "crf is given for images of 3 channels uint16"),
        ("volumes", {"evaluate": {"crf": {}}, "train": {"model": "vnet"}}, "crf is given for volumes of 1 channel"),
        (
            "volumes",
            {"evaluate": {"sliding_window": {"size": [16, 16]}}, "train": {"model": "vnet"}},
            r"window is \[16, 16\] but images have 3 axes, expected \[depth, height, width\]",
        ),
        ("rgb", {"evaluate": {"sliding_window": {"size": [8, 8, 8]}}}, "but images have 2 axes"),
        ("objects", {"train": PANOPTIC, "evaluate": {"flip": True}}, "unknown key 'evaluate.flip'"),
        (
            "objects",
            {"train": PANOPTIC, "register": {"metric": "mask_ap"}},
            "the task trained is panoptic: register.metric: unknown score 'mask_ap'",
        ),
        (
            "objects",
            {"train": INSTANCE, "register": {"metric": "mask_ap_large"}},
            "metric is mask_ap_large, which nothing in the 4 test images defines: .* such as mask_ap",
        ),
    ],
)
def test_what_does_not_suit_the_trained_task_or_the_images_is_refused(
    shards: dict[str, Path], name: str, sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        check(shards[name], sections)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("rgb", {"evaluate": {"crf": {}}, "register": {"metric": "mean_dice"}}),
        ("volumes", {"evaluate": {"sliding_window": {"size": [16, 99, 99]}}, "train": {"model": "vnet"}}),
        ("objects", {"train": PANOPTIC, "evaluate": {"stuff_area": 3}, "register": {"metric": "pq_stuff"}}),
        ("objects", {"train": INSTANCE, "register": {"metric": "mask_ap_small"}}),
        ("void test", {"register": {"metric": "mean_dice"}}),  # evaluate needs labels, the training does not
        ("nowhere", {"train": {"epochs": 3}}),
    ],
)
def test_what_suits_passes(shards: dict[str, Path], name: str, sections: dict[str, Any]) -> None:
    check(shards.get(name, Path("nowhere")), sections)


def test_the_train_step_refuses_it_before_it_does_anything(
    shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {model: unet}\nevaluate: {crf: {}}\n")
    assert main(["train", "--shards", str(shards["grey"]), "--checkpoints", "checkpoints"]) == 2
    assert capsys.readouterr().err.startswith("error: section evaluate: crf is given for images of 1 channel uint8")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
