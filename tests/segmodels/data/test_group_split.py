"""Splits at random: groups stay whole."""

import pytest

from segmodels.data.group_split import SplitSettings, split_by_group
from segmodels.data.layouts import Sample
from segmodels.errors import InputError


def unsplit(count: int, per_group: int = 3) -> list[Sample]:
    return [Sample(f"s{i}", None, f"{i}.png", (), f"patient {i // per_group}") for i in range(count)]


def test_a_split_by_group_keeps_groups_whole_and_meets_the_shares():
    split = split_by_group(unsplit(300), SplitSettings(val=0.2, test=0.1, seed=4))
    assert [s.id for s in split] == [f"s{i}" for i in range(300)]
    assert {name: len({s.group for s in split if s.split == name}) for name in ("train", "val", "test")} == {
        "train": 70,
        "val": 20,
        "test": 10,
    }
    assert len({(s.group, s.split) for s in split}) == 100


def test_a_split_by_group_depends_on_the_seed_alone():
    samples = unsplit(60)
    first = split_by_group(samples, SplitSettings(0.25, 0.25, seed=1))
    assert split_by_group(samples[::-1], SplitSettings(0.25, 0.25, seed=1))[::-1] == first
    assert split_by_group(samples, SplitSettings(0.25, 0.25, seed=2)) != first


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(InputError, match=r"split 'val' would be empty: a share of 0\.1 of 2 groups"):
        split_by_group(unsplit(6), SplitSettings(val=0.1, test=0.4))
    with pytest.raises(InputError, match="split 'train' would be empty"):
        split_by_group(unsplit(6), SplitSettings(val=0.3, test=0.6))
