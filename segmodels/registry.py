"""One registry for models, encoders, losses, layouts and tasks: names, cards, errors that name the nearest names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from segmodels.errors import nearest

Built = TypeVar("Built")
CardType = TypeVar("CardType")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[Built, CardType]):
    """A registered thing: its name, the function or class that builds it, and its card."""

    name: str
    build: Callable[..., Built]
    card: CardType

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ``build`` with their defaults (``inspect.Parameter.empty`` where there is none).

        Those of a function that ends in ``**options`` include the keywords with defaults of the class that it says it
        returns.
        """
        parameters = inspect.signature(self.build).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if inspect.isfunction(self.build) and any(p.kind is p.VAR_KEYWORD for p in parameters):
            returned = get_type_hints(self.build).get("return", object)
            passed_on = inspect.signature(returned).parameters.values()
            own |= {p.name: p.default for p in passed_on if p.default is not p.empty and p.name not in own}
        return own

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring of ``build``, on one line."""
        return " ".join((inspect.getdoc(self.build) or "").split("\n\n")[0].split())


class Registry(Generic[Built, CardType]):
    """Names of one kind of thing.

    Args:
        kind: an entry's kind in error messages: "model".
        package: all its modules are imported before the first look-up, so that they have registered their entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[Built, CardType]] = {}
        self._loaded = False

    def register(self, name: str, card: CardType) -> Callable[[Function], Function]:
        """Decorator for the function or class that builds the thing of that name."""

        def add(build: Function) -> Function:
            if name in self._entries:
                raise RuntimeError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, build, card)
            return build

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Entry[Built, CardType]:
        """The entry of that name.

        Raises:
            InputError: unknown name; lists the nearest names.
        """
        self._load()
        if name not in self._entries:
            raise nearest(self.kind, name, self.names())
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[Built, CardType]]:
        """The entries, sorted by name."""
        return (self[name] for name in self.names())

    def check_options(self, name: str, given: Iterable[str], known: Iterable[str]) -> None:
        """Raise InputError, with the nearest names, for an option that the entry does not have."""
        known = sorted(known)
        for option in given:
            if option not in known:
                raise nearest(f"option of {self.kind} {name!r}", option, known)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # first: a module may look up a name while the others are still being imported
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        except BaseException:
            self._loaded = False
            raise
