"""Splits for datasets that ship none: whole groups, at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from segmodels.checks import HIGHEST_SEED, check, number, whole_number
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.data.layouts import Sample


@dataclass(frozen=True)
class SplitSettings:
    """How samples are split when the dataset ships no splits: whole groups, at random.

    Attributes:
        val: share of the groups to choose the weights by, rounded to whole groups.
        test: share of the groups to measure on, rounded to whole groups.
        seed: seed of the split.
    """

    val: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, val=number(0, below=1), test=number(0, below=1), seed=whole_number(0, HIGHEST_SEED))
        if self.val + self.test >= 1:
            raise InputError(
                f"val + test of the split is {self.val + self.test:g}, expected less than 1: lower one of them"
            )


def split_by_group(samples: Sequence[Sample], settings: SplitSettings) -> list[Sample]:
    """The samples in their order, each with a split; a group goes to one split as a whole.

    Groups are ranked by a hash of seed and name, so the same seed gives the same split on every machine and in whatever
    order the samples come.

    Raises:
        InputError: a split with a share above 0, or train, would stay empty.
    """
    val, test, seed = settings.val, settings.test, settings.seed
    groups = sorted(
        {sample.group for sample in samples},
        key=lambda group: hashlib.md5(f"{seed}:{group}".encode(), usedforsecurity=False).digest(),
    )
    sizes = {"test": round(test * len(groups)), "val": round(val * len(groups))}
    sizes["train"] = len(groups) - sum(sizes.values())
    for split, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        if share > 0 and sizes[split] < 1:
            raise InputError(
                f"split {split!r} would be empty: a share of {share:g} of {len(groups)}"
                f" group{'s' * (len(groups) != 1)} is less than one group, raise ingest.split or add samples"
            )
    names = [split for split in ("test", "val", "train") for _ in range(sizes[split])]
    split_of = dict(zip(groups, names, strict=True))
    return [replace(sample, split=split_of[sample.group]) for sample in samples]
