"""Several pods validate and pack parts of a dataset: their results together are the bytes of one pod's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow_store import slow_store
from small_dataset import write, write_small_dataset

from components.params.schema import IngestParams, PreprocessParams, ValidateParams
from components.running.parts import share
from components.steps import preprocess as packing
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess, preprocess_merge, preprocess_part
from components.steps.validate import validate, validate_merge, validate_part
from components.storage import folders
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError

PARTS = 3
VALIDATE = ValidateParams(workers=1)
PREPROCESS = PreprocessParams(workers=1)


def make(root: Path) -> Path:
    """What only the facts of all samples show: an image that is in two splits, one that looks like one of another, a
    class that a split lacks. Sizes, channels and an image without a partner of its form are such that shards end
    anywhere.
    """
    data = write_small_dataset(root / "set", {"train": 9, "val": 3, "test": 4}, (64, 48))
    shutil.copyfile(data / "images/train/001.png", data / "images/test/003.png")
    near = np.array(Image.open(data / "images/train/008.png")).astype(int) + 1
    write(data / "images/val/002.png", Image.fromarray(near.clip(0, 255).astype(np.uint8)))
    write(data / "masks/val/000.png", Image.fromarray(np.zeros((48, 64), np.uint8)))
    for number in (2, 5):
        for kind in ("images", "masks"):
            path = data / kind / "train" / f"{number:03d}.png"
            write(path, Image.open(path).resize((90 + number, 70), Image.Resampling.NEAREST))
    grey = data / "images/train/006.png"
    write(grey, Image.open(grey).convert("L"))
    (data / "classes.txt").write_text("background\nobject\nnever\n")
    ingest(IngestParams(source="folder", path=str(data)), root / "dataset", root / "cache")
    return root / "dataset"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def facts(dataset: Path) -> tuple[Path, ...]:
    """The facts of each part, the last one first: Kubeflow promises no order."""
    folders = tuple(dataset.parent / f"facts-{part}" for part in reversed(range(PARTS)))
    for part, folder in enumerate(reversed(folders)):
        validate_part(VALIDATE, dataset, part, PARTS, folder)
    return folders


@pytest.fixture(scope="module")
def validation(dataset: Path, facts: tuple[Path, ...]) -> Path:
    validate_merge(VALIDATE, dataset, dataset.parent / "merged", facts)
    return dataset.parent / "merged"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_facts_and_findings_are_those_of_one_pod(dataset: Path, validation: Path, tmp_path: Path) -> None:
    validate(VALIDATE, dataset, tmp_path / "validation")
    assert content(validation) == content(tmp_path / "validation")
    assert set(content(validation)) == {"facts.parquet", "report.json"}
    assert (validation / "docs" / "index.html").is_file()
    report = json.loads((validation / "report.json").read_text())
    found = {warning["check"] for warning in report["warnings"]}
    assert {"in_one_split", "unlike_other_splits", "one_size", "one_form", "classes_occur"} <= found


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards end after 30 kB of pixels, not after megabytes."""
    monkeypatch.setattr(packing, "MEGABYTE", 30_000)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(("longer_side", "parts"), [(None, PARTS), (100, 4), (40, 20)])
def test_shards_and_statistics_are_those_of_one_pod(
    dataset: Path, validation: Path, tmp_path: Path, longer_side: int | None, parts: int
) -> None:
    """For any number of parts, more than there are shards too."""
    params = PreprocessParams(workers=1, longer_side=longer_side, shard_megabytes=1)
    statistics = preprocess(params, dataset, validation, tmp_path / "whole")
    folders = tuple(tmp_path / f"part-{part}" for part in range(parts))
    for part, folder in enumerate(folders):
        preprocess_part(params, dataset, validation, part, parts, folder)
    assert preprocess_merge(tmp_path / "merged", folders[::-1]) == statistics
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    shards = [len(list(folder.glob("*.arrow"))) for folder in folders]
    assert sum(shards) == len(list((tmp_path / "whole").glob("*.arrow"))) > 3
    assert max(shards) - min(shards) <= 1


@pytest.mark.usefixtures("small_shards")
def test_shards_in_an_object_store_stay_there(
    dataset: Path, validation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_folder(folder: Path, url: str) -> None:
        shutil.copytree(folder, tmp_path / "store" / url.removeprefix("s3://"))

    monkeypatch.setattr(folders, "put_folder", put_folder)
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    params = PreprocessParams(workers=1, shard_megabytes=1)
    preprocess(params, dataset, validation, tmp_path / "whole")
    packed = tuple(tmp_path / f"part-{part}" for part in range(2))
    for part, folder in enumerate(packed):
        preprocess_part(replace(params, store="s3://bucket/shards"), dataset, validation, part, 2, folder)
    preprocess_merge(tmp_path / "merged", packed)
    assert set(content(packed[0])) == {"part.json", "place.json"}
    assert set(content(tmp_path / "merged")) == {"statistics.json"}
    with slow_store(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        for split in ("train", "val", "test"):
            reader, local = ShardReader(tmp_path / "merged", split), ShardReader(tmp_path / "whole", split)
            assert not reader.is_local
            for index in range(len(local)):
                np.testing.assert_array_equal(reader.image(index), local.image(index))


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_every_sample_is_in_one_part(count: int, parts: int) -> None:
    shares = [share(count, part, parts) for part in range(parts)]
    assert [position for own in shares for position in own] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_part_that_is_missing_or_of_another_dataset_is_named(
    dataset: Path, validation: Path, facts: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--part is 3 with --parts 3, expected a part from 0 to 2"):
        validate_part(VALIDATE, dataset, 3, 3, tmp_path / "facts")
    for given, message in (
        ((), "no parts are given"),
        (facts[:2], r"the parts given are 1 of 3 .*, 2 of 3 of dataset .*, expected each part of one dataset once"),
        ((*facts[:2], facts[1]), "the parts given are 1 of 3 .*, 1 of 3"),
        ((*facts[:2], tmp_path), r"place\.json is not there: run the step validate-part first"),
    ):
        with pytest.raises(InputError, match=message):
            validate_merge(VALIDATE, dataset, tmp_path / "validation", given)
    preprocess_part(PREPROCESS, dataset, validation, 0, 1, tmp_path / "packed")
    (shard,) = (tmp_path / "packed").glob("train-*.arrow")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"train-00000\.arrow is damaged \(it has .* bytes, .*preprocess-part"):
        preprocess_merge(tmp_path / "shards", (tmp_path / "packed",))
    assert not (tmp_path / "shards").exists()
