"""Settings out of range are refused with a sentence for each field."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest

from segmodels.checks import SettingsError, check, each, number, one_of, optional, whole_number

Mode = Literal["fast", "exact"]


@dataclass(frozen=True)
class Settings:
    count: int = 1
    share: float = 0.5
    weights: tuple[float, ...] | None = None
    mode: Mode = "fast"

    def __post_init__(self) -> None:
        check(
            self,
            "filter",
            count=whole_number(above=0),
            share=number(0, below=1),
            weights=optional(each(number(0))),
            mode=one_of(Mode),
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 0}, "count of the filter is 0, expected a whole number greater than 0"),
        ({"count": 1.5}, "count of the filter is 1.5, expected a whole number"),
        ({"count": True}, "count of the filter is true, expected a whole number"),
        ({"share": 1}, "share of the filter is 1, expected a number of at least 0 and less than 1"),
        ({"share": math.nan}, "share of the filter is nan"),
        ({"share": "0.5"}, "share of the filter is '0.5'"),
        ({"weights": (1.0, -1.0)}, r"weights\.1 of the filter is -1\.0, expected a number of at least 0"),
        ({"weights": (1.0, math.inf)}, r"weights\.1 of the filter is inf"),
        ({"weights": ()}, r"weights of the filter is \[\], expected at least one entry"),
        ({"weights": 3.0}, r"weights of the filter is 3\.0, expected a list"),
        ({"mode": "slow"}, "mode of the filter is 'slow', expected one of fast, exact"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(values: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings(**values)


def test_all_fields_out_of_range_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"count .* share") as caught:
        Settings(count=0, share=2.0)
    assert [problem.field for problem in caught.value.problems] == ["count", "share"]


def test_values_at_the_limits_are_taken() -> None:
    assert Settings(share=0, weights=(0.0,)).weights == (0.0,)
    with pytest.raises(SettingsError, match="from 0 to 1"):
        check(Settings(count=2), count=number(0, 1))
