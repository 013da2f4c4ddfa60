"""The command line of the steps: ``python -m components STEP --params params.yaml --dataset data/dataset ...``.

A step is a plain function, see components/steps/__init__.py. Its argument ``params`` is its section of params.yaml,
positional-only arguments are arguments of the command line, and the others options of the same name; the function's
docstring explains them. Exit codes: segmodels/exit_codes.py.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.artifacts import check_replaceable
from components.environment import set_aws_variables
from components.params import FILE
from components.running.retries import retried
from components.steps import CLUSTER_STEPS, COMMANDS, DVC_STEPS, MONITORING_STEPS, PART_STEPS, STEPS, Step
from segmodels.errors import InputError
from segmodels.exit_codes import guarded
from segmodels.machine import check_file, check_folder

ALL = {step.name: step for step in (*STEPS, *PART_STEPS, *DVC_STEPS, *CLUSTER_STEPS, *COMMANDS)}


def main(argv: list[str] | None = None) -> int:
    return guarded(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> None:
    if sys.flags.optimize > 1:
        raise InputError(
            "Python runs without docstrings (-OO or PYTHONOPTIMIZE=2), which packages of the steps need: unset it"
        )
    parser = argparse.ArgumentParser(
        prog="python -m components",
        description="The steps of the segmentation pipeline, and commands around it.",
        epilog="\n\n".join(
            f"{title}:\n" + "\n".join(f"  {step.name:<16} {step.help}" for step in steps)
            for title, steps in {
                "steps": STEPS,
                "with DVC": DVC_STEPS,
                "on a cluster": (*CLUSTER_STEPS, *PART_STEPS),
                "commands": COMMANDS,
            }.items()
        )
        + "\n\n`python -m components STEP --help` shows a step's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=ALL, metavar="STEP", help="a step or command of those below")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of that step")
    chosen = parser.parse_args(argv)
    set_aws_variables()
    run_step(ALL[chosen.step], chosen.options)


def run_step(step: Step, argv: list[str]) -> None:
    """Run one step with its command-line options."""
    function = getattr(importlib.import_module(step.module), step.function)
    options = vars(_parser(step, function).parse_args(argv))
    executor_input = options.pop("executor_input", None)
    if executor_input:
        from components.kubeflow.executor_output import input_paths
        from components.kubeflow.last_step import recorded
        from components.kubeflow.packed import unpacked

        if step.gathers:
            options[step.gathers] = input_paths(executor_input, step.gathers)
        with recorded(step.name, options.get("part")), unpacked(step, options) as folders:
            _do(step, function, folders, executor_input)
    else:
        _do(step, function, options)


def _do(step: Step, function: Callable[..., Any], options: dict[str, Any], executor_input: str = "") -> None:
    retries = options.pop("retry")
    if "set" in options:
        from components.params.overrides import assembled_params

        file, fragments, assignments = options.pop("params"), options.pop("params_json"), options.pop("set")
        # ingest, or on a cluster changed, looks at the names of all; torch's import would cost the others seconds
        names = step.name != "source" and step.section not in ("validate", "preprocess")
        params = assembled_params(fragments or file, assignments, names=names)
        whole = typing.get_type_hints(function)["params"] is type(params)
        options["params"] = params if whole else params.section(step.section)
    _check_outputs(step, options)

    def work() -> None:
        if step.name == "train":
            from components.params.measuring import check_measuring

            check_measuring(params, options["shards"])  # on a cluster the other sections are not known: it passes
        _call(function, options)

    try:
        retried(work, retries)
    except InputError:
        if executor_input and step.writes:
            from components.kubeflow.executor_output import keep_what_failed

            keep_what_failed(options[step.writes])
        raise
    if step.name == "ingest":
        from components.params.tasks import check_annotations

        check_annotations(params.train, options["dataset"])  # on a cluster the model is not known: it passes
    if executor_input:
        from components.kubeflow.executor_output import write_executor_output
        from components.kubeflow.packed import pack_output

        write_executor_output(executor_input, step.writes, options.get(step.writes))
        if step.packs:
            pack_output(options[step.writes])


def _check_outputs(step: Step, options: Mapping[str, Any]) -> None:
    """Refuse, before the work begins, what cannot be written after it."""
    if step.writes:
        check_folder(options[step.writes], replaced=True)
        check_replaceable(step.name, options[step.writes])
    for option in filter(options.get, step.results):
        check_folder(options[option])
    for option in filter(options.get, step.files):
        check_file(options[option])


def _call(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    bound = inspect.signature(function).bind_partial()
    bound.arguments.update(options)
    return function(*bound.args, **bound.kwargs)


def _parser(step: Step, function: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m components {step.name}", description=step.help)
    add = parser.add_argument
    hints, texts = typing.get_type_hints(function), described_arguments(function)
    signature = dict(inspect.signature(function).parameters)
    if signature.pop("params", None):
        add("--params", type=_path, default=FILE, help="parameter file (default: %(default)s)")
        text = "sections of the parameter file as JSON, in its place; may be repeated"
        add("--params-json", action="append", default=[], metavar="JSON", help=text)
        text = "one parameter's value, for example train.epochs=40; may be repeated"
        add("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    if "params" in hints or step.writes or step in MONITORING_STEPS:
        text = "Kubeflow's description of the task; the step describes its outputs in the file that this names"
        add("--executor-input", metavar="JSON", help=text)
    text = "times to try again, after a growing pause, after a transient error (default: %(default)s)"
    add("--retry", type=int, default=0, metavar="TIMES", help=text)
    for key, parameter in signature.items():
        text = texts[key].replace("%", "%%")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            several = parameter.default is not inspect.Parameter.empty
            add(key, nargs="*" if several else None, metavar=key.upper(), help=text)
        else:
            _add_option(parser, key, hints[key], parameter.default, text)
    return parser


def _add_option(parser: argparse.ArgumentParser, key: str, hint: Any, default: Any, text: str) -> None:
    """The option of a function's argument. A folder without a default is data/NAME."""
    option = f"--{key.replace('_', '-')}"
    if default is inspect.Parameter.empty and hint is Path:
        default = Path("data") / key
    required = default is inspect.Parameter.empty
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else "%(default)s"
    text += "" if required or default in (None, ()) else f" (default: {shown})"
    settings: dict[str, Any] = {"help": text, "required": required, "default": None if required else default}
    if type(None) in typing.get_args(hint):
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if hint is bool:
        parser.add_argument(option, type=_boolean, nargs="?", const=True, metavar="true|false", **settings)
        return
    # tuple[float, ...] is given as floats
    many = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if many else hint
    parser.add_argument(option, type=_path if kind is Path else kind, nargs="+" if many else None, **settings)


def described_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its text in the section ``Args:`` of the docstring."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", inspect.getdoc(function) or "", re.MULTILINE)
    entries = re.findall(r"^[ ]{4}(\w[\w, ]*): ((?:.*)(?:\n[ ]{8,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {
        name: " ".join(text.split()).replace("``", "").removesuffix(".")
        for names, text in entries
        for name in names.split(", ")
    }


def _path(text: str) -> Path:
    """Not of an empty text, as of a variable that is not set: ``Path`` takes it for the folder of the process."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a file or folder, got {text!r}")
    return Path(text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
