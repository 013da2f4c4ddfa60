"""The command line of the steps: ``python -m components <step> --params params.yaml --dataset data/dataset ...``.

Each step is a plain function in the module of its name. Its first argument is its section of params.yaml, the others are
options of the same name. Exit codes: 0 done, 2 wrong parameters or data (do not retry), 75 something outside failed for now
(retry), 143 stopped by SIGTERM after saving.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import sys
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
    "predict": "turn a folder of images into masks and overlays",
    "report": "print the results of the last pipeline run",
}

HELP = {
    "params": "parameter file (default: %(default)s)",
    "cache": "folder for downloads and generated data, kept between runs",
    "dataset": "folder of manifest.parquet and dataset.json",
    "validation": "folder of report.json and the data docs",
    "shards": "folder of the Arrow shards and statistics.json",
    "model": "folder of weights.safetensors, model.json and run.json",
    "checkpoints": "folder of the states that training resumes from",
    "evaluation": "folder of metrics.json, tables and pictures",
    "registration": "folder of registration.json",
    "images": "folder of images",
    "out": "folder for the results",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m components",
        description="The steps of the segmentation pipeline.",
        epilog="steps:\n" + "\n".join(f"  {name:<11} {text}" for name, text in STEPS.items()) + "\n\n`python -m components STEP --help` shows a step's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=STEPS, metavar="STEP")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the step")
    chosen = parser.parse_args(argv)
    return guarded(lambda: run_step(chosen.step, chosen.options))


def run_step(name: str, argv: list[str]) -> None:
    """Run one step with its command-line options."""
    function = getattr(importlib.import_module(f"components.{name}"), name)
    hints = typing.get_type_hints(function)
    parser = argparse.ArgumentParser(prog=f"python -m components {name}", description=STEPS[name])
    signature = inspect.signature(function).parameters
    section = "params" in signature
    if section:
        parser.add_argument("--params", type=Path, default=Path("params.yaml"), help=HELP["params"])
    for key, parameter in signature.items():
        if key == "params":
            continue
        option, hint = f"--{key.replace('_', '-')}", hints[key]
        default = Path("data") / key if parameter.default is inspect.Parameter.empty and hint is Path else parameter.default
        if hint is bool:
            parser.add_argument(option, action="store_true", default=default, help=HELP.get(key))
        else:
            required = default is inspect.Parameter.empty
            text = HELP.get(key, "") + ("" if required else " (default: %(default)s)")
            parser.add_argument(option, type=hint, required=required, default=None if required else default, help=text)
    options = vars(parser.parse_args(argv))
    if section:
        from components.params import load_params

        params = load_params(options.pop("params"))
        options["params"] = getattr(params, name, None) or getattr(params, f"{name}_")
    function(**options)


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
            return _fail(2, f"the disk is full{f' ({error.filename})' if error.filename else ''}: free some space and run the step again, nothing half-written is kept")
        raise
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(code: int, message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
