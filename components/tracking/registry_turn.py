"""One decision about the champion at a time, whoever registers a model, on whatever machine.

MLflow's registry has no lock and no compare-and-set: two registrations that read the champion, and then move the alias,
would make the worse model champion. Tags of the versions serve as a lock, by the one-bit algorithm for mutual exclusion
(L. Lamport, "The mutual exclusion problem, part II", J. ACM 33(2), 1986, section 5.2): whoever wants a turn sets a tag
on its version, waits for versions of lower numbers without a tag of its own, then for those of higher numbers with it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from components.tracking.mlflow_errors import answers
from segmodels.errors import InputError, TransientError

TAG = "deciding"
"""Tag of a version whose registration has, or wants, the turn; its value names the process."""

POLL = 0.5
"""Seconds between two looks at the tags of others."""

STALE = 120.0
"""Seconds after which an unchanged tag is of a process that was killed; a turn takes a few requests."""


@contextmanager
def turn(client: Any, name: str, number: str) -> Iterator[None]:
    """While the block lasts, no other registration of the registered model ``name`` is in such a block.

    Args:
        client: MLflow's.
        number: of the version that wants the turn. Two processes with the same version are not kept apart.

    Raises:
        InputError: there is no such version.
        TransientError: the server does not answer.
    """
    claims, mine = _Claims(client, name), int(number)
    try:
        claims.set(number)
        while claims.of(lambda other: other < mine):
            claims.remove(number)
            claims.wait(lambda other: other < mine)
            claims.set(number)
        claims.wait(lambda other: other > mine)
        yield
    finally:
        with suppress(InputError, TransientError):  # else the tag is stale in two minutes
            claims.remove(number)


class _Claims:
    """The tags of all versions of a registered model."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.seen: dict[tuple[int, str], float] = {}

    def set(self, number: str) -> None:
        with self._answers():
            self.client.set_model_version_tag(self.name, number, TAG, uuid.uuid4().hex)

    def remove(self, number: str) -> None:
        with self._answers():
            self.client.delete_model_version_tag(self.name, number, TAG)

    def wait(self, whose: Callable[[int], bool]) -> None:
        """Until there are none of versions of such numbers; those of killed processes are removed."""
        while others := self.of(whose):
            now = time.monotonic()
            for number, value in others.items():
                if now - self.seen.setdefault((number, value), now) > STALE:
                    with suppress(InputError):  # another process has removed it
                        self.remove(str(number))
            time.sleep(POLL)

    def of(self, whose: Callable[[int], bool]) -> Mapping[int, str]:
        """Version -> value of its tag."""
        with self._answers():
            found = self.client.search_model_versions(f"name = '{self.name}' and tags.{TAG} LIKE '%'")
        return {number: one.tags[TAG] for one in found if TAG in one.tags and whose(number := int(one.version))}

    def _answers(self) -> Any:
        return answers(f"registered model {self.name!r}", self.client.tracking_uri)
