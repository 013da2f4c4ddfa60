"""Slices by group, which shards keep of the manifest."""

from pathlib import Path

import numpy as np
import pytest
from small_pipeline import LABELS, scene

from components.params.schema import PreprocessParams
from components.steps.preprocess import _write
from segmodels.annotations import Annotation
from segmodels.data.layouts import Sample
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.inference.slices import score_slices
from segmodels.results import ClassMap
from segmodels.tasks.semantic_evaluator import SemanticEvaluator

GROUPS = ["north", "north", "south", "", "north"]


def test_groups_are_kept_in_shards_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, rng = SemanticEvaluator(LABELS), np.random.default_rng(0)
    with ShardWriter(tmp_path, LABELS, "digest", shard_bytes=9000) as writer:
        for number, group in enumerate(GROUPS):
            _, mask = scene(rng, (24, 32), LABELS)
            writer.add("test", f"{number}", np.full((24, 32, 3), 7, np.uint8), Annotation.of_classes(mask), group=group)
            wrong = np.where(mask == 1, 0, mask) if group == "south" else mask
            evaluator.update([ClassMap(wrong)], [Annotation.of_classes(mask)], [f"{number}"])
    reader = ShardReader(tmp_path, "test")
    assert reader.groups == GROUPS
    monkeypatch.setattr("segmodels.inference.slices.MAPPED", 2)
    released, release = [], reader.release
    monkeypatch.setattr(reader, "release", lambda: released.append(release()))
    found = score_slices(evaluator, reader, ["mean_iou"])
    assert [(row["by"], row["slice"], row["images"]) for row in found] == [("group", "north", 3), ("group", "south", 1)]
    assert found[0]["mean_iou"] == 1 > found[1]["mean_iou"]
    assert len(released) == 2, "pages of images that were read leave the memory"


def test_preprocess_keeps_groups_that_samples_share(tmp_path: Path, monkeypatch) -> None:
    from types import SimpleNamespace

    from components.steps import preprocess
    from segmodels.data.statistics import SampleCounts

    samples = [Sample(name, "test", name, (), group=group) for name, group in (("a", "a"), ("b", "x"), ("c", "x"))]
    image = np.zeros((8, 8, 3), np.uint8)
    prepared = preprocess.Prepared(image, None, SampleCounts.of(image, None, LABELS.num_classes))
    monkeypatch.setattr(preprocess, "parallel_map", lambda *_: [prepared] * len(samples))
    data = SimpleNamespace(
        layout=SimpleNamespace(neighbours=0), labels=LABELS, digest="d", source={}, samples=lambda: samples
    )
    _write(PreprocessParams(), data, samples, None, tmp_path)
    assert ShardReader(tmp_path, "test").groups == ["", "x", "x"]
