"""Real samples of published datasets through the steps, each found by ``layout: auto``.

All have their configurations of params/. With these, shortened, CamVid, DSB 2018, PH2 and ISBI 2012 go from ingest to
register. Of Cityscapes, ADE20K, COCO, VOC 2012 and BraTS there are only single samples here: one split stands for all
three, which measures nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]
REPOSITORY = Path(__file__).parents[2]
SHORT = {"options": {"widths": [8, 16, 32, 64]}, "accelerator": "cpu", "minutes": None, "batch_size": 4, "workers": 0}
UNTIL_SHARDS = ("ingest", "validate", "preprocess")
ALL_STEPS = (*UNTIL_SHARDS, "train", "evaluate", "register")


def configuration(name: str) -> dict[str, Any]:
    """``params/NAME.yaml``."""
    params: dict[str, Any] = yaml.safe_load((REPOSITORY / "params" / f"{name}.yaml").read_text())
    return params


def run(workspace: Path, steps: tuple[str, ...], params: Mapping[str, Any]) -> None:
    """Run steps by the command line in ``workspace``."""
    (workspace / "params.yaml").write_text(yaml.safe_dump(dict(params)))
    own = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    for step in steps:
        done = subprocess.run(
            [sys.executable, "-m", "components", step],
            cwd=workspace,
            env={**own, "OMP_NUM_THREADS": "1"},  # threads of busy cores wait for each other
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{step}: {done.stdout}\n{done.stderr}"


def every_fourth_frame(camvid: Path, target: Path) -> Path:
    """Links to the 468 frames, and lists of a quarter of them, which stand for all."""
    target.mkdir()
    for part in camvid.iterdir():
        if part.suffix == ".txt" and part.stem in ("train", "val"):
            (target / part.name).write_text("".join(part.read_text().splitlines(keepends=True)[::4]))
        else:
            (target / part.name).symlink_to(part)
    return target


@pytest.mark.parametrize(
    ("name", "folder", "changes", "least"),
    [
        (
            "camvid",
            "camvid",
            {"preprocess": {"longer_side": 120}, "train": {"epochs": 12, "augment": {"crop": [80, 112]}}},
            0.15,
        ),
        ("dsb2018", "dsb2018", {"train": {"epochs": 16, "validate_every": 16, "augment": {"crop": [128, 128]}}}, 0.6),
        (
            "ph2",
            "ph2",
            {
                "ingest": {"split": {"val": 0.2, "test": 0.2}},
                "preprocess": {"longer_side": 128},
                "train": {"epochs": 60},
            },
            0.4,
        ),
        ("isbi2012", "membrane", {"train": {"epochs": 40, "augment": {"crop": [128, 128]}}}, 0.4),
    ],
)
def test_a_dataset_goes_from_its_folder_to_the_registry(
    name: str, folder: str, changes: dict[str, Any], least: float, tmp_path: Path, shared_data: Path
) -> None:
    params = configuration(name)
    path = every_fourth_frame(shared_data / folder, tmp_path / "set") if name == "camvid" else shared_data / folder
    params["ingest"] |= {"path": str(path), "layout": "auto"}
    params["train"] |= SHORT
    params["register"]["minimum"] = 0.0
    for section, values in changes.items():
        for key, value in values.items():
            params[section][key] = {**params[section].get(key, {}), **value} if isinstance(value, dict) else value
    if name == "ph2":
        params["train"]["augment"]["crop"] = [96, 128]
    run(tmp_path, ALL_STEPS, params)
    assert json.loads((tmp_path / "data" / "dataset" / "dataset.json").read_text())["layout"] == name
    scores = json.loads((tmp_path / "data" / "evaluation" / "metrics.json").read_text())
    assert scores["mean_iou"] > least
    assert (tmp_path / "data" / "validation" / "docs" / "index.html").is_file()


@pytest.mark.parametrize(
    ("name", "layout", "folder", "split", "objects"),
    [
        ("cityscapes", "cityscapes", "cityscapes-sample", "train", True),
        ("ade20k", "ade20k", "ade20k-sample", "val", False),
        ("coco_instances", "coco", "coco-sample", "val", True),
        ("voc2012", "voc2012", "voc-labelme/VOCdevkit", None, True),
        ("brats_slices", "brats_slices", "brats-deepmedic", "train", False),
    ],
)
def test_single_samples_are_read_checked_and_packed(
    name: str, layout: str, folder: str, split: str | None, objects: bool, tmp_path: Path, shared_data: Path
) -> None:
    params = configuration(name)
    ingest = params["ingest"]
    ingest |= {"path": str(shared_data / folder), "layout": layout if layout == "brats_slices" else "auto"}
    if split is None:  # no lists in the sample: written here, beside links to its files
        lists = tmp_path / "set" / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        home = shared_data / folder / "VOC2012"
        for part in home.iterdir():
            (tmp_path / "set" / part.name).symlink_to(part)
        names = "\n".join(path.stem for path in (home / "SegmentationClass").iterdir())
        (lists / "train.txt").write_text(names)
        ingest["path"], split = str(tmp_path / "set"), "train"
    ingest["splits"] = {"train": split, "val": split, "test": split}
    run(tmp_path, UNTIL_SHARDS, params)
    assert json.loads((tmp_path / "data" / "dataset" / "dataset.json").read_text())["layout"] == layout
    report = json.loads((tmp_path / "data" / "validation" / "report.json").read_text())
    assert report["success"]
    facts = pq.read_table(tmp_path / "data" / "validation" / "facts.parquet")
    assert (max(facts.column("objects").to_pylist()) > 0) == objects
    assert list((tmp_path / "data" / "shards").glob("*.arrow"))
