"""The code of a recorded commit, in a folder of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from components.running.project import project_root
from segmodels.errors import InputError

DIRTY = "-dirty"
"""Ends the revision of a working directory with changes that are not committed."""


def clean_clone(revision: str, folder: Path) -> Path:
    """Clone this repository into ``folder`` at the commit that a run recorded.

    Args:
        revision: the commit; ``-dirty`` at its end is left out.
        folder: to make. It borrows the objects of this repository, so the clone costs only its files.

    Returns:
        The project's root in the clone.

    Raises:
        InputError: no commit was recorded, this is not a Git repository, or it does not have the commit.
    """
    commit = revision.removesuffix(DIRTY)
    if commit == "unknown":
        raise InputError(
            "no commit was recorded, because the training ran outside a Git repository: leave --clone out to use the"
            " code of this workspace"
        )
    here = project_root()
    top = Path(_git(here, "rev-parse", "--show-toplevel", problem=f"{here} is not in a Git repository")).resolve()
    _git(
        top,
        "cat-file",
        "-e",
        f"{commit}^{{commit}}",
        problem=f"the repository {top} does not have commit {commit}: `git fetch` it, or run this where it was trained",
    )
    _git(top, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(folder))
    _git(folder, "checkout", "--quiet", "--detach", commit)
    return folder / here.resolve().relative_to(top)


def _git(folder: Path, *arguments: str, problem: str = "") -> str:
    """The output of a Git command. Raises InputError with ``problem``, or else with Git's own message."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError("git is not installed, which --clone needs: install it or leave --clone out") from None
    if done.returncode:
        raise InputError(problem or f"git {arguments[0]} failed in {folder}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
