"""The MLflow model registry: versions, their aliases and tags, and what a version holds. The only file that knows it.

Aliases: ``champion`` is the version to use, ``previous`` the champion before it, ``challenger`` the last version that
    did not win.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from components.tracking.client import mlflow_client, registry_uri
from components.tracking.mlflow_errors import answers, is_missing
from components.tracking.presentation import user
from components.tracking.registry_turn import turn
from components.tracking.run import TAG_LENGTH
from components.tracking.saved_model import leave, save_model
from segmodels.addresses import without_credentials
from segmodels.errors import InputError
from segmodels.files import DESCRIPTION, WEIGHTS
from segmodels.inference.description import DamagedBundleError

if TYPE_CHECKING:
    import numpy as np

    from segmodels.tasks.base import Task

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

ARCHIVED, HISTORY = "archived", "history."
"""Tag of a version that is out of use, and how the tags of its history begin; a time follows."""

REGISTERED = "models:/"

NUMBER = re.compile(r"[1-9][0-9]{0,17}")
"""Of a version, as MLflow writes it: its stores also take 03 for 3, which then is another text."""

Address = TypeVar("Address", str, str | None)


@dataclass(frozen=True)
class Version:
    """A version of the registered model, with its tags."""

    number: str
    tags: Mapping[str, str]


class Registry:
    """One registered model. ``client`` is the MLflow client of its server."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    def _answers(self) -> Any:
        return answers(f"registered model {self.name!r}", registry_uri(self.client))

    def find(self, *, run_id: str, model_digest: str) -> Version | None:
        """The version that this run has registered with these weights; the first, if two registered it at once."""
        with self._answers():
            versions = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        same = [version for version in versions if version.tags.get("model_digest") == model_digest]
        first = min(same, key=lambda version: int(version.version), default=None)
        return first and Version(str(first.version), first.tags)

    def tagged(self, tag: str, value: str) -> list[Version]:
        """The versions with this tag, the newest first. ``value`` has no apostrophe."""
        with self._answers():
            found = self.client.search_model_versions(
                f"name = '{self.name}' and tags.{tag} = '{value}'", order_by=["version_number DESC"]
            )
        return [Version(str(version.version), version.tags) for version in found]

    def champion(self) -> Version | None:
        """None if no version has the alias yet."""
        return self._aliased(CHAMPION)

    def challenger(self) -> Version | None:
        """None if no version has the alias."""
        return self._aliased(CHALLENGER)

    def previous(self) -> Version | None:
        """The champion before; None if no version has the alias."""
        return self._aliased(PREVIOUS)

    def version(self, number: str) -> Version:
        """Raises InputError: there is none of that number."""
        check_number(number)
        with answers(f"model {self.name}/{number}", registry_uri(self.client)):
            return Version(number, self.client.get_model_version(self.name, number).tags)

    def check_there(self) -> None:
        """Raises InputError: nothing is registered under this name."""
        with self._answers():
            self.client.get_registered_model(self.name)

    def _aliased(self, alias: str) -> Version | None:
        with self._answers():
            number = self._aliases().get(alias)
            return Version(number, self.client.get_model_version(self.name, number).tags) if number else None

    def add(
        self,
        *,
        run_id: str,
        model_digest: str,
        contents: Path,
        task: Task,
        example: np.ndarray,
        tags: Mapping[str, str],
        description: str,
    ) -> Version:
        """Save a model and make it a version, in this order: a version always has all its files.

        Args:
            run_id, model_digest, contents, task, example: as ``save_model``.
            tags, description: of the version; the description is Markdown.
        """
        from mlflow.exceptions import MlflowException

        tags = {key: str(value)[:TAG_LENGTH] for key, value in tags.items()} | {"model_digest": model_digest}
        with answers(f"registered model {self.name!r}", self.client.tracking_uri):  # files lie beside the runs
            saved = save_model(
                self.client,
                self.name,
                run_id=run_id,
                model_digest=model_digest,
                contents=contents,
                task=task,
                example=example,
            )
        with self._answers():
            try:
                self.client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self.client.create_model_version(
                self.name, saved.model_uri, run_id, tags=tags, description=description, model_id=saved.model_id
            )
            leave(self.client, saved.model_id)
        return Version(str(made.version), tags)

    def remove(self, version: Version) -> None:
        """Delete a version and its files' record: the same model was registered twice at once."""
        with self._answers():
            source = self.client.get_model_version(self.name, version.number).source
            self.client.delete_model_version(self.name, version.number)
            self.client.delete_logged_model(source.removeprefix(REGISTERED))

    def turn(self, version: Version) -> AbstractContextManager[None]:
        """While the block lasts, no other process decides about this model's champion; see ``registry_turn``."""
        return turn(self.client, self.name, version.number)

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set those of ``tags`` that the version, as it was read, does not have: each one is two requests."""
        with self._answers():
            for key, value in tags.items():
                if version.tags.get(key) != (text := str(value)[:TAG_LENGTH]):
                    self.client.set_model_version_tag(self.name, version.number, key, text)

    def make_champion(self, version: Version, predecessor: Version | None) -> None:
        """Give ``version`` the alias. Each alias moves in one step, so there is a champion at every moment."""
        with self._answers():
            if predecessor and predecessor.number != version.number:
                self.client.set_registered_model_alias(self.name, PREVIOUS, predecessor.number)
            self.client.set_registered_model_alias(self.name, CHAMPION, version.number)
            aliases = self._aliases()
            for other in (CHALLENGER, PREVIOUS):  # that of previous stays where there was no champion to take it
                if aliases.get(other) == version.number:
                    self.client.delete_registered_model_alias(self.name, other)

    def make_challenger(self, version: Version) -> None:
        with self._answers():
            self.client.set_registered_model_alias(self.name, CHALLENGER, version.number)

    def archive(self, version: Version, reason: str) -> None:
        """Take all aliases from ``version`` and tag it."""
        with self._answers():
            for alias, number in self._aliases().items():
                if number == version.number:
                    self.client.delete_registered_model_alias(self.name, alias)
        self.set_tags(version, {ARCHIVED: reason})

    def unarchive(self, version: Version) -> None:
        if ARCHIVED in version.tags:
            with self._answers():
                self.client.delete_model_version_tag(self.name, version.number, ARCHIVED)

    def record(self, version: Version, decision: str, reason: str) -> None:
        """Note a decision about a version: as its tags ``decision`` and ``reason``, and with time and user in its
        history, unless that ends with the same decision.
        """
        now, history = datetime.now(UTC), {key: value for key, value in version.tags.items() if key.startswith(HISTORY)}
        last = history[max(history)] if history else ""
        tags = {"decision": decision, "reason": reason}
        if not (last.startswith(f"{decision} by ") and last.endswith(f": {reason}")):
            tags[f"{HISTORY}{now:%Y%m%dT%H%M%S.%f}"] = f"{decision} by {user()} at {now:%Y-%m-%d %H:%M} UTC: {reason}"
        self.set_tags(version, tags)

    def _aliases(self) -> dict[str, str]:
        """Alias -> version; empty where nothing is registered yet."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if is_missing(error):
                return {}
            raise
        return {alias: str(number) for alias, number in aliases.items()}  # a local store gives integers

    def download(self, version: Version, folder: Path) -> Path:
        """The bundle of a version, as ``download_bundle``."""
        return download_bundle(f"models:/{self.name}/{version.number}", folder, self.client)


@contextmanager
def bundle_folder(address: str | Path) -> Iterator[Path]:
    """The bundle folder that an address stands for, while the block lasts.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` in the registry, or the folder of a trained model.

    Raises:
        InputError: no such model, version or alias, or its files are gone.
        DamagedBundleError: its files are not those that were registered.
        TransientError: the server or the object store does not answer.
    """
    check_model(address)
    if not is_registered(address):
        yield Path(address)
        return
    with TemporaryDirectory() as folder:
        yield download_bundle(str(address), Path(folder))


def check_model(address: str | Path) -> None:
    """Raise InputError unless an address is one of the registry, or a folder that is there."""
    if not is_registered(address) and not Path(address).is_dir():
        raise InputError(
            f"model {str(address)!r} is neither a folder nor an address in the registry, expected the folder of a"
            " trained model, models:/NAME/VERSION or models:/NAME@ALIAS: run the train step or correct it"
        )


def is_registered(address: str | Path) -> bool:
    """Whether an address is one of the registry; any other is a folder."""
    return str(address).startswith(REGISTERED)


def download_bundle(uri: str, folder: Path, client: Any = None) -> Path:
    """The bundle folder of a registered model, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, copied into
    ``folder`` and compared with the version's tag ``model_digest``.

    Raises:
        InputError: no such model, version or alias, or its files are gone.
        DamagedBundleError: its files are not those that were registered.
        TransientError: the server or the object store does not answer.
    """
    client = client or mlflow_client()
    import mlflow

    from segmodels.inference.bundle import bundle_digest

    version = _find_version(uri, client)
    address = f"{REGISTERED}{version.name}/{version.version}"
    with answers(f"model {uri}", client.tracking_uri):
        bundle = Path(
            mlflow.artifacts.download_artifacts(
                f"{address}/artifacts/bundle", dst_path=str(folder), tracking_uri=client.tracking_uri
            )
        )
    if absent := [name for name in (DESCRIPTION, WEIGHTS) if not (bundle / name).is_file()]:
        raise InputError(
            f"the files of model {address} in MLflow at {without_credentials(client.tracking_uri)} lack"
            f" {' and '.join(absent)}: put them back, or use another version"
        )
    registered = version.tags.get("model_digest")
    if registered and (found := bundle_digest(bundle)) != registered:
        raise DamagedBundleError(
            f"files of model {address} have the digest {found[:12]}, not {registered[:12]} as registered (its tag"
            " model_digest): train and register again, or use another version"
        )
    return bundle


def version_now(uri: str) -> tuple[str, str]:
    """Name and version number of the registered model that ``models:/NAME@ALIAS`` stands for now, or that
    ``models:/NAME/VERSION`` names.

    Raises:
        InputError: no such form of address, model, version or alias.
        TransientError: the server does not answer.
    """
    version = _find_version(uri)
    return version.name, str(version.version)


def pinned(address: Address) -> Address:
    """The address with an alias replaced by the version that has it now: ``models:/NAME/7`` for ``models:/NAME@ALIAS``.
    A folder, a file or None stays as it is.

    Raises:
        InputError: no such model, version or alias.
        TransientError: the server does not answer.
    """
    if address is None or not is_registered(address):
        return address
    name, number = version_now(address)
    return f"{REGISTERED}{name}/{number}"


def check_number(number: str) -> None:
    """Raise InputError unless a version's number is written as MLflow writes it."""
    if not NUMBER.fullmatch(number):
        raise InputError(f"the number of a version is {number[:50]!r}, expected one as MLflow writes it, such as 3")


def _find_version(uri: str, client: Any = None) -> Any:
    """MLflow's ModelVersion; arguments and errors as ``version_now``."""
    name, at, alias = uri.removeprefix(REGISTERED).partition("@")
    number = ""
    if not at:
        name, _, number = name.partition("/")
    if not is_registered(uri) or not name or not (alias or number):
        raise InputError(
            f"model {uri!r} is not an address in the registry, expected models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    if number:
        check_number(number)
    client = client or mlflow_client()
    with answers(f"model {uri}", registry_uri(client)):
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
