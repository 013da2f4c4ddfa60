"""Cron expressions as Kubeflow reads them: six fields, seconds first (robfig/cron v1.2), in the installation's time
zone.

``second minute hour day-of-month month day-of-week``. A field is ``*`` (or ``?``), a number, a range ``2-6``, either
with a step ``*/15``, or a list of those. Months and days also by name, ``MON-FRI``; Sunday is 0. If neither day field
is ``*``, a day that fits either of them counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from segmodels.errors import InputError

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
)
YEARS = 5
"""How far ahead ``next_times`` looks: further than from one 29 February to the next, except around 2100."""


@dataclass(frozen=True)
class Cron:
    """The values that each field allows; ``any_day`` and ``any_weekday``: whether the field has a ``*``."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Read an expression.

        Raises:
            InputError: not six fields, or a field with an impossible value.
        """
        parts = text.split()
        if len(parts) == 5:
            raise InputError(
                f"cron expression {text!r} has 5 fields, and Kubeflow reads the first as seconds: write '0 {text}' to"
                " run at second 0"
            )
        if len(parts) != len(FIELDS):
            raise InputError(
                f"cron expression {text!r} has {len(parts)} fields, expected 6: second minute hour day-of-month month"
                " day-of-week, such as '0 0 3 * * *'"
            )
        seconds, minutes, hours, days, months, weekdays = (
            _field(part, *field, text) for part, field in zip(parts, FIELDS, strict=True)
        )
        return cls(
            seconds, minutes, hours, days, months, weekdays, any_day=_is_any(parts[3]), any_weekday=_is_any(parts[5])
        )

    def next_times(self, after: datetime, count: int) -> list[datetime]:
        """The next ``count`` times after ``after``, in its time zone; fewer if there are none in the coming years.

        A time that the clocks skip in spring is left out.
        """
        zone = after.tzinfo
        day = after.replace(tzinfo=None, fold=0)
        last = day + timedelta(days=366 * YEARS)
        times: list[datetime] = []
        while day < last:
            if self._runs_on(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        for second in sorted(self.seconds):
                            wall = day.replace(hour=hour, minute=minute, second=second, microsecond=0)
                            time = wall.replace(tzinfo=zone)
                            exists = time.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall
                            if exists and time.astimezone(UTC) > after.astimezone(UTC):
                                times.append(time)
                            if len(times) == count:
                                return times
            day = (day + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return times

    def _runs_on(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_day and by_weekday if self.any_day or self.any_weekday else by_day or by_weekday


def _is_any(part: str) -> bool:
    return any(piece.split("/")[0] in ("*", "?") for piece in part.split(","))


def _field(part: str, name: str, low: int, high: int, text: str) -> frozenset[int]:
    values: set[int] = set()
    for piece in part.upper().split(","):
        match = re.fullmatch(r"([*?]|\w+)(?:-(\w+))?(?:/(\d+))?", piece)
        if not match or (match[1] in "*?" and match[2]):
            raise InputError(
                f"cron expression {text!r}: {name} is {part!r}, expected *, a number, a range a-b, a step */n, or a"
                " list of those"
            )
        first, last, step = match[1], match[2], int(match[3] or 1)
        start = low if first in ("*", "?") else _number(first, name, text)
        # 5/15 means from 5 on, every 15
        stop = _number(last, name, text) if last else high if first in ("*", "?") or match[3] else start
        if not low <= start <= stop <= high or step < 1:
            raise InputError(
                f"cron expression {text!r}: {name} is {part!r}, expected values from {low} to {high}, the smaller"
                " first, and steps from 1"
            )
        values.update(range(start, stop + 1, step))
    return frozenset(values)


def _number(word: str, name: str, text: str) -> int:
    if word.isdigit():
        return int(word)
    known = {
        "month": dict(zip(MONTHS, range(1, 13), strict=True)),
        "day of week": dict(zip(DAYS, range(7), strict=True)),
    }.get(name, {})
    if word not in known:
        hint = f" or one of {', '.join(known)}" if known else ""
        raise InputError(f"cron expression {text!r}: {name} is {word!r}, expected a number{hint}")
    return known[word]
