"""MLflow's store on one machine is whole or not there, and whatever is wrong with it is a sentence."""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from forked import process
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from small_pipeline import use_local_store
from sqlalchemy.exc import OperationalError

from components.tracking import local_store
from components.tracking.client import mlflow_client
from components.tracking.mlflow_errors import answers
from segmodels.errors import InputError, TransientError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_local_store(tmp_path, monkeypatch)
    return tmp_path / "mlflow.db"


def execute(*statements: str) -> Callable[[Path], None]:
    def on(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    return on


VERSION = "UPDATE alembic_version SET version_num ="
BAD = {
    "random": (lambda path: path.write_bytes(bytes(range(256)) * 40), "damaged"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
    "half made": (execute("DROP TABLE alembic_version"), "damaged .*not all made"),
    "killed in a step": (execute("CREATE TABLE _alembic_tmp_runs (id INTEGER)"), "damaged .*not all made"),
    "older": (
        execute("UPDATE alembic_version SET version_num = '0584bdc529eb'"),
        "0584bdc529eb.*mlflow db upgrade sqlite",
    ),
    "newer": (execute("UPDATE alembic_version SET version_num = 'ffffffffffff'"), "ffffffffffff.*install the newer"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be opened"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_store_that_mlflow_cannot_use_is_named_with_the_way_out(store: Path, kind: str) -> None:
    spoil, words = BAD[kind]
    spoil(store)
    before = store.read_bytes() if store.is_file() else None
    with pytest.raises(InputError, match=words) as caught:
        mlflow_client()
    assert str(store) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before is None or store.read_bytes() == before


def test_the_version_of_the_tables_is_the_one_that_mlflow_names() -> None:
    assert local_store._latest_revision() == _get_latest_schema_revision()


def test_a_store_that_another_process_locks_may_be_free_later(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_store, "SECONDS", 0.1)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TransientError, match=r"mlflow\.db is locked by another process"):
            mlflow_client()


def test_a_process_killed_while_it_makes_the_store_leaves_none(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.rename(store.with_name("whole.db"))

    class Killed:
        def __init__(self, uri: str, _: str) -> None:
            Path(uri.removeprefix("sqlite:///")).write_bytes(whole.read_bytes()[:5000])
            raise KeyboardInterrupt

    class Made(Killed):
        _engine_map: ClassVar[dict[str, object]] = {}

        def __init__(self, uri: str, _: str) -> None:
            path = Path(uri.removeprefix("sqlite:///"))
            assert not path.exists(), "what the killed process left is removed"
            shutil.copyfile(whole, path)
            self.engine = self

        def dispose(self) -> None:
            pass

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Killed)
    with pytest.raises(KeyboardInterrupt):
        local_store.prepare_store(store)
    assert not store.exists()
    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Made)
    local_store.prepare_store(store)
    assert store.read_bytes() == whole.read_bytes()


def make_experiment(folder: Path, name: str) -> None:
    """In a process of its own, whose working directory has no store."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    mlflow_client().create_experiment(name)


@pytest.mark.slow
def test_several_first_processes_make_one_store(tmp_path: Path) -> None:
    processes = [process(make_experiment, tmp_path, str(number)) for number in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0] * 4
    names = {experiment.name for experiment in mlflow_client(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()}
    assert names == {"Default", "0", "1", "2", "3"}


@pytest.mark.slow
def test_a_first_process_killed_at_any_moment_leaves_a_store_that_the_next_can_make(tmp_path: Path) -> None:
    partial = tmp_path / ".mlflow.db.partial"
    for wait in (0.0, 0.3, 0.8, 1.5):
        first = process(make_experiment, tmp_path, str(wait))
        first.start()
        deadline = time.monotonic() + 60
        while not partial.exists() and first.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        first.kill()
        first.join()
    mlflow_client(f"sqlite:///{tmp_path}/mlflow.db").create_experiment("at last")
    assert not partial.exists()


@pytest.mark.parametrize(
    ("uri", "words"),
    {
        "sqlite://mlflow.db": "MLFLOW_TRACKING_URI is 'sqlite://mlflow.db'.*expected",
        "htp://x": "MLFLOW_TRACKING_URI is 'htp://x'.*expected",
        "http:///x": "MLFLOW_TRACKING_URI is 'http:///x'.*expected",
        "sqlite://": "names no file",
        "sqlite:///:memory:": "names no file",
        "mlruns": "a folder",
        "./mlruns": "a folder",
        "file:///tmp/mlruns": "begins with 'file:'",
        "uc:catalog": "begins with 'uc:'",
        "http://[::1": "'http://\\[::1', an address that cannot be read",
        "http://[zz]:80": "cannot be read",
        "http://": "names no host",
        "https://ho st:5000": "its host holds ' '",
        "http://a..b": "is empty or longer",
        "http://host:port": "MLFLOW_TRACKING_URI is 'http://host:port'.*expected",
        "postgresql://host:port/db": "'port'",
        "mysql://[::1/db": "cannot be read",
        "databricks://p:x@y": "'databricks://y', but this machine has no credentials of Databricks",
    }.items(),
)
def test_a_mistyped_address_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str, words: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=words):
        mlflow_client()


@pytest.mark.parametrize("uri", ["file:///tmp/user:SECRET@x", "uc:SECRET", "/tmp/user:SECRET@x", "http://me:SECRET@[x"])
def test_what_may_be_a_secret_in_a_mistyped_address_is_not_shown(uri: str) -> None:
    with pytest.raises(InputError) as refusal:
        mlflow_client(uri)
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_of_something_else_is_refused(status: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(InputError, match="is not an MLflow server"):
            mlflow_client(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match="is not an MLflow server"):
            mlflow_client(f"https://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (sqlite3.OperationalError("no such table: runs"), InputError, "damaged"),
        (sqlite3.OperationalError("database or disk is full"), InputError, "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), InputError, "a file, and its permissions"),
        (sqlite3.OperationalError("disk I/O error"), InputError, "check the disk and the limit of file sizes"),
        (sqlite3.OperationalError("database is locked"), TransientError, "is locked by another process"),
        (ConnectionResetError(104, "Connection reset by peer"), TransientError, "does not answer"),
        (ModuleNotFoundError("No module named 'x'", name="x"), InputError, "needs the package x"),
    ],
)
def test_errors_of_a_store_in_use_become_sentences(error: Exception, kind: type[Exception], words: str) -> None:
    uri = "postgresql://me:SECRET@db/mlflow"
    forms = [error]
    if isinstance(error, sqlite3.Error):
        flushed = OperationalError("INSERT", {}, error)
        forms.append(MlflowException(str(flushed)))
        flushed.add_detail("raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block")
        forms.append(flushed)
    for raised in forms:
        with pytest.raises(kind, match=words) as caught, answers("run 1", uri):
            raise raised
        assert "SECRET" not in str(caught.value)


def test_bugs_and_refusals_of_this_machine_stay_what_they_are() -> None:
    for error in (KeyError("x"), PermissionError(13, "Permission denied", "/x")):
        with pytest.raises(type(error)), answers("run 1", "http://x"):
            raise error
