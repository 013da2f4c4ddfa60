"""One decision about the champion at a time, whoever registers a model, on whatever machine.

MLflow's registry has no lock and no compare-and-set: two registrations that read the champion, and then move the alias,
would make the worse model champion. Tags of the registered model serve as a lock, by the one-bit algorithm for mutual
exclusion (L. Lamport, "The mutual exclusion problem, part II", J. ACM 33(2), 1986, section 5.2): whoever wants a turn
sets a tag of its own, waits for those that come before it without the tag, then for those that come after it with the
tag. Each process has its own key, since MLflow refuses to change a tag that another process removes meanwhile.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from components.tracking.client import registry_uri
from components.tracking.mlflow_errors import answers
from segmodels.errors import InputError, TransientError

TAG = "deciding."
"""Start of the tag of a registration that has, or wants, the turn."""

POLL = 0.5
"""Seconds between two looks at the tags of others."""

STALE = 120.0
"""Seconds after which an unchanged tag is of a process that was killed; a turn takes a few requests."""


@contextmanager
def turn(client: Any, name: str, number: str) -> Iterator[None]:
    """While the block lasts, no other registration of the registered model ``name`` is in such a block.

    Args:
        client: MLflow's.
        number: of the version that wants the turn; lower numbers come first, then one process of a version after
            another.

    Raises:
        InputError: there is no such registered model.
        TransientError: the server does not answer.
    """
    mine = f"{TAG}{int(number):09d}.{uuid.uuid4().hex}"
    claims = _Claims(client, name)
    try:
        claims.set(mine)
        while claims.of(lambda other: other < mine):
            claims.remove(mine)
            claims.wait(lambda other: other < mine)
            claims.set(mine)
        claims.wait(lambda other: other > mine)
        yield
    finally:
        with suppress(InputError, TransientError):  # else the tag is stale in two minutes
            claims.remove(mine)


class _Claims:
    """The tags of all that have, or want, the turn: key -> a value that each setting changes."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.seen: dict[tuple[str, str], float] = {}

    def set(self, key: str) -> None:
        with self._answers():
            self.client.set_registered_model_tag(self.name, key, uuid.uuid4().hex)

    def remove(self, key: str) -> None:
        with self._answers():
            self.client.delete_registered_model_tag(self.name, key)

    def wait(self, whose: Callable[[str], bool]) -> None:
        """Until there are none with such keys; those of killed processes are removed."""
        while others := self.of(whose):
            now = time.monotonic()
            for claim in others.items():
                if now - self.seen.setdefault(claim, now) > STALE:
                    with suppress(InputError):  # another process removes it at this moment
                        self.remove(claim[0])
            time.sleep(POLL)

    def of(self, whose: Callable[[str], bool]) -> Mapping[str, str]:
        with self._answers():
            tags = self.client.get_registered_model(self.name).tags
        return {key: value for key, value in tags.items() if key.startswith(TAG) and whose(key)}

    def _answers(self) -> Any:
        return answers(f"registered model {self.name!r}", registry_uri(self.client))
