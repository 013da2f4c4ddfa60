"""One registry for models, encoders, losses, layouts and tasks: names, cards, errors that name the nearest names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from segmodels.checks import fits, shown, type_name
from segmodels.errors import InputError, TransientError, on_one_line
from segmodels.suggest import near_names, nearest, same_name

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
    def hints(self) -> dict[str, Any]:
        """Types of the options, as far as they are annotated."""
        build = self.build.__init__ if inspect.isclass(self.build) else self.build
        own = get_type_hints(build)
        returned = own.pop("return", object)
        passed_on = get_type_hints(returned.__init__) if inspect.isclass(returned) and returned is not object else {}
        return {name: hint for name, hint in (passed_on | own).items() if name in self.options}

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring of ``build``, on one line."""
        return " ".join((inspect.getdoc(self.build) or "").split("\n\n")[0].split())


_NAMED: list[Registry[Any, Any]] = []
"""The registries whose names users give."""


class Registry(Generic[Built, CardType]):
    """Names of one kind of thing.

    Args:
        kind: an entry's kind in error messages: "model".
        package: all its modules are imported before the first look-up, so that they have registered their entries.
        taken_by: what takes its names, in words: "train.model takes", for error messages of other registries, whose
            users gave one of them; empty where users name none.
    """

    def __init__(self, kind: str, package: str, taken_by: str = "") -> None:
        self.kind = kind
        self.package = package
        self.taken_by = taken_by
        if taken_by:
            _NAMED.append(self)
        self._entries: dict[str, Entry[Built, CardType]] = {}
        self._loaded = self._loading = False
        self._lock = threading.RLock()

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
            raise self.unknown(name)
        return self._entries[name]

    def unknown(self, name: str) -> InputError:
        """The error for a name that is not among the entries: the nearest names, or what it is, or may be, instead."""
        own = self.names()
        if any(same_name(name, one) for one in own):
            return nearest(self.kind, name, own)
        others = [other for other in _NAMED if other is not self]
        for other in others:
            if known := next((one for one in other.names() if same_name(name, one)), None):
                such = self.instead_of(other, known)
                return InputError(
                    f"unknown {self.kind} {name!r}: {known} is {_with_article(other.kind)}, which {other.taken_by},"
                    f" expected the name of {_with_article(self.kind)}{f', such as {such}' if such else ''}"
                )
        for other in () if near_names(name, own) else others:
            if near := near_names(name, other.names(), least=1):
                return InputError(
                    f"unknown {self.kind} {name!r}: did you mean {other.kind} {' or '.join(map(repr, near))}, which"
                    f" {other.taken_by}?"
                )
        return nearest(self.kind, name, own)

    def instead_of(self, other: Registry[Any, Any], name: str) -> str:
        """Names that a user may mean who gave an entry of another registry, in words; empty where none is known."""
        return ""

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[Built, CardType]]:
        """The entries, sorted by name."""
        return (self[name] for name in self.names())

    def check_options(
        self, name: str, given: Mapping[str, Any], known: Iterable[str], hints: Mapping[str, Any] | None = None
    ) -> None:
        """Raise InputError, with the nearest names, for an option that the entry does not have, and for a value of
        another type than the option has.

        Args:
            known: names of the options.
            hints: types of options that ``build`` itself does not have.
        """
        known = sorted(known)
        types = {**self[name].hints, **(hints or {})}
        for option, value in given.items():
            if option not in known:
                raise nearest("option", option, known, f" of {self.kind} {name!r}")
            if not fits(value, types.get(option, Any)):
                raise InputError(
                    f"option {option!r} of {self.kind} {name!r} is {shown(value)}, expected {type_name(types[option])}"
                )

    def built(self, name: str, options: Mapping[str, Any], **given: Any) -> Built:
        """Build the entry with ``options``, which a user wrote, and ``given``, which the caller knows to be right.

        Raises:
            InputError: it cannot be built with these options (a size of 0, more memory than there is).
        """
        try:
            return self[name].build(**given, **options)
        except (InputError, TransientError, OSError, ImportError, MemoryError):
            raise
        except Exception as error:
            if not options:
                raise
            values = ", ".join(f"{option} {shown(value, 40)}" for option, value in options.items())
            raise InputError(
                f"{self.kind} {name!r} cannot be built with {values} ({on_one_line(error)}): correct the options"
            ) from error

    def _load(self) -> None:
        if self._loaded:
            return
        with self._lock:  # other threads wait until all names are known
            if self._loaded or self._loading:  # a module may look up a name while the others are still being imported
                return
            self._loading = True
            try:
                package = importlib.import_module(self.package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self.package}.{module.name}")
                self._loaded = True
            finally:
                self._loading = False


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
