"""Lightning Fabric, imported alone: the package ``lightning`` would bring its trainer, too, and torchmetrics, which
imports transformers where it is installed. Both take longer than torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _not_importing(package: str) -> Iterator[None]:
    """Let importing the package fail, unless it is imported already."""
    known = package in sys.modules
    if not known:
        sys.modules[package] = None  # type: ignore[assignment]  # as documented in the language reference, 5.3.1
    try:
        yield
    finally:
        if not known:
            del sys.modules[package]


with _not_importing("torchmetrics"):  # Fabric looks at its version, for an optional part of its own
    from lightning_fabric import Fabric

__all__ = ["Fabric"]
