"""The command line of the steps: ``python -m components <step> --params params.yaml --dataset data/dataset ...``.

Each step is a plain function in the module of its name. Its first argument is its section of params.yaml, the others
are
options of the same name. Exit codes: 0 done, 2 wrong parameters or data (do not retry), 75 something outside failed for
    now
(retry), 143 stopped by SIGTERM after saving.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segmodels.errors import InputError, TransientError

STEPS = {
    "ingest": "find the dataset at its revision and write its manifest",
    "validate": "open every sample and check it; data docs",
    "preprocess": "remap labels, resize, pack into Arrow shards; statistics",
    "train": "train a model, every epoch in MLflow; resumes",
    "evaluate": "measure the best checkpoint on the test split; pictures",
    "register": "register the model; champion or challenger",
    "changed": "say whether data, code or parameters are new since the champion",
    "notify": "tell a webhook how a pipeline run ended",
    "predict": "turn a folder of images into masks and overlays",
    "serve": "answer requests with the champion over HTTP; follows it",
    "report": "print the results of the last pipeline run",
}

HOMES = {
    **dict.fromkeys(("ingest", "validate", "preprocess", "train", "evaluate", "register"), "steps"),
    **dict.fromkeys(("changed", "notify"), "kubeflow"),
    **dict.fromkeys(("predict", "serve", "report"), "commands"),
}

HELP = {
    "params": "parameter file (default: %(default)s)",
    "params-json": "sections of the parameter file as JSON, in its place; may be repeated",
    "set": "one parameter's value, for example train.epochs=40; may be repeated",
    "executor-input": "Kubeflow's description of the task: its outputs and what they hold are written to where it says",
    "retry": "times to try again, after a growing pause, when something outside fails for now (default: %(default)s)",
    "cache": "folder for downloads and generated data, kept between runs",
    "dataset": "folder of manifest.parquet and dataset.json",
    "validation": "folder of report.json and the data docs",
    "shards": "folder of the Arrow shards and statistics.json",
    "model": (
        "folder of weights.safetensors, model.json and run.json; predict and serve also take models:/NAME@ALIAS and"
        " models:/NAME/VERSION"
    ),
    "checkpoints": "folder of the states that training resumes from",
    "evaluation": "folder of metrics.json, tables and pictures",
    "registration": "folder of registration.json",
    "decision": "file for the word train or skip",
    "images": "folder of images, or one image",
    "out": "folder for the results",
    "window": "side of a sliding window in pixels, for images too large to be predicted whole",
    "overlap": "least share of a window that it has in common with the next",
    "weighting": "of a window's pixels where windows overlap: gaussian or uniform",
    "flip": "average with the mirrored image",
    "scales": "average over these scales of the image, for example 0.75 1 1.25",
    "crf": "refine by the image's edges with a dense CRF",
    "host": "address to listen on, 0.0.0.0 for all",
    "port": "port to listen on, 0 for any free one",
    "batch-window": "milliseconds that a request waits for others to be predicted with",
    "max-batch": "images predicted at once",
    "max-megapixels": "million pixels that a request, and a batch, may hold",
    "max-megabytes": "million bytes that a request may hold",
    "poll": "seconds between looks at the alias for another version",
    "threads": "threads of torch; in a container its CPU limit",
}


FIRST_PAUSE, LONGEST_PAUSE = 15, 300
"""Seconds before the first retry, doubled each time, and the longest."""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m components",
        description="The steps of the segmentation pipeline.",
        epilog="steps:\n"
        + "\n".join(f"  {name:<11} {text}" for name, text in STEPS.items())
        + "\n\n`python -m components STEP --help` shows a step's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=STEPS, metavar="STEP")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the step")
    chosen = parser.parse_args(argv)
    return guarded(lambda: run_step(chosen.step, chosen.options))


def run_step(name: str, argv: list[str]) -> None:
    """Run one step with its command-line options."""
    function = getattr(importlib.import_module(f"components.{HOMES[name]}.{name}"), name)
    hints = typing.get_type_hints(function)
    parser = argparse.ArgumentParser(prog=f"python -m components {name}", description=STEPS[name])
    signature = inspect.signature(function).parameters
    section = "params" in signature
    if section:
        parser.add_argument("--params", type=Path, default=Path("params.yaml"), help=HELP["params"])
        parser.add_argument("--params-json", action="append", default=[], metavar="JSON", help=HELP["params-json"])
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=HELP["set"])
        parser.add_argument("--executor-input", metavar="JSON", help=HELP["executor-input"])
    parser.add_argument("--retry", type=int, default=0, metavar="TIMES", help=HELP["retry"])
    for key, parameter in signature.items():
        if key == "params":
            continue
        option, hint = f"--{key.replace('_', '-')}", hints[key]
        default = (
            Path("data") / key if parameter.default is inspect.Parameter.empty and hint is Path else parameter.default
        )
        if hint is bool:
            parser.add_argument(
                option,
                type=_boolean,
                nargs="?",
                const=True,
                default=default,
                metavar="true|false",
                help=HELP.get(option[2:]),
            )
        else:
            required = default is inspect.Parameter.empty
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else "%(default)s"
            text = HELP.get(option[2:], "") + ("" if required else f" (default: {shown})")
            kind = next(
                (one for one in typing.get_args(hint) if one is not type(None)), hint
            )  # str | None is given as str, tuple[float, ...] as floats
            several = "+" if typing.get_origin(hint) is tuple else None
            parser.add_argument(
                option, type=kind, nargs=several, required=required, default=None if required else default, help=text
            )
    options = vars(parser.parse_args(argv))
    retries, executor_input = options.pop("retry"), options.pop("executor_input", None)
    if section:
        from components.params.overrides import assembled_params

        file, fragments, assignments = options.pop("params"), options.pop("params_json"), options.pop("set")
        params = assembled_params(fragments or file, assignments)
        options["params"] = params if hints["params"] is type(params) else params.section(name)
    try:
        _persistently(lambda: function(**options), retries)
    except InputError:
        if executor_input:
            from components.kubeflow.executor_output import keep_what_failed

            keep_what_failed(options)
        raise
    if executor_input:
        from components.kubeflow.executor_output import write_executor_output

        write_executor_output(name, executor_input, options)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _persistently(work: Callable[[], Any], retries: int) -> None:
    """Do ``work``; again, up to ``retries`` times, when something outside fails for now."""
    for attempt in range(retries):
        try:
            return work()
        except TransientError as error:
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            print(f"{error}: trying again in {pause} s ({attempt + 1} of {retries})", file=sys.stderr, flush=True)
            time.sleep(pause)
    return work()


def guarded(work: Callable[[], Any]) -> int:
    """Run ``work`` and turn errors that a user can act on into one sentence and an exit code."""
    try:
        work()
    except InputError as error:
        return _fail(2, str(error))
    except TransientError as error:
        return _fail(75, f"{error} (this may pass: try again)")
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            return _fail(
                2,
                f"the disk is full{f' ({error.filename})' if error.filename else ''}: free some space and run the step"
                " again, nothing half-written is kept",
            )
        raise
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(code: int, message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
