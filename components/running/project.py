"""The project's root, wherever in it a step runs."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """The repository that DVC works in; the working directory where there is none, as in a container.

    `dvc exp run --queue` and `--temp` work in a copy below ``.dvc/tmp/exps``, which is removed afterwards, and `make
    run` in a folder below ``configurations/``: both belong to the repository around them.
    """
    here = Path.cwd()
    for parent in here.parents:
        if parent.name == "exps" and parent.parts[-3:-1] == (".dvc", "tmp"):
            return parent.parents[2]
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc" / "config").is_file()), here)
