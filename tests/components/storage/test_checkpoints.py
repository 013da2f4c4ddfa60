"""Training states in a real object store: a training resumes in another pod."""

from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.exceptions import ClientError, IncompleteReadError
from botocore.response import StreamingBody

from components.storage.checkpoints import MirroredCheckpoints, open_checkpoints
from components.storage.s3 import s3_client, translate_errors
from segmodels.errors import InputError, TransientError
from segmodels.training.checkpoints import Checkpoints


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"states-{abs(hash(request.node.name)) % 10**8}"
    s3.create_bucket(Bucket=name)
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", f"s3://{name}/trainings")
    return name


def train(folder: Path, epochs: int) -> MirroredCheckpoints:
    """Save a state per epoch, beside the run's name and its journal, as the training does."""
    states = open_checkpoints(folder)
    assert isinstance(states, MirroredCheckpoints)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text('{"run_id": "1"}')
    with (folder / "metrics.jsonl").open("a") as journal:
        for epoch in range(epochs):
            journal.write(f"{epoch}\n")
            journal.flush()
            save(states, epoch)
    return states


def save(states: MirroredCheckpoints, epoch: int) -> None:
    states.save({"epoch": torch.tensor(epoch)}, {"weight": torch.tensor(float(epoch))})
    states.wait()


def newest(states: Checkpoints) -> int | None:
    """Epoch of the newest state, whose best weights are there, too."""
    found: list[int] = []

    def restore(state: dict[str, torch.Tensor], best: dict[str, torch.Tensor]) -> None:
        assert best["weight"] == state["epoch"]
        found.append(int(state["epoch"]))

    return found[0] if states.resume(restore, pytest.fail) else None


def test_another_pod_goes_on_with_the_newest_state_the_run_and_its_journal(bucket: str, tmp_path: Path) -> None:
    train(tmp_path / "pod-1" / "key", 4)
    stored = {entry["Key"] for entry in s3_client().list_objects_v2(Bucket=bucket)["Contents"]}
    for ending in (".ckpt", ".best"):
        assert len([name for name in stored if name.endswith(ending)]) == 2, "old ones are removed from the store, too"
    assert newest(open_checkpoints(tmp_path / "pod-2" / "key")) == 3
    assert (tmp_path / "pod-2" / "key" / "run.json").read_text() == '{"run_id": "1"}'
    assert (tmp_path / "pod-2" / "key" / "metrics.jsonl").read_text() == "0\n1\n2\n3\n"


@pytest.mark.usefixtures("bucket")
def test_another_training_starts_anew(tmp_path: Path) -> None:
    train(tmp_path / "pod-1" / "key", 1)
    assert newest(open_checkpoints(tmp_path / "pod-2" / "other-key")) is None


@pytest.mark.usefixtures("bucket")
def test_a_folder_that_is_ahead_of_the_store_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pod" / "key"
    states = train(folder, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "_send", lambda: None)  # the store was away
        save(states, 9)
    assert newest(open_checkpoints(folder)) == 9


def test_a_store_that_is_away_does_not_stop_a_training(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = train(tmp_path / "pod" / "key", 1)
    for entry in states.client.list_objects_v2(Bucket=bucket)["Contents"]:
        states.client.delete_object(Bucket=bucket, Key=entry["Key"])
    states.client.delete_bucket(Bucket=bucket)
    save(states, 1)
    save(states, 2)
    assert capsys.readouterr().out.count("training continues") == 1
    states.client.create_bucket(Bucket=bucket)
    save(states, 3)
    assert newest(open_checkpoints(tmp_path / "pod-2" / "key")) == 3


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "access is denied"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "no server answers"),
        ("SEGMODELS_CHECKPOINTS", "s3://no-such-bucket/x", "no such bucket"),
        ("SEGMODELS_CHECKPOINTS", "/mnt/states", "expected s3://bucket/prefix"),
    ],
)
def test_a_store_that_refuses_at_the_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises((InputError, TransientError), match=said):
        open_checkpoints(tmp_path / "key")


@pytest.mark.usefixtures("bucket")
def test_answers_that_end_early_are_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "pod-1" / "key", 1)

    def read(*_: object) -> bytes:
        raise IncompleteReadError(actual_bytes=1, expected_bytes=2)

    monkeypatch.setattr(StreamingBody, "read", read)
    with pytest.raises(TransientError, match=r"^s3://states-\d+/trainings/key cannot be read, "):
        open_checkpoints(tmp_path / "pod-2" / "key")


@pytest.mark.parametrize(
    ("code", "status", "kind"), [("AccessDenied", 403, InputError), ("SlowDown", 503, TransientError)]
)
def test_a_refused_upload_says_whether_it_may_pass(s3: Any, code: str, status: int, kind: type[Exception]) -> None:
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")

    s3.meta.events.register("before-call.s3.PutObject", refuse)
    with (
        pytest.raises(kind, match=rf"^s3://bucket/x cannot be stored, .*{code}"),
        translate_errors("s3://bucket/x", connected=True, access="stored"),
    ):
        s3.upload_file(__file__, "bucket", "x")


def test_without_a_store_states_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_CHECKPOINTS", raising=False)
    assert not isinstance(open_checkpoints(tmp_path / "key"), MirroredCheckpoints)
