"""Repairs what a killed DVC or Git leaves behind, with which `make demo`, `make run` and `make sweep` begin, and checks
what the pipeline needs.

DVC truncates ``dvc.lock`` and ``.dvc/tmp/rwlock`` before it writes them; killed in between, every later command of DVC
refuses to work. Git, and dulwich in DVC, leave lock files that nobody removes. DVC reads the parameters of all
configurations, whichever runs, and refuses to work where the file of one has been moved or removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.params import FILE
from components.params.yaml_files import STAGES, dvc_stages, read_yaml
from components.running.project import project_root
from segmodels.errors import InputError

LOCK = "dvc.lock"


def doctor(repair: bool = False, stage: str | None = None) -> None:
    """Remove an incomplete ``dvc.lock`` of the working directory, an incomplete ``.dvc/tmp/rwlock``, lock files in
    ``.git`` whose process has ended, and ``configurations/NAME/dvc.yaml`` where the file of parameters is gone, and say
    so; nothing of this while DVC is at work. Then check packages, MLflow, object store, DVC's remote, Kubeflow, Docker,
    GPU, shared memory, disk and limits, a line each.

    Args:
        repair: only repair, which takes a moment, without the checks.
        stage: last stage of dvc.yaml that is to run: params.yaml may lack the sections of later ones (default: all run)

    Raises:
        InputError: something needed is wrong; its line says what to do. Or params.yaml lacks a section that DVC asks
            for.
    """
    _repair()
    _check_sections(stage)
    if not repair:
        from components.commands.checkup import checkup

        if not checkup():
            raise InputError("the lines that begin with !! say what to do")


def _repair() -> None:
    project = project_root()
    with _alone(project / ".dvc" / "tmp" / "lock") as alone:
        if not alone:
            return
        for folder in sorted(project.glob("configurations/*")):
            params, stages = folder / FILE, folder / STAGES
            if params.is_symlink() and not params.exists() and stages.is_symlink():
                _remove(stages, f"has no parameters any more: {params.readlink()} is gone. `make run` makes it again")
        text = _text(Path(LOCK))
        if text is not None and "<<<<<<< " not in text and not is_whole(text):  # a merge conflict is for its user
            _remove(Path(LOCK), "was incomplete; the next `dvc repro` writes it again from DVC's run cache")
        rwlock = project / ".dvc" / "tmp" / "rwlock"
        text = _text(rwlock)
        if text is not None and not _is_json_object(text):
            _remove(rwlock, "was incomplete")
        locks = _git_locks(project / ".git")
        if locks and not _at_work(project):
            for lock in locks:
                _remove(lock, "belonged to a process that has ended")


def _check_sections(last: str | None) -> None:
    """DVC knows no defaults: params.yaml must have every section that dvc.yaml names, up to the stage ``last``."""
    stages = dvc_stages()
    if not FILE.is_file():
        return
    there = read_yaml(FILE) or {}
    run = list(stages)[: list(stages).index(last) + 1] if last in stages else stages
    named = dict.fromkeys(section for stage in run for section in stages[stage].get("params", ()))
    if missing := [section for section in named if section not in there]:
        lines = ", ".join(f"`{section}: {{}}`" for section in missing)
        raise InputError(f"{FILE.resolve()} lacks sections that DVC asks for: add the lines {lines}")


def is_whole(text: str) -> bool:
    """Whether DVC accepts the text as a ``dvc.lock``. DVC itself decides where a quick look does not suffice, as its
    import takes half a second.
    """
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both are safe
        content = yaml.load(text, Loader=loader)  # nosec B506
        if _is_usual(content):
            return True
    except yaml.YAMLError:
        return False
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, LOCK))
    except (DvcException, Invalid):
        return False
    return True


def _is_usual(content: Any) -> bool:
    match content:
        case {"schema": "2.0", "stages": dict(stages), **rest} if not rest:
            return all(_is_usual_stage(stage) for stage in stages.values())
    return False


def _is_usual_stage(stage: Any) -> bool:
    match stage:
        case {"cmd": str(), **rest}:
            params, deps, outs = rest.pop("params", {}), rest.pop("deps", []), rest.pop("outs", [])
            return (
                not rest
                and isinstance(params, dict)
                and all(isinstance(keys, dict) for keys in params.values())
                and isinstance(deps, list)
                and isinstance(outs, list)
                and all(_is_usual_file(file) for file in (*deps, *outs))
            )
    return False


def _is_usual_file(file: Any) -> bool:
    match file:
        case {"path": str(), "hash": "md5", "md5": str(md5), "size": int(), **rest}:
            numbers = rest.pop("nfiles", 0), rest.pop("isexec", False)
            return (
                bool(re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5))
                and not rest
                and all(isinstance(number, int) for number in numbers)
            )
    return False


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Hold DVC's lock, as its commands do; False while another process holds it."""
    if not lock.is_file():
        yield True
        return
    import fcntl

    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _git_locks(git: Path) -> list[Path]:
    patterns = ("*.lock", "refs/**/*.lock", "objects/??/*.lock")
    return sorted(path for pattern in patterns for path in git.glob(pattern))


def _at_work(project: Path) -> bool:
    """Whether a process of Git or DVC works below ``project``; where that cannot be seen, it may."""
    import psutil

    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "name", "cmdline", "cwd", "status"]):
        facts = process.info
        words = [Path(word).name for word in (facts["cmdline"] or [])[:3]]
        ended = facts["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        if ended or facts["pid"] in own or not ({"git", "dvc"} & {facts["name"], *words}):
            continue
        if facts["cwd"] is None or Path(facts["cwd"]).is_relative_to(project.resolve()):
            return True
    return False


def _remove(path: Path, why: str) -> None:
    path.unlink(missing_ok=True)
    print(f"removed {os.path.relpath(path)}, which {why}", flush=True)
