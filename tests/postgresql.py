"""A real PostgreSQL for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from ports import free_port

PASSWORD = "not/url:safe@all"


@dataclass(frozen=True)
class Database:
    port: int
    programs: Path
    folder: Path

    @property
    def uri(self) -> str:
        """Of the database mlflow."""
        return f"postgresql+psycopg2://mlflow:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/mlflow"

    def crash(self) -> bool:
        """Kill its writer of the log; it then drops all connections, recovers and starts anew, as after a crash. False
        while it recovers: there is no such process then, and to kill the one that recovers would end PostgreSQL.
        """
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        with contextlib.suppress(psutil.NoSuchProcess):  # they come and go
            for child in psutil.Process(pid).children():
                if "walwriter" in " ".join(child.cmdline()):
                    child.kill()
                    return True
        return False

    def run(self, program: str, *arguments: str) -> str:
        """A client program, with the options and the variable that the manifests use."""
        done = subprocess.run(
            [
                self.programs / program,
                *arguments,
                "--host=127.0.0.1",
                f"--port={self.port}",
                "--username=mlflow",
                "--no-password",
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PGPASSWORD": PASSWORD},
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def postgresql(log_folder: Path) -> Iterator[Database]:
    """PostgreSQL as its image sets it up: user and database mlflow, a password; it ends with the block."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and not shutil.which("initdb"):
        pytest.skip("PostgreSQL's server is not on this machine (Debian's package postgresql)")
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(f"/tmp/segmodels-postgresql-{os.getpid()}")  # where another user may go
    folder.mkdir()
    (folder / "password").write_text(PASSWORD)
    if as_user:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")
    port = free_port()
    try:
        make = [
            programs / "initdb",
            "--auth=scram-sha-256",
            "--username=mlflow",
            f"--pwfile={folder}/password",
            "--no-sync",
            f"--pgdata={folder}/data",
        ]
        subprocess.run([*as_user, *make], check=True, capture_output=True, cwd="/", timeout=120)
        command = [
            programs / "postgres",
            "-D",
            folder / "data",
            "-p",
            str(port),
            "-k",
            folder,
            "-c",
            "fsync=off",
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        with (log_folder / "log").open("w") as log:
            server = subprocess.Popen([*as_user, *map(str, command)], stdout=log, stderr=log, cwd="/")
        database = Database(port, programs, folder)
        for _ in range(100):
            if (
                subprocess.run([programs / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet"]).returncode
                == 0
            ):
                break
            time.sleep(0.1)
        try:
            database.run("createdb", "mlflow")
            yield database
        finally:
            pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, 2)  # fast shutdown
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
