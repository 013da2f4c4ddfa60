"""MLflow's store on one machine, an SQLite file: made whole or not at all, and looked at before MLflow opens it.

MLflow makes its tables one by one, for seconds, in the file itself: a process killed then leaves a file that no MLflow
reads, as do two processes that start at once. It also migrates an older file without asking.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from components.running.project import project_root
from components.tracking.mlflow_errors import answers, damaged, other_version

STORE, ARTIFACTS = "mlflow.db", "mlruns"
"""Of the local store: its SQLite database and the folder of its artifacts."""

SECONDS = 20
"""How long to wait for another process that locks the file, as MLflow does."""


def prepare_store(path: Path) -> None:
    """Make the store if it is not there, else check that MLflow can use it.

    Raises:
        InputError: damaged, of another MLflow version, or not to be opened.
        TransientError: another process keeps it locked.
    """
    if _is_empty(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent):
            if _is_empty(path):  # else another process has made it meanwhile
                _make(path)
    _check(path)


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Others wait for the block's end. The lock leaves no file, and ends with its process; a file system that locks no
    folders (some NFS servers) gives none.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = path.with_name(f".{path.name}.partial")
    for left in (partial, partial.with_name(f"{partial.name}-journal")):  # by a killed process
        left.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{partial}", (project_root() / ARTIFACTS).as_uri())
    store.engine.dispose()
    SqlAlchemyStore._engine_map.pop(f"sqlite:///{partial}", None)  # an engine of a file that is not there any more
    partial.replace(path)


def _check(path: Path) -> None:
    uri = f"sqlite:///{path}"
    with answers("", uri):
        file = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=SECONDS)
        with closing(file):
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "alembic_version" not in tables or any(name.startswith("_alembic_tmp_") for name in tables):
                raise damaged(uri, "its tables were not all made")
            found = {version for (version,) in file.execute("SELECT version_num FROM alembic_version")}
    if found != {expected := _latest_revision()}:
        raise other_version(uri, f"its tables are {', '.join(map(str, found)) or 'unknown'}, expected {expected}")


@cache
def _latest_revision() -> str:
    """Of the tables, as this MLflow makes them: the one that no later one of its migrations follows. Their files are
    read, as importing MLflow takes seconds.
    """
    package = find_spec("mlflow")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    migrations = Path(package.origin).with_name("store") / "db_migrations" / "versions"
    named = re.findall(
        r'^(down_)?revision = "(\w+)"', "\n".join(path.read_text() for path in migrations.glob("*.py")), re.MULTILINE
    )
    (latest,) = {revision for down, revision in named if not down} - {revision for down, revision in named if down}
    return latest
