"""The command line of the pipelines: ``python -m pipelines compile | run | submit | schedule | schedules | unschedule |
status | pin``.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.params import FILE
from pipelines import commands
from segmodels.exit_codes import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of the process, and return its exit code."""
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    chosen = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    chosen.command(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Run the pipelines on Kubeflow, or in containers on this machine.",
    )
    choices = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        one = choices.add_parser(name, help=text, description=text)
        one.set_defaults(command=function)
        return one

    one = command("compile", commands.compile_, "write the pipeline as YAML")
    _add_pipeline(one, profile="cpu")
    one.add_argument("--output", type=Path, default=Path(commands.PACKAGE), help="file to write (default: %(default)s)")

    one = command("run", commands.run, "run the pipeline in containers on this machine, with Docker")
    _add_pipeline(one, profile="local")
    one.add_argument(
        "--root",
        type=Path,
        default=Path("data/kfp"),
        help="folder for outputs, downloads and training states (default: %(default)s)",
    )

    one = command("submit", commands.submit, "run the pipeline once on a cluster")
    _add_pipeline(one, profile="cpu")
    _add_server(one)

    one = command(
        "schedule", commands.schedule, "run the pipeline regularly on a cluster; replaces the schedule of that name"
    )
    one.add_argument("name", help="the schedule's name")
    when = one.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", help="six fields, seconds first: '0 0 3 * * *' is every night at three")
    when.add_argument("--every", metavar="TIME", help="time from one start to the next, such as 30m, 6h or 1d")
    one.add_argument(
        "--time-zone",
        default="UTC",
        help="time zone that this Kubeflow reads --cron in, for the next times that this command prints;"
        " cronScheduleTimezone in its pipeline-install-config sets it (default: %(default)s)",
    )
    one.add_argument("--dry-run", action="store_true", help="only print the differences from the existing schedule")
    _add_pipeline(one, profile="cpu")
    _add_server(one)

    _add_server(command("schedules", commands.schedules, "list the schedules"))
    one = command("unschedule", commands.unschedule, "delete a schedule; its runs in progress continue")
    one.add_argument("name", help="the schedule's name")
    _add_server(one)
    one = command("status", commands.status, "show the state of a run and its steps, and why a step failed")
    one.add_argument("run", help="the run's id")
    _add_server(one)
    one = command(
        "pin",
        commands.pin,
        "pin a local image for a profile, by its digest if a registry has it",
    )
    one.add_argument("image", help="its name and tag, as `docker image ls` shows them")
    one.add_argument("--profile", required=True, help="a name in infra/profiles")
    return parser


def _add_pipeline(parser: argparse.ArgumentParser, *, profile: str) -> None:
    parser.add_argument(
        "--pipeline",
        choices=commands.PIPELINES,
        default=commands.TRAINING,
        help="training, or monitoring, which trains if the served images have drifted (default: %(default)s)",
    )
    parser.add_argument(
        "--profile", default=profile, help="environment: a name in infra/profiles, or a file (default: %(default)s)"
    )
    parser.add_argument("--params", type=Path, default=FILE, help="defaults of the parameters (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a pipeline parameter, for example epochs=40; may be repeated",
    )
    parser.add_argument("--image", help="image to use instead of the one pinned for the profile")
    parser.add_argument(
        "--allow-tag", action="store_true", help="accept an image that is named by a tag, not by its digest"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address of Kubeflow Pipelines (default: KF_PIPELINES_ENDPOINT)")
    parser.add_argument(
        "--namespace", help="the user's namespace on multi-user Kubeflow (default: KF_PIPELINES_NAMESPACE)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="file with a bearer token (default: KF_PIPELINES_TOKEN, KF_PIPELINES_SA_TOKEN_PATH, KF_PIPELINES_COOKIE)",
    )


if __name__ == "__main__":
    sys.exit(main())
