"""The files of an ingested dataset are found again in a fresh clone, an experiment's copy and a configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_dataset import write_small_dataset

from components.datasets.dataset_files import open_dataset
from components.datasets.sources import repo_of
from components.params.schema import IngestParams
from components.running.digests import directory_digest, folder_md5s
from components.steps.ingest import ingest
from segmodels.data import digits
from segmodels.data.digits import DigitsSettings
from segmodels.errors import InputError

DATASET, CACHE = Path("data/dataset"), Path("data/cache")
SMALL = IngestParams(digits=DigitsSettings(train=3, val=1, test=1, size=32))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a project of DVC."""
    project = tmp_path / "project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "config").touch()
    monkeypatch.chdir(project)
    return project


def copied(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that holds the manifest and nothing else, as one that DVC has restored from its cache."""
    shutil.copytree(DATASET, place / DATASET)
    monkeypatch.chdir(place)


def test_a_path_may_begin_in_the_home_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project.parent))
    root = write_small_dataset(project.parent / "set")
    ingest(IngestParams(source="folder", path="~/set"), DATASET, CACHE)
    assert open_dataset(DATASET).layout.root == root
    (project.parent / "repo").mkdir()
    assert repo_of(IngestParams(source="dvc", path="set", repo="~/repo")) == str(project.parent / "repo")


def complete(digest: str) -> bool:
    opened = open_dataset(DATASET)
    return digest == opened.digest == directory_digest(folder_md5s(opened.layout.root))


@pytest.mark.usefixtures("project")
def test_a_removed_cache_is_filled_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(SMALL, DATASET, CACHE)
    before = open_dataset(DATASET)
    shutil.rmtree(CACHE)
    after = open_dataset(DATASET)
    assert after.samples() == before.samples()
    assert (after.layout.root.resolve(), after.digest) == (before.layout.root.resolve(), before.digest)
    monkeypatch.setattr(digits, "write_digits", None)
    assert complete(before.digest)


@pytest.mark.parametrize("place", [".dvc/tmp/exps/tmpa1b2", "configurations/other"])
def test_a_copy_of_the_project_reads_the_projects_own_files(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write_small_dataset(project / "my set")
    for number, params in enumerate([SMALL, IngestParams(source="folder", path="my set")]):
        monkeypatch.chdir(project)
        ingest(params, DATASET, CACHE)
        digest = open_dataset(DATASET).digest
        with monkeypatch.context() as patch:
            patch.setattr(digits, "write_digits", None)
            copied(project / place / str(number), monkeypatch)
            assert complete(digest)
            assert not CACHE.exists()


def test_files_that_have_changed_since_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_small_dataset(project / "set")
    ingest(IngestParams(source="folder", path="set"), DATASET, CACHE)
    copied(project / "configurations" / "other", monkeypatch)
    (root / "groups.txt").touch()
    with pytest.raises(InputError, match=r"set have changed since they were ingested \(digest \w+\.dir, expected"):
        open_dataset(DATASET)
    shutil.rmtree(root)
    with pytest.raises(InputError, match=r"^dataset folder \S+/set is not there: check ingest\.path$"):
        open_dataset(DATASET)


def test_a_repository_beside_the_project_is_found_from_everywhere_in_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.parent / "datasets").mkdir()
    beside = IngestParams(source="dvc", repo="../datasets", path="roads")
    for place in (project, project / "configurations" / "other"):
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(place)
        assert Path(repo_of(beside)).samefile(project.parent / "datasets")
    url = "ssh://git@git.example/datasets"
    assert repo_of(IngestParams(source="dvc", repo=url, path="roads")) == url


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("damage", [{"source": {"kind": "digits", "colour": 1}}, {"source": 3}, {"root": None}])
def test_a_damaged_record_is_named(damage: dict[str, object]) -> None:
    ingest(SMALL, DATASET, CACHE)
    shutil.rmtree(CACHE)
    file = DATASET / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(InputError, match=r"data/dataset/dataset\.json is damaged .*: run the step ingest again"):
        open_dataset(DATASET)
