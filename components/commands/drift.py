"""Find out whether the images that a model predicts still look like those that it was trained on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.artifacts import RUN
from components.commands.option_ranges import check_options
from components.running.atomic import written_file
from segmodels.errors import InputError
from segmodels.exit_codes import DRIFTED
from segmodels.files import LOG_SUFFIX, read_json_lines

if TYPE_CHECKING:
    from components.tracking.run import Run
    from segmodels.inference.bundle import Bundle
    from segmodels.inference.reference import Reference
    from segmodels.metrics.drift import Shift

RECORD = {"time": str, "name": str, "version": str, "statistics": {str: float}}
"""Shape of a line of the log."""

PAGES = "drift"
"""Folder among a run's artifacts for the pages of all comparisons."""

SHOWN = 3
"""How many statistics the sentence names."""

CENTURY = 876_000  # hours


def drift(
    model: str,
    log: Path,
    psi: float = 0.2,
    significance: float = 0.01,
    least: int = 50,
    hours: float | None = None,
    shards: Path | None = None,
    html: Path | None = None,
    drifted: Path | None = None,
) -> None:
    """Compare the images that a server logged with those that its model was trained on, one statistic at a time:
    brightness, confidence, the share of each class, the principal components of the deepest features.

    A statistic has drifted if its change is large (population stability index) and unlikely to be chance (two-sample
    Kolmogorov-Smirnov test). One sentence says what has drifted, and the exit code is then 3. The run of the version's
    training gets the metrics ``drift/...``, one point for each comparison, and a page.

    Args:
        model: version to check: models:/NAME@champion, models:/NAME/VERSION or the folder of a trained model.
        log: folder that `serve --log` writes.
        psi: population stability index from which a change is large. 0.2 lies between 0.1 (some change) and 0.25 (a
            major one) of Siddiqi: Credit Risk Scorecards, 2006.
        significance: accepted probability that the Kolmogorov-Smirnov test finds a change by chance in any statistic;
            each statistic gets an equal part of it (Bonferroni).
        least: smallest number of images in the log; with fewer, nothing counts as drifted.
        hours: age of the oldest record that counts. None: all of the log.
        shards: folder that preprocess wrote, to compute reference statistics from if the model has none, as models of
            earlier versions.
        html: file for a page of all statistics.
        drifted: file for the answer, ``true`` or ``false``, which a pipeline reads; the exit code is then 0 in both
            cases.

    Raises:
        InputError: no such version, no reference statistics, no log, or a damaged one.
        TransientError: MLflow does not answer.
        SystemExit: with 3, if anything has drifted.
    """
    check_options(
        **ranges(psi, hours),
        significance=(significance, 0 < significance < 1, "more than 0 and less than 1"),
        least=(least, least >= 2, "at least 2"),
    )
    from components.tracking.model_registry import bundle_folder, check_model, pinned
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.reference import as_logged
    from segmodels.metrics.drift import shift

    check_model(model)
    model = pinned(model)  # an alias may move during the comparison
    name, version, run = _served(model)
    title = f"{name} version {version}"
    with bundle_folder(model) as folder:
        reference = _reference(load_bundle(folder), title, shards)
    records = _records(log, name, version, hours)
    columns = zip(reference.names, reference.values.T.tolist(), strict=True)
    before = {key: [as_logged(value) for value in values] for key, values in columns}
    now = {key: [record["statistics"].get(key) for record in records] for key in before}
    now = {key: values for key, values in now.items() if None not in values}
    if records and not now:
        raise InputError(
            f"{log} has {len(records)} images of {title}, but no statistic that all of them and its training have:"
            " another version of segmodels wrote some of them; remove those files, or look at less with --hours"
        )
    shifts = {key: shift(before[key], values) for key, values in now.items()} if len(records) >= least else {}
    found = {key: one for key, one in shifts.items() if one.psi >= psi and one.p_value < significance / len(shifts)}
    sentence = _sentence(title, len(records), least, shifts, found)
    print(sentence)
    with TemporaryDirectory() as temporary:
        page = Path(temporary) / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.html"
        if html or (run and shifts):
            from components.commands.drift_page import write_page

            limits = {"psi": psi, "significance": significance}
            write_page(page, title, sentence, records, before, now if shifts else {}, shifts, found, limits)
        if run and shifts:
            _track(run, sentence, len(records), shifts, found, page)
        if html:
            with written_file(html) as partial:
                shutil.copyfile(page, partial)
            print(f"page: {html}")
    if drifted is not None:
        with written_file(drifted) as partial:
            partial.write_text("true" if found else "false", encoding="utf-8")
    elif found:
        raise SystemExit(DRIFTED)


def ranges(psi: float, hours: float | None) -> dict[str, tuple[Any, bool, str]]:
    """Of the options that a pipeline sets, as ``check_options`` takes them."""
    return {
        "psi": (psi, psi > 0, "more than 0"),
        "hours": (hours, hours is None or 0 < hours <= CENTURY, f"more than 0 and at most {CENTURY:,} (a century)"),
    }


def _served(model: str) -> tuple[str, str, Run | None]:
    """Name and version of the model in the server's log, and the run of its training: None for a folder without one,
    and where MLflow does not have it any more.
    """
    from components.tracking.client import mlflow_client, registry_uri
    from components.tracking.mlflow_errors import answers
    from components.tracking.model_registry import is_registered, version_now
    from components.tracking.run import Run
    from components.tracking.runs import has_run, open_run
    from segmodels.inference.bundle import bundle_digest

    if is_registered(model):
        name, number = version_now(model)
        client = mlflow_client()
        with answers(f"model {name}/{number}", registry_uri(client)):
            run_id = client.get_model_version(name, number).run_id
            there = has_run(client, run_id)
        if not there:
            print(f"MLflow does not have run {run_id} of {name} version {number} any more: nothing is tracked")
        return name, number, Run(client, run_id) if there else None
    folder = Path(model)
    digest = bundle_digest(folder)
    return folder.resolve().name, digest[:12], open_run(folder) if RUN.path(folder).exists() else None


def _reference(bundle: Bundle, title: str, shards: Path | None) -> Reference:
    if bundle.reference is not None:
        return bundle.reference
    if shards is None:
        raise InputError(
            f"{title} was trained by an earlier version and has no reference statistics: give the shards that it was"
            " trained on with --shards, or train and register it again"
        )
    from components.running.progress_bar import track
    from segmodels.data.shards import ShardReader
    from segmodels.inference.observation import make_reference
    from segmodels.inference.predictor import Predictor, choose_device

    return make_reference(
        Predictor(bundle, choose_device()),
        ShardReader(shards, "train"),
        lambda batches: track(batches, "observing, batches", len(batches)),
    )


def _records(log: Path, name: str, version: str, hours: float | None) -> list[dict[str, Any]]:
    """The records of a version, of the last ``hours``."""
    if not log.is_dir():
        raise InputError(f"{log} is not a folder, expected the log of a server: start it with `serve --log {log}`")
    everything = [one for path in sorted(log.glob(f"*{LOG_SUFFIX}")) for one in read_json_lines(path, RECORD)]
    own = [one for one in everything if (one["name"], one["version"]) == (name, version)]
    if everything and not own:  # another version has become champion, and no request has reached it yet
        others = sorted({f"{one['name']} version {one['version']}" for one in everything})
        print(f"{log} holds no image of {name} version {version}, only of {', '.join(others[:5])}")
    since = (datetime.now(UTC) - timedelta(hours=hours)).isoformat() if hours is not None else ""
    return [one for one in own if one["time"] >= since]


def _sentence(title: str, images: int, least: int, shifts: Mapping[str, Shift], found: Mapping[str, Shift]) -> str:
    if not shifts:
        return f"{title}: {images} images in the log are too few to tell, expected at least {least}"
    if not found:
        return f"{title} has not drifted: none of {len(shifts)} statistics of {images} images differs from the training"
    most = sorted(found, key=lambda key: -found[key].psi)
    named = [
        f"{described(key)} from {number(found[key].before)} to {number(found[key].now)} (PSI {found[key].psi:.2f})"
        for key in most[:SHOWN]
    ]
    more = f" and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
    return f"{title} has drifted, over {images} images: {', '.join(named)}{more}"


def described(statistic: str) -> str:
    """A statistic in words: ``share of pond``, ``component 3 of the features``."""
    kind, _, rest = statistic.partition("/")
    return {"share": f"share of {rest}", "embedding": f"component {rest} of the features"}.get(kind, statistic)


def number(value: float) -> str:
    """Three digits; rounding errors of a mean that is 0 show as 0."""
    return f"{round(value, 6) + 0:.3g}"


def _track(
    run: Run, sentence: str, images: int, shifts: Mapping[str, Shift], found: Mapping[str, Shift], page: Path
) -> None:
    """One more point of every curve ``drift/...``, and the page."""
    from components.tracking.journal import entry_now

    metrics: dict[str, float] = {"drift/images": images, "drift/drifted": len(found)}
    for key, one in shifts.items():
        name = re.sub(r"[^\w\-. /]", "_", key)  # the characters that MLflow takes
        metrics |= {f"drift/psi/{name}": one.psi, f"drift/ks/{name}": one.ks}
    step = max(run.steps("drift/images"), default=-1) + 1
    run.send([entry_now(metrics, step)])
    run.log_artifact(page, PAGES)
    run.describe(f"drift: {sentence}")
