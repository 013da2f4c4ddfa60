"""The commands of ``python -m pipelines``, each on the options that were parsed for it."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from segmodels.errors import InputError

if TYPE_CHECKING:
    from pipelines.images import Image
    from pipelines.profile import Profile

PACKAGE = "pipeline.yaml"
"""Name of the compiled pipeline."""

PIPELINES = TRAINING, MONITORING = "training", "monitoring"
"""Values of ``--pipeline``."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_PERIOD = 3660 * UNITS["d"]
"""Seconds from one start of a schedule to the next, ten years."""


def compile_(chosen: argparse.Namespace) -> None:
    """Write the pipeline as YAML."""
    _, values, profile, image = _settings_of_cluster(chosen)
    _compile(chosen.pipeline, values, profile, image, chosen.output)
    print(f"{chosen.output} written")


def run(chosen: argparse.Namespace) -> None:
    """Run the pipeline in containers on this machine."""
    from pipelines.local import FOLDERS, run_locally

    chosen.allow_tag = True  # a local image has no registry digest; `make image` names it by its content
    _, values, profile, image = _settings(chosen)
    if chosen.pipeline == MONITORING and not Path(values["served_log"]).is_dir():
        raise InputError(
            f"served_log is {values['served_log']!r}, expected a folder of this machine, which `serve --log` writes:"
            " give --set served_log=FOLDER"
        )
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
    """Run the pipeline once on a cluster."""
    from pipelines import cluster
    from pipelines.cluster_objects import require_objects

    default, values, profile, image = _settings_of_cluster(chosen)
    server = _connect(chosen)
    require_objects(profile, server.namespace)
    with tempfile.TemporaryDirectory() as folder:
        package = _compile(chosen.pipeline, default, profile, image, Path(folder) / PACKAGE)
        subject = values["model"] if chosen.pipeline == TRAINING else chosen.pipeline
        name = f"{subject} {image.code_revision[:12]} {datetime.now(UTC):%Y-%m-%d %H:%M}"
        run_id = cluster.submit(server, package, name, values, profile.service_account)
    print(f"{run_id} submitted: {cluster.run_link(server, run_id)}")


def schedule(chosen: argparse.Namespace) -> None:
    """Run the pipeline regularly on a cluster, in place of the schedule of that name."""
    from pipelines.cluster_objects import require_objects
    from pipelines.cron import Cron
    from pipelines.schedule import Schedule, apply

    if not chosen.name.strip():
        raise InputError("a schedule needs a name, got an empty one: for example nightly")
    # toSWFCRDResourceGeneratedName in backend/src/apiserver/template/template.go
    if (kept := re.sub("[^a-z0-9-]", "", chosen.name.lower())).startswith("-"):
        raise InputError(
            f"schedule name {chosen.name!r}: Kubeflow makes a Kubernetes name of its letters a-z, digits and hyphens,"
            f" {kept!r}, which must not begin with a hyphen: choose a name without that hyphen"
        )
    seconds = None if chosen.every is None else _seconds(chosen.every)
    if chosen.cron is not None:
        times = Cron.parse(chosen.cron).next_times(datetime.now(_zone(chosen.time_zone)), 3)
        if not times:
            raise InputError(f"cron expression {chosen.cron!r} matches no date: correct the day or month")
        shown = ", ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in times)
        print(f"next times, if the time zone of this Kubeflow is {chosen.time_zone}: {shown}")
    default, values, profile, image = _settings_of_cluster(chosen)
    wanted = Schedule(
        chosen.name,
        chosen.cron,
        seconds,
        {name: value for name, value in values.items() if value != default[name]},
        profile.service_account,
    )
    server = _connect(chosen)
    require_objects(profile, server.namespace)
    with tempfile.TemporaryDirectory() as folder:
        package = _compile(chosen.pipeline, default, profile, image, Path(folder) / PACKAGE)
        print("\n".join(apply(server, wanted, package, image.code_revision, dry_run=chosen.dry_run)))


def schedules(chosen: argparse.Namespace) -> None:
    """List the schedules."""
    from pipelines.schedule import describe, recurring_runs

    print("\n".join(describe(one) for one in recurring_runs(_connect(chosen))) or "no schedules")


def unschedule(chosen: argparse.Namespace) -> None:
    """Delete a schedule."""
    from pipelines.schedule import remove

    print("\n".join(remove(_connect(chosen), chosen.name)))


def status(chosen: argparse.Namespace) -> None:
    """Show the state of a run and its steps."""
    from pipelines.run_status import describe_run

    print(describe_run(_connect(chosen), chosen.run))


def pin(chosen: argparse.Namespace) -> None:
    """Pin a local image for a profile."""
    from pipelines.images import image_of, pin_image
    from pipelines.profile import load_profile

    load_profile(chosen.profile)
    image = image_of(chosen.image)
    print(f"{pin_image(chosen.profile, image)}: {image.reference}, code {image.code_revision}")


# --- what they share


def _settings(chosen: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Profile, Image]:
    """Default of each pipeline parameter, its value after ``--set``, the profile and the image."""
    from components.params.reading import load_params
    from pipelines.images import pinned_image
    from pipelines.parameters import default_values, given_values, refuse_credentials
    from pipelines.profile import load_profile, shape, shaped

    profile = load_profile(chosen.profile)
    default = default_values(load_params(chosen.params)) | _more_parameters(chosen.pipeline)
    everything = default | shape(profile)
    values = everything | given_values(chosen.set, everything)
    if chosen.pipeline == MONITORING:
        from pipelines.monitoring import check_parameters

        check_parameters(values)
    refuse_credentials(values)
    profile = shaped(profile, values)
    return default, values, profile, pinned_image(chosen.profile, chosen.image, allow_tag=chosen.allow_tag)


def _settings_of_cluster(chosen: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Profile, Image]:
    """``_settings``, with a warning where the pods would not find the server's log."""
    settings = _, values, profile, _ = _settings(chosen)
    if chosen.pipeline == MONITORING:
        from pipelines.monitoring import log_without_volume

        if warning := log_without_volume(values["served_log"], profile):
            print(warning, file=sys.stderr)
    return settings


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
        raise InputError(f"--time-zone is {name!r}, expected a name such as UTC or Europe/Berlin") from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_PERIOD:
        raise InputError(
            f"--every is {text!r}, expected a whole number and a unit, such as 30m, 6h or 1d, up to"
            f" {LONGEST_PERIOD // UNITS['d']}d"
        )
    return seconds
