"""Which code decides the weights of a training, and a digest of it: part of the key of its checkpoints."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import segmodels
from segmodels.training.settings import TrainSettings

ROOT = Path(segmodels.__file__).parent.parent
ALWAYS = ("segmodels.training.recipe", "segmodels.training.fit")
WITHOUT_EFFECT = ("segmodels.plots", "segmodels.object_pictures", "segmodels.inference", "segmodels.training.memory")
"""Modules that training reaches and that cannot change weights: pictures, how results are predicted afterwards, and
whether memory holds a step.
"""


def training_code(settings: TrainSettings, task: str) -> set[Path]:
    """The files that decide the weights: of the model, encoder, losses, learner and task that are chosen, of the loop,
    and all of this project that they import. Other models' files do not count unless they are imported.

    Args:
        task: name of the task that is trained.

    Raises:
        InputError: a name that is not registered.
    """
    from segmodels.encoders.registry import ENCODERS
    from segmodels.losses.registry import LOSSES
    from segmodels.models.registry import model_entry, model_options
    from segmodels.tasks.registry import TASKS
    from segmodels.training.criterion import loss_config
    from segmodels.training.learner import LEARNERS

    model = model_entry(settings.model)
    builders: list[Callable[..., Any]] = [model.build, TASKS[task].build, LEARNERS[model.card.learner].build]
    builders += [LOSSES[name].build for name in loss_config(settings, model.card)]
    defaults = model_options(settings.model)
    body = defaults.get("body")
    encoder = settings.options.get("encoder") or (body.encoder if body is not None else defaults.get("encoder"))
    if encoder and ":" not in encoder:
        builders.append(ENCODERS[encoder].build)
    files = {Path(inspect.getfile(inspect.unwrap(build))) for build in builders}
    return all_imported(files | {Path(inspect.getfile(importlib.import_module(name))) for name in ALWAYS})


def code_digest(files: Iterable[Path]) -> str:
    """Digest of files as syntax trees without docstrings, comments and layout: what Python runs."""
    digest = hashlib.sha256()
    for name, path in sorted((_name(path), path) for path in files):
        digest.update(f"{name}\n{_read(path).essence}\n".encode())
    return digest.hexdigest()[:16]


def all_imported(files: Iterable[Path]) -> set[Path]:
    """The files and all of this project that they import when they run, in functions too, but for type checkers."""
    seen: set[Path] = set()
    pending = list(files)
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending += (file for module in _read(path).imports for file in _files(module))
    return seen


class _Code(NamedTuple):
    """The parts of a file that count."""

    essence: str  # without docstrings, comments and layout
    imports: tuple[str, ...]  # names of modules, and names within modules


def _read(path: Path) -> _Code:
    return _parsed(path.read_text(encoding="utf-8"))


@cache
def _parsed(source: str) -> _Code:
    tree = ast.parse(source)
    imports = tuple(_imports(tree))
    return _Code(_essence(tree), imports)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if not _for_type_checkers(node):
            yield node
            pending += ast.iter_child_nodes(node)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _files(module: str) -> Iterator[Path]:
    """The file of a module of this project; the list of public names in ``segmodels/__init__.py`` decides nothing."""
    if module == "segmodels" or not module.startswith("segmodels."):
        return
    if any(module == name or module.startswith(f"{name}.") for name in WITHOUT_EFFECT):
        return
    place = ROOT / module.replace(".", "/")
    yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _essence(tree: ast.AST) -> str:
    """The code as Python runs it; changes the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part) and not _for_type_checkers(part)]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    """A docstring, or a string below an attribute that describes it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
