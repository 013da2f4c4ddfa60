"""The command line of the pipelines: ``python -m pipelines compile | run | submit | schedule | schedules | unschedule |
status | pin``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from components.params import FILE
from segmodels.errors import InputError
from segmodels.exit_codes import guarded

if TYPE_CHECKING:
    from pipelines.profile import Image, Profile

PACKAGE = "pipeline.yaml"
"""Name of the compiled pipeline."""

PIPELINES = TRAINING, MONITORING = "training", "monitoring"
"""Values of ``--pipeline``."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    chosen = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    chosen.command(chosen)


# --- commands


def compile_(chosen: argparse.Namespace) -> None:
    _, values, profile, image = _settings(chosen)
    _compile(chosen.pipeline, values, profile, image, chosen.output)
    print(f"{chosen.output} written")


def run(chosen: argparse.Namespace) -> None:
    from pipelines.local import FOLDERS, run_locally

    chosen.allow_tag = True  # a local image has no registry digest; `make image` names it by its content
    _, values, profile, image = _settings(chosen)
    for name in FOLDERS:  # the containers see a folder at the same path
        if values.get(name) and Path(values[name]).is_dir():
            values[name] = str(Path(values[name]).absolute())
    folder = run_locally(_pipeline(chosen.pipeline)(values, profile, image), values, profile, image, chosen.root)
    registered = folder / "register" / "registration"
    print(
        f"outputs: {folder}"
        if registered.exists()
        else f"nothing was trained (the log above says why); outputs: {folder}"
    )


def submit(chosen: argparse.Namespace) -> None:
    from pipelines import cluster
    from pipelines.secrets import require_secrets

    default, values, profile, image = _settings(chosen)
    server = _connect(chosen)
    require_secrets(profile, server.namespace)
    with tempfile.TemporaryDirectory() as folder:
        package = _compile(chosen.pipeline, default, profile, image, Path(folder) / PACKAGE)
        subject = values["model"] if chosen.pipeline == TRAINING else chosen.pipeline
        name = f"{subject} {image.code_revision[:12]} {datetime.now(UTC):%Y-%m-%d %H:%M}"
        run_id = cluster.submit(server, package, name, values, profile.service_account)
    print(f"{run_id} submitted: {cluster.run_link(server, run_id)}")


def schedule(chosen: argparse.Namespace) -> None:
    from pipelines.cron import Cron
    from pipelines.schedule import Schedule, apply
    from pipelines.secrets import require_secrets

    if not chosen.name.strip():
        raise InputError("a schedule needs a name, got an empty one: for example nightly")
    seconds = _seconds(chosen.every) if chosen.every else None
    if chosen.cron:
        times = Cron.parse(chosen.cron).next_times(datetime.now(_zone(chosen.time_zone)), 3)
        if not times:
            raise InputError(f"cron expression {chosen.cron!r} never comes: correct the day or month")
        shown = ", ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in times)
        print(f"next times, if the time zone of this Kubeflow is {chosen.time_zone}: {shown}")
    default, values, profile, image = _settings(chosen)
    wanted = Schedule(
        chosen.name,
        chosen.cron,
        seconds,
        {name: value for name, value in values.items() if value != default[name]},
        profile.service_account,
    )
    server = _connect(chosen)
    require_secrets(profile, server.namespace)
    with tempfile.TemporaryDirectory() as folder:
        package = _compile(chosen.pipeline, default, profile, image, Path(folder) / PACKAGE)
        print("\n".join(apply(server, wanted, package, image.code_revision, dry_run=chosen.dry_run)))


def schedules(chosen: argparse.Namespace) -> None:
    from pipelines.schedule import describe, recurring_runs

    print("\n".join(describe(one) for one in recurring_runs(_connect(chosen))) or "no schedules")


def unschedule(chosen: argparse.Namespace) -> None:
    from pipelines.schedule import remove

    print("\n".join(remove(_connect(chosen), chosen.name)))


def status(chosen: argparse.Namespace) -> None:
    from pipelines.run_status import describe_run

    print(describe_run(_connect(chosen), chosen.run))


def pin(chosen: argparse.Namespace) -> None:
    from pipelines.images import image_of
    from pipelines.profile import load_profile, pin_image

    load_profile(chosen.profile)
    image = image_of(chosen.image)
    print(f"{pin_image(chosen.profile, image)}: {image.reference}, code {image.code_revision}")


# --- what they share


def _settings(chosen: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Profile, Image]:
    """Default of each pipeline parameter, its value after ``--set``, the profile and the image."""
    from components.params.reading import load_params
    from pipelines.parameters import default_values, given_values, refuse_credentials
    from pipelines.profile import load_profile, pinned_image, shaped

    profile = load_profile(chosen.profile)
    default = default_values(load_params(chosen.params), profile) | _more_parameters(chosen.pipeline)
    values = default | given_values(chosen.set, default | {"parts": profile.parts})
    refuse_credentials(values)
    profile = shaped(profile, values)
    return default, values, profile, pinned_image(chosen.profile, chosen.image, allow_tag=chosen.allow_tag)


def _pipeline(name: str) -> Callable[[Mapping[str, Any], Profile, Image], Any]:
    """The function that builds a pipeline of ``PIPELINES``."""
    if name == MONITORING:
        from pipelines.monitoring import monitoring_pipeline

        return monitoring_pipeline
    from pipelines.training import training_pipeline

    return training_pipeline


def _more_parameters(name: str) -> dict[str, Any]:
    """Parameters of a pipeline beside those of the training, with their defaults."""
    if name != MONITORING:
        return {}
    from pipelines.monitoring import PARAMETERS

    return PARAMETERS


def _compile(name: str, default: dict[str, Any], profile: Profile, image: Image, path: Path) -> Path:
    """Write the pipeline of that name with these defaults to ``path``."""
    from kfp.compiler import Compiler

    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output is {path}, expected a name that ends with .yaml")
    pipeline = _pipeline(name)(default, profile, image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Compiler().compile(pipeline, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): give another --output") from None
    return path


def _connect(chosen: argparse.Namespace) -> Any:
    from pipelines.cluster import connect

    return connect(chosen.host, chosen.namespace, chosen.token_file)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--time-zone is {name!r}, expected a name as UTC or Europe/Berlin") from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match or int(match[1]) == 0:
        raise InputError(f"--every is {text!r}, expected a whole number and a unit, as 30m, 6h or 1d")
    return int(match[1]) * UNITS[match[2]]


# --- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Run the pipelines on Kubeflow, or in containers on this machine.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=function)
        return one

    one = command("compile", compile_, "write the pipeline as YAML")
    _add_pipeline(one, profile="cpu")
    one.add_argument("--output", type=Path, default=Path(PACKAGE), help="file to write (default: %(default)s)")

    one = command("run", run, "run the pipeline in containers on this machine, with Docker")
    _add_pipeline(one, profile="local")
    one.add_argument(
        "--root",
        type=Path,
        default=Path("data/kfp"),
        help="folder for outputs, downloads and training states (default: %(default)s)",
    )

    one = command("submit", submit, "run the pipeline once on a cluster")
    _add_pipeline(one, profile="cpu")
    _add_server(one)

    one = command("schedule", schedule, "run the pipeline regularly on a cluster; replaces the schedule of that name")
    one.add_argument("name")
    when = one.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", help="six fields, seconds first: '0 0 3 * * *' is every night at three")
    when.add_argument("--every", metavar="TIME", help="time from one start to the next, as 30m, 6h or 1d")
    one.add_argument(
        "--time-zone",
        default="UTC",
        help="time zone that this Kubeflow reads --cron in, for the next times that this command prints;"
        " cronScheduleTimezone in its pipeline-install-config sets it (default: %(default)s)",
    )
    one.add_argument("--dry-run", action="store_true", help="only print the differences from the existing schedule")
    _add_pipeline(one, profile="cpu")
    _add_server(one)

    _add_server(command("schedules", schedules, "list the schedules"))
    one = command("unschedule", unschedule, "delete a schedule; its runs in progress continue")
    one.add_argument("name")
    _add_server(one)
    one = command("status", status, "show the state of a run and its steps, and why a step failed")
    one.add_argument("run", help="the run's id")
    _add_server(one)
    one = command(
        "pin",
        pin,
        "pin a local image for a profile, by its digest if a registry has it",
    )
    one.add_argument("image")
    one.add_argument("--profile", required=True)
    return parser


def _add_pipeline(parser: argparse.ArgumentParser, *, profile: str) -> None:
    parser.add_argument(
        "--pipeline",
        choices=PIPELINES,
        default=TRAINING,
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
