"""A step that tries again after transient errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from segmodels.addresses import without_credentials
from segmodels.errors import TransientError

FIRST_PAUSE, LONGEST_PAUSE = 15, 300
"""Seconds before the first retry, doubled each time, and the longest."""


def retried(work: Callable[[], Any], retries: int) -> None:
    """Do ``work``; after a transient error again, up to ``retries`` times, with a growing pause."""
    for attempt in range(retries):
        try:
            return work()
        except TransientError as error:
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            reason = without_credentials(str(error))
            print(f"{reason}: trying again in {pause} s ({attempt + 1} of {retries})", file=sys.stderr, flush=True)
            time.sleep(pause)
    return work()
