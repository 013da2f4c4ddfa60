"""Every kind of file of ours, damaged in every way: the command that reads it ends with code 2 and one sentence."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_dataset import write_small_dataset
from small_pipeline import write_model, write_shards

from components.__main__ import main
from components.artifacts import DATASET, REGISTRATION, REPORT, RUN
from components.kubeflow.executor_output import DESCRIBE
from components.params.checking import checked
from components.params.schema import EvaluateParams, IngestParams
from components.steps.evaluate import evaluate
from components.steps.ingest import ingest
from components.steps.preprocess import _passed
from components.steps.register import _evaluated
from segmodels.data.manifest import Dataset
from segmodels.data.shards import ShardReader
from segmodels.exit_codes import guarded
from segmodels.inference.bundle import load_bundle
from segmodels.tasks.semantic_evaluator import SemanticEvaluator

DATA = Path("data")

FILES = {
    "preprocess": ["dataset/dataset.json", "dataset/manifest.parquet", "validation/report.json"],
    "train": ["shards/statistics.json"],
    "evaluate": [
        "shards/statistics.json",
        "model/model.json",
        "model/weights.safetensors",
        "model/run.json",
    ],
    "register": ["evaluation/metrics.json", "evaluation/evaluation.json"],
    "report": [
        "evaluation/metrics.json",
        "evaluation/evaluation.json",
        "evaluation/per_class.csv",
        "registration/registration.json",
        "dataset/dataset.json",
        "model/run.json",
    ],
    "predict --model data/model --images images --out masks": ["model/model.json", "model/weights.safetensors"],
}
"""Command -> the files that it reads first."""

TEXT = (".json", ".csv")

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff\xfc" + content[2:],
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "NaN": lambda _: b'{"class": NaN}',
    "nested": lambda _: b"[" * 100_000,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pipeline leaves: folders of all steps."""
    folder = tmp_path_factory.mktemp("finished")
    root, data = write_small_dataset(folder / "images", {"train": 2, "val": 1, "test": 1}), folder / "data"
    ingest(checked(IngestParams, {"source": "folder", "path": str(root)}), data / "dataset", data / "cache")
    facts = {"success": True, "digest": DATASET.read(data / "dataset")["digest"], "form": None}
    (data / "validation").mkdir()
    REPORT.write(data / "validation", facts)
    write_shards(data / "shards")
    write_model(data / "model", steps=2)
    evaluate(EvaluateParams(overlays=1), data / "shards", data / "model", data / "evaluation")
    RUN.write(data / "model", {"run_id": "1", "tracking_uri": "sqlite:///mlflow.db", "experiment": "tests"})
    (data / "registration").mkdir()
    words = dict.fromkeys(("name", "version", "uri", "alias", "reason", "metric"), "words")
    REGISTRATION.write(data / "registration", {**words, "value": 0.5})
    (folder / "params.yaml").write_text("preprocess: {workers: 1}")
    return folder


@pytest.fixture
def data(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "copy")
    return Path("data")


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence_and_code_2(
    data: Path, command: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FILES[command]:
        path = data / name
        whole = path.read_bytes()
        if (damage == "half" and path.suffix == ".csv") or (damage == "not UTF-8" and path.suffix not in TEXT):
            continue  # half a table may end with a row; the first bytes of binary files do not matter
        path.write_bytes(DAMAGES[damage](whole))
        code, said = main(command.split()), capsys.readouterr().err
        path.write_bytes(whole)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) == (2, 1), (name, said)
        assert path.name in errors[0]
        assert len(errors[0]) < 500
        assert "Traceback" not in said


# Types, missing keys and flipped bits of single values: what a command does not need may be wrong


def open_dataset() -> None:
    dataset = Dataset.open(DATA / "dataset")
    sample = dataset.samples("val")[0]
    dataset.layout.annotation(sample)
    _passed(DATA / "validation", dataset.digest)


def open_shards() -> None:
    for split in ("train", "val", "test"):
        reader = ShardReader(DATA / "shards", split)
        for index in range(len(reader)):
            assert reader.id(index)
            assert reader.annotation(index).classes.ndim == reader.image(index).ndim - 1 == 2
        assert len(reader.sizes) == len(reader.image_labels) == len(reader)


def open_evaluation() -> None:
    _evaluated(DATA / "evaluation", DATA / "model", ShardReader(DATA / "shards", "test"))
    SemanticEvaluator.read(DATA / "evaluation").images()


def open_outputs() -> None:
    for artifact in ("dataset", "shards", "model", "evaluation"):
        DESCRIBE[artifact](DATA / artifact)


def open_model() -> None:
    load_bundle(DATA / "model")


READERS: list[tuple[Callable[[], Any], list[str]]] = [
    (open_dataset, ["dataset/dataset.json", "dataset/manifest.parquet", "validation/report.json"]),
    (open_shards, ["shards/statistics.json", "shards/val-00000.arrow"]),
    (open_model, ["model/model.json", "model/weights.safetensors"]),
    (open_evaluation, ["evaluation/metrics.json", "evaluation/evaluation.json", "evaluation/per_image.parquet"]),
    (open_outputs, ["dataset/dataset.json", "shards/statistics.json", "model/run.json", "evaluation/confusion.json"]),
    (lambda: main(["report"]), ["evaluation/per_class.csv", "registration/registration.json"]),
]


@pytest.mark.parametrize(
    ("reader", "names"), READERS, ids=["dataset", "shards", "model", "evaluation", "outputs", "report"]
)
def test_no_wrong_value_and_no_flipped_bit_is_a_traceback(
    data: Path, reader: Callable[[], Any], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(reader) == 0
    for name in names:
        path = data / name
        whole = path.read_bytes()
        for content in (*wrong_values(whole, path.suffix), bytes(len(whole)), *flipped(whole, 10)):
            path.write_bytes(content)
            code = guarded(reader)
            assert code in (0, 2), (name, content[:1000], capsys.readouterr().err)
            assert "Traceback" not in capsys.readouterr().err, (name, content[:1000])
        path.write_bytes(whole)


def wrong_values(content: bytes, suffix: str) -> Iterator[bytes]:
    """JSON with one value of another type, or one key less, each."""
    if suffix != ".json":
        return
    data = json.loads(content)
    for *above, key in list(places(data)):
        for value in ("text", -1, None, [["x"]], ...):
            copy = json.loads(content)
            target = copy
            for part in above:
                target = target[part]
            if value is ...:
                del target[key]
            else:
                target[key] = value
            yield json.dumps(copy).encode()


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys and first entries, two levels deep."""
    keys = list(data) if isinstance(data, dict) else [0] if isinstance(data, list) and data else []
    for key in keys if len(above) < 2 else []:
        yield (*above, key)
        yield from places(data[key], (*above, key))


def flipped(content: bytes, count: int) -> Iterator[bytes]:
    """Copies with three bits changed."""
    rng = random.Random(0)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(3):
            copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        yield bytes(copy)
