"""Move a registered model's aliases by hand. Servers follow; the versions keep the history as tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.commands.option_ranges import check_options
from segmodels.errors import InputError

if TYPE_CHECKING:
    from components.tracking.model_registry import Registry, Version


def promote(version: str, /, reason: str) -> None:
    """Make a version the champion, whatever its score; the champion before it becomes ``previous``.

    Args:
        version: NAME/NUMBER, or models:/NAME/NUMBER, of the registered model.
        reason: why; it is kept as a tag.

    Raises:
        InputError: there is no such version, it is the champion already, or the reason is empty.
        TransientError: MLflow does not answer.
    """
    registry, chosen = _version(version, reason)
    with registry.turn(chosen):
        before = registry.champion()
        if before and before.number == chosen.number:
            raise InputError(f"{registry.name} version {chosen.number} is the champion already: nothing to promote")
        registry.make_champion(chosen, before)
        registry.unarchive(chosen)
        registry.record(chosen, "champion", f"promoted over {_named(before)}: {reason}")
        if before:
            registry.record(before, "previous", f"replaced by version {chosen.number}: {reason}")
    print(f"{registry.name} version {chosen.number} is the champion, {_named(before)} the previous one")


def rollback(name: str, /, reason: str) -> None:
    """Make the previous champion the champion again; the one that it replaces becomes ``previous``, so that a second
    rollback undoes the first.

    Args:
        name: of the registered model. NAME/NUMBER says which of the two versions is meant, the champion that is
            replaced or the one that returns, and is refused for any other version.
        reason: why; it is kept as a tag.

    Raises:
        InputError: there is no such model, it has no previous champion, that is the champion, NUMBER is neither of the
            two versions, or the reason is empty.
        TransientError: MLflow does not answer.
    """
    from components.tracking.client import mlflow_client
    from components.tracking.model_registry import REGISTERED, Registry

    _check_reason(reason)
    name, _, number = name.removeprefix(REGISTERED).partition("/")
    registry = Registry(mlflow_client(), name)
    registry.check_there()
    previous = registry.previous()
    if previous is None:
        raise InputError(
            f"registered model {registry.name!r} has no version with the alias previous: name a version,"
            f" `python -m components promote {registry.name}/NUMBER --reason ...`"
        )
    with registry.turn(previous):
        before = registry.champion()
        if before and before.number == previous.number:
            raise InputError(
                f"{registry.name} version {previous.number} is the champion and the previous one: there is none to go"
                f" back to; name a version, `python -m components promote {registry.name}/NUMBER --reason ...`"
            )
        if number and number not in (known := [one.number for one in (before, previous) if one]):
            raise InputError(
                f"{name} version {number} is neither the champion nor the previous one ({' and '.join(known)}):"
                f" `python -m components promote {name}/{number} --reason ...` makes it the champion"
            )
        registry.make_champion(previous, before)
        registry.record(previous, "champion", f"rolled back from {_named(before)}: {reason}")
        if before:
            registry.record(before, "rolled back", f"rolled back to version {previous.number}: {reason}")
    print(f"{registry.name} version {previous.number} is the champion again, {_named(before)} the previous one")


def archive(version: str, /, reason: str) -> None:
    """Take a version out of use: it loses its aliases and gets the tag ``archived``; its files stay.

    Args:
        version: NAME/NUMBER, or models:/NAME/NUMBER, of the registered model.
        reason: why; it is kept as a tag.

    Raises:
        InputError: there is no such version, it is the champion, or the reason is empty.
        TransientError: MLflow does not answer.
    """
    registry, chosen = _version(version, reason)
    with registry.turn(chosen):
        champion = registry.champion()
        if champion and champion.number == chosen.number:
            raise InputError(
                f"{registry.name} version {chosen.number} is the champion and in use: promote another version or roll"
                " back first"
            )
        registry.archive(chosen, reason)
        registry.record(chosen, "archived", reason)
    print(f"{registry.name} version {chosen.number} is archived")


def _check_reason(reason: str) -> None:
    check_options(reason=(repr(reason), bool(reason.strip()), "why, in words: it is kept with the version"))


def _version(address: str, reason: str) -> tuple[Registry, Version]:
    _check_reason(reason)
    from components.tracking.client import mlflow_client
    from components.tracking.model_registry import REGISTERED, Registry

    client = mlflow_client()
    name, _, number = address.removeprefix(REGISTERED).rpartition("/")
    if not name or not number:
        raise InputError(f"version is {address!r}, expected NAME/NUMBER, such as road-scenes/3")
    registry = Registry(client, name)
    return registry, registry.version(number)


def _named(version: Version | None) -> str:
    return f"version {version.number}" if version else "no version"
