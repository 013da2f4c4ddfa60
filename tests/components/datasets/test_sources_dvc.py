"""A real DVC repository as a source: revisions, digests, remotes, and what goes wrong with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from s3server import s3_server
from small_dataset import write, write_small_dataset

from components.datasets import download_cache, dvc_repository
from components.datasets.dataset_files import open_dataset
from components.datasets.download_cache import DownloadCache
from components.params.schema import IngestParams
from components.running.digests import directory_digest, folder_md5s
from components.steps.ingest import ingest
from segmodels.addresses import without_credentials
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError, TransientError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make repositories")


class Repository(NamedTuple):
    root: Path
    digests: dict[str, str]  # tag -> what DVC wrote into data.dvc
    commits: dict[str, str]  # tag -> commit


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def new_repository(root: Path, remote: str) -> Callable[[str], tuple[str, str]]:
    """Git and DVC in ``root``; the returned function adds data/, commits and tags, and gives digest and commit."""
    from dvc.repo import Repo

    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    repo = Repo.init(str(root))
    with repo.config.edit() as config:
        config["core"]["remote"] = "store"
        config["remote"]["store"] = {"url": remote}
    repo.close()

    def commit(tag: str) -> tuple[str, str]:
        with Repo(str(root)) as repo:
            (stage,) = repo.add(str(root / "data"))
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", tag)
        git(root, "tag", tag)
        return stage.outs[0].hash_info.value, git(root, "rev-parse", "HEAD")

    return commit


def push(root: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        repo.push()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Tags v1 and v2 (one image more) are pushed to a folder, unpushed is not; the cache is empty, as on another
    machine.
    """
    folder = tmp_path_factory.mktemp("dvc")
    root = folder / "repo"
    write_small_dataset(root / "data", {"train": 6, "val": 2, "test": 2})
    commit = new_repository(root, str(folder / "remote"))
    tags = {"v1": commit("v1")}
    push(root)
    write(root / "data" / "images" / "train" / "new.png", Image.fromarray(np.full((24, 32, 3), 7, np.uint8)))
    write(root / "data" / "masks" / "train" / "new.png", Image.fromarray(np.zeros((24, 32), np.uint8)))
    (root / "small").mkdir()
    (root / "small" / "notes.txt").write_text("tracked by git")
    tags["v2"] = commit("v2")
    push(root)
    git(root, "checkout", "-q", "-b", "unpushed")
    (root / "data" / "classes.txt").write_text("background\nthing\n")
    tags["v3"] = commit("v3")
    git(root, "checkout", "-q", "main")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data")
    return Repository(root, *({tag: facts[place] for tag, facts in tags.items()} for place in (0, 1)))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No git program, no waiting between attempts, and nothing left in the temporary folder."""
    monkeypatch.setattr(download_cache, "SECONDS_BEFORE_RETRY", 0)
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/.git"], ids=["folder", "file URL", "bare"])
def test_a_tag_is_ingested_with_dvcs_own_digest_and_the_commit(
    repository: Repository, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = IngestParams(source="dvc", repo=form.format(repository.root), rev="v1", path="data")
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.digest == repository.digests["v1"]
    assert dataset.revision == repository.commits["v1"]
    assert dataset.source == {"kind": "dvc", "repo": params.repo, "rev": "v1", "path": "data"}
    assert [len(dataset.samples(split)) for split in ("train", "val", "test")] == [6, 2, 2]
    assert directory_digest(folder_md5s(dataset.layout.root)) == dataset.digest
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert directory_digest(folder_md5s(open_dataset(tmp_path / "dataset").layout.root)) == dataset.digest


def test_branch_commit_and_default_branch_lead_to_the_same_data(repository: Repository, tmp_path: Path) -> None:
    kept = DownloadCache(tmp_path)
    results = {
        rev: dvc_repository.download(str(repository.root), rev, "data/", kept)
        for rev in ("main", repository.commits["v2"], "v2", None)
    }
    assert {(root.name, commit) for root, _, commit in results.values()} == {
        (repository.digests["v2"], repository.commits["v2"])
    }


def test_a_new_revision_transfers_only_the_new_files(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.api import DVCFileSystem

    transferred = []
    original = DVCFileSystem.get_file

    def counting(self: DVCFileSystem, source: str, target: str) -> None:
        transferred.append(source)
        original(self, source, target)

    monkeypatch.setattr(DVCFileSystem, "get_file", counting)
    old, _, _ = dvc_repository.download(str(repository.root), "v1", "data", DownloadCache(tmp_path))
    assert len(transferred) == len(set(folder_md5s(old).values()))
    transferred.clear()
    new, _, _ = dvc_repository.download(str(repository.root), "v2", "data", DownloadCache(tmp_path))
    assert sorted(transferred) == ["data/images/train/new.png", "data/masks/train/new.png"]
    assert folder_md5s(new).keys() - folder_md5s(old).keys() == {"images/train/new.png", "masks/train/new.png"}


def test_a_transfer_that_brings_other_bytes_is_tried_again_and_never_kept(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.api import DVCFileSystem

    original = DVCFileSystem.get_file
    attempts = []

    def cut_off(self: DVCFileSystem, source: str, target: str) -> None:
        original(self, source, target)
        if source.endswith("classes.txt"):
            attempts.append(source)
            Path(target).write_bytes(Path(target).read_bytes()[:-1])

    monkeypatch.setattr(DVCFileSystem, "get_file", cut_off)
    with pytest.raises(
        TransientError,
        match=r"^the bytes received of classes\.txt of data in DVC repository .* do not have its md5 [0-9a-f]{32}$",
    ):
        dvc_repository.download(str(repository.root), "v1", "data", DownloadCache(tmp_path))
    assert len(attempts) == download_cache.ATTEMPTS
    monkeypatch.undo()
    root, md5s, _ = dvc_repository.download(str(repository.root), "v1", "data", DownloadCache(tmp_path))
    assert folder_md5s(root) == md5s


def test_part_of_what_is_tracked_and_what_git_tracks_can_be_a_dataset(repository: Repository, tmp_path: Path) -> None:
    root, md5s, _ = dvc_repository.download(str(repository.root), "v2", "data/masks", DownloadCache(tmp_path))
    assert set(md5s) == {
        f"{split}/{number:03d}.png"
        for split, count in (("train", 6), ("val", 2), ("test", 2))
        for number in range(count)
    } | {"train/new.png"}
    assert root.name == directory_digest(folder_md5s(root))
    root, _, _ = dvc_repository.download(str(repository.root), "v2", "small", DownloadCache(tmp_path))
    assert (root / "notes.txt").read_text() == "tracked by git"


def test_data_that_dvc_2_tracked_is_checked_with_its_hash(repository: Repository, tmp_path: Path) -> None:
    """DVC 2 hashed text files with their line ends as on Unix; its .dvc files name no hash and its cache has no
    files/md5.
    """
    from dvc_data.hashfile.hash import file_md5

    root, remote = tmp_path / "old", tmp_path / "remote"
    text = tmp_path / "classes.txt"
    text.write_bytes(b"background\r\nobject\r\n")
    md5 = file_md5(str(text), name="md5-dos2unix")
    listing = f'[{{"md5": "{md5}", "relpath": "classes.txt"}}]'.encode()
    (tmp_path / "listing").write_bytes(listing)
    digest = file_md5(str(tmp_path / "listing"))
    for name, data in ((md5, text.read_bytes()), (f"{digest}.dir", listing)):
        (remote / name[:2]).mkdir(parents=True, exist_ok=True)
        (remote / name[:2] / name[2:]).write_bytes(data)
    shutil.copytree(repository.root / ".dvc", root / ".dvc")
    (root / ".dvc" / "config").write_text(f"[core]\nremote = store\n['remote \"store\"']\nurl = {remote}\n")
    (root / "data.dvc").write_text(f"outs:\n- md5: {digest}.dir\n  path: data\n")
    os.environ["PATH"] = os.defpath
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "old")
    folder, md5s, _ = dvc_repository.download(str(root), None, "data", DownloadCache(tmp_path / "cache"))
    assert (folder / "classes.txt").read_bytes() == text.read_bytes()
    assert md5s == {"classes.txt": file_md5(str(text))}


def test_no_clone_is_left_in_the_temporary_folder(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    dvc_repository.download(f"file://{repository.root}", "v1", "data", DownloadCache(tmp_path / "cache"))
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"rev": "v9"},
            (
                r"^data in DVC repository \S+ at revision 'v9' is not there, unknown Git revision 'v9': check"
                r" ingest\.rev, expected a branch, a tag or a commit"
            ),
        ),
        (
            {"path": "dta"},
            r"^dta in DVC repository \S+ at revision 'v1' is not there: check ingest\.path and ingest\.rev$",
        ),
        (
            {"path": "data/classes.txt"},
            (
                r"^data/classes\.txt in DVC repository \S+ at revision 'v1' is a file, expected the dataset's folder:"
                r" set ingest\.path$"
            ),
        ),
        (
            {"rev": "v3"},
            (
                r"^data in DVC repository \S+ at revision 'v3' is tracked, but its data is not in the repository's DVC"
                r" remote \(.*\): run `dvc push` where"
            ),
        ),
        (
            {"repo": "{}/nothing"},
            (
                r"^data in DVC repository \S+/nothing at revision 'v1' cannot be read, no git repository was found at"
                r" .*: check ingest\.repo, its DVC remote"
            ),
        ),
        (
            {"repo": "{}/.."},
            (
                r"^data in DVC repository \S+ at revision 'v1' cannot be read, no git repository was found at .*: check"
                r" ingest\.repo"
            ),
        ),
        (
            {"repo": "https://no-such-host.invalid/x.git"},
            r"cannot be read, \[Errno -2\] Name or service not known: check ingest\.repo",
        ),
    ],
    ids=["revision", "path", "file", "not pushed", "repository", "no repository", "host"],
)
def test_what_is_not_there_is_one_sentence(
    repository: Repository, tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    facts = {"repo": "{}", "rev": "v1", "path": "data"} | change
    params = IngestParams(
        source="dvc", repo=facts["repo"].format(repository.root), rev=facts["rev"], path=facts["path"]
    )
    with pytest.raises(InputError, match=sentence):
        ingest(params, tmp_path / "dataset", tmp_path / "cache")
    assert not (tmp_path / "dataset").exists()


def test_a_file_that_is_missing_in_the_remote_is_named(repository: Repository, tmp_path: Path) -> None:
    root = tmp_path / "repo"
    shutil.copytree(repository.root, root)
    remote = tmp_path / "remote"
    shutil.copytree(repository.root.parent / "remote", remote)
    config = root / ".dvc" / "config"
    config.write_text(config.read_text().replace(str(repository.root.parent / "remote"), str(remote)))
    md5 = dvc_repository.download(str(repository.root), "v1", "data", DownloadCache(tmp_path / "other"))[1][
        "images/val/001.png"
    ]
    (remote / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    with pytest.raises(
        InputError,
        match=(
            r"^images/val/001\.png of data in DVC repository .* is tracked, but its data is not in the repository's DVC"
            r" remote"
        ),
    ):
        dvc_repository.download(str(root), "v1", "data", DownloadCache(tmp_path / "cache"))


def test_a_git_server_that_refuses_connections_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(
        TransientError,
        match=(
            r"^data in DVC repository https://127\.0\.0\.1:9/x\.git at its default branch cannot be read,"
            r" .*[cC]onnection refused"
        ),
    ):
        dvc_repository.download("https://name:token@127.0.0.1:9/x.git", None, "data", DownloadCache(tmp_path))


def test_credentials_in_the_url_are_not_recorded() -> None:
    assert without_credentials("https://user:token@host.org:8443/a/b.git") == "https://host.org:8443/a/b.git"
    assert without_credentials("git@host.org:a/b.git") == "git@host.org:a/b.git"
    assert without_credentials("../data@home/repo") == "../data@home/repo"


@pytest.mark.acceptance
def test_a_remote_in_s3_takes_endpoint_and_credentials_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    with s3_server(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="versions")
        root = tmp_path / "repo"
        write_small_dataset(root / "data", {"train": 6, "val": 2, "test": 2})
        monkeypatch.setenv("PATH", os.defpath)
        digest, commit = new_repository(root, "s3://versions/store")("v1")
        push(root)
        shutil.rmtree(root / ".dvc" / "cache")
        monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))

        ingest(
            IngestParams(source="dvc", repo=str(root), rev="v1", path="data"), tmp_path / "dataset", tmp_path / "cache"
        )
        dataset = Dataset.open(tmp_path / "dataset")
        assert (dataset.digest, dataset.revision) == (digest, commit)

        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(
            InputError, match=r"check the credentials of the repository's DVC remote in the environment \(AWS_\*\)$"
        ):
            dvc_repository.download(str(root), "v1", "data", DownloadCache(tmp_path / "other"))
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(
            InputError, match=r"check the credentials of the repository's DVC remote in the environment \(AWS_\*\)$"
        ):
            dvc_repository.download(str(root), "v1", "data", DownloadCache(tmp_path / "other"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransientError, match=r"of data in DVC repository \S+ at revision 'v1' cannot be read"):
        dvc_repository.download(str(root), "v1", "data", DownloadCache(tmp_path / "other"))
