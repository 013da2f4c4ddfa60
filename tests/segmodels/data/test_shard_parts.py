"""Shards that several writers wrote side by side are, put together, the bytes of one writer's."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.image_form import ImageForm
from segmodels.data.shard_parts import Size, files_of, merge_parts
from segmodels.data.shard_writer import Borders, ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.labels import LabelMap

LABELS = LabelMap(("a", "b", "c"), ((0, 0, 0), (90, 90, 90), (255, 0, 0)), {0: 0, 1: 1, 2: 2, 9: 255})
SPLITS = ["train"] * 11 + ["val"] * 2 + ["test"] * 5
SHARD_BYTES = 3000


def samples(dtype: str, spatial: tuple[int, ...] = (20,)) -> list[tuple[str, NDArray, Annotation | None]]:
    """Of different sizes and ranges of values; every fourth is not annotated."""
    random, made = np.random.default_rng(0), []
    for number, split in enumerate(SPLITS):
        size = (*spatial, 15 + number)
        image = random.normal(number, 1000, (*size, 2)) if dtype == "float32" else random.integers(0, 100, (*size, 2))
        image = image.astype(dtype) + np.array(number % 5, dtype)
        classes = random.choice(np.array([0, 1, 2, 255], np.uint8), size)
        made.append((split, image, None if number % 4 == 3 else Annotation.of_classes(classes)))
    return made


def write(folder: Path, numbers: list[int], of: list, first: dict[str, int] | None = None) -> None:
    folder.mkdir()
    with ShardWriter(folder, LABELS, "d.dir", SHARD_BYTES, source={"kind": "folder"}, first=first) as writer:
        for number in numbers:
            split, image, annotation = of[number]
            writer.add(split, str(number), image, annotation, image_label=number)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("spatial", [(20,), (3, 9)], ids=["images", "volumes"])
def test_any_cut_between_shards_gives_the_same_bytes(tmp_path: Path, dtype: str, spatial: tuple[int, ...]) -> None:
    of = samples(dtype, spatial)
    everything = list(range(len(of)))
    write(tmp_path / "whole", everything, of)
    form = ImageForm.of(of[0][1])
    sizes = [Size(split, image.shape[:-1], image.shape[:-1]) for split, image, _ in of]
    files = files_of(sizes, {split: Borders(LABELS, form, SHARD_BYTES) for split in set(SPLITS)})
    known = list(dict.fromkeys(files))
    assert len(known) == len(list((tmp_path / "whole").glob("*.arrow"))) > 5
    for cuts in ([1, 4, 4], [len(known) - 1], []):
        folder = tmp_path / f"cuts-{len(cuts)}"
        folder.mkdir()
        parts = []
        for start, stop in zip([0, *cuts], [*cuts, len(known)], strict=True):
            own = known[start:stop]
            parts.append(folder / str(len(parts)))
            first = dict(reversed(own))  # the lowest number of each split
            write(parts[-1], [number for number in everything if files[number] in own], of, first)
        (folder / "merged").mkdir()
        statistics = merge_parts(parts, folder / "merged")
        assert statistics == ShardReader(tmp_path / "whole", "train").statistics
        whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
        assert {path.name: path.read_bytes() for path in (folder / "merged").iterdir()} == whole
        assert not ShardReader(folder / "merged", "val").annotation(0).segments


def test_a_shard_in_no_part_and_parts_of_other_parameters_are_named(tmp_path: Path) -> None:
    of = samples("uint8")
    write(tmp_path / "a", list(range(11)), of, {"train": 0})
    write(tmp_path / "b", [11, 12], of, {"val": 0})
    write(tmp_path / "late", [12], of, {"val": 1})
    write(tmp_path / "none", [], of, {})
    facts = json.loads((tmp_path / "b" / "part.json").read_text())
    write(tmp_path / "other", [11], of, {"val": 0})
    (tmp_path / "other" / "part.json").write_text(json.dumps(facts | {"longer_side": 7}))
    (tmp_path / "merged").mkdir()
    for parts, message in (
        (("a", "late"), r"the shard val-00000\.arrow is in none of the parts, the next one is .*val-00001\.arrow"),
        (("a", "a"), r"the shard train-0000\d\.arrow is in none"),
        (("a", "other"), r"other holds shards of another dataset, or of other parameters, than .*a: write all"),
        (("none",), "hold no samples"),
        (("a", "nowhere"), r"part\.json is not there: run the step preprocess-part first"),
    ):
        for path in (tmp_path / "merged").iterdir():
            path.unlink()
        with pytest.raises(InputError, match=message):
            merge_parts([tmp_path / part for part in parts], tmp_path / "merged")
