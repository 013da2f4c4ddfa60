"""register: what a version holds and does, and that no interruption takes the champion away. A real MLflow store."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from registry_workplace import NAME, Workplace
from small_pipeline import DIGEST, use_local_store, write_model, write_shards

from components.tracking.client import tracking_uri
from components.tracking.saved_model import REQUIREMENTS
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor

# --- what is registered


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory):
    """One registered model, for tests that only look."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("registered")
        use_local_store(folder, monkeypatch)
        workplace = Workplace(folder)
        workplace.train("model")
        workplace.register("model", minimum=0.5)
        yield workplace


def test_the_version_says_where_it_comes_from_and_why_it_is_champion(registered: Workplace) -> None:
    version = registered.client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id == registered.runs["model"]
    assert version.tags["data_digest"] == DIGEST
    assert version.tags["code_revision"] == "a" * 40
    assert version.tags["decision"] == "champion"
    metrics = json.loads((registered.folder / "model-evaluation" / "metrics.json").read_text())
    assert (
        version.tags["reason"]
        == f"mean_iou {metrics['mean_iou']:.4f} reaches the minimum 0.5 and there was no champion"
    )
    assert float(version.tags["test.mean_iou"]) == pytest.approx(metrics["mean_iou"], rel=1e-5)
    assert registered.client.get_run(registered.runs["model"]).data.tags["registered_model"] == f"{NAME}/1"
    facts = json.loads((registered.folder / "model-registration" / "registration.json").read_text())
    assert (facts["version"], facts["alias"], facts["reason"]) == ("1", "champion", version.tags["reason"])


def test_the_model_card_tells_data_parameters_and_scores(registered: Workplace) -> None:
    card = (registered.folder / "model-registration" / "model_card.md").read_text()
    metrics = json.loads((registered.folder / "model-evaluation" / "metrics.json").read_text())
    for text in (
        DIGEST,
        f"| MIoU | {metrics['mean_iou']:.4f} |",
        "| flip | `False` |",
        "| lr | `0.01` |",
        "![confusion.png](confusion.png)",
        "| 3 | snow |",
        registered.runs["model"],
    ):
        assert text in card
    assert (registered.folder / "model-registration" / "confusion.png").stat().st_size > 1000
    assert "| MIoU |" in registered.client.get_model_version_by_alias(NAME, "champion").description


def test_the_registered_model_turns_images_of_any_size_into_masks(registered: Workplace) -> None:
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    predictor = Predictor(load_bundle(registered.folder / "model"))
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (3, 37, 53, 3), dtype=np.uint8)
    expected = np.stack(predictor.masks(batch))
    masks = loaded.predict(batch)
    assert (masks.shape, masks.dtype) == ((3, 37, 53), np.uint8)
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(loaded.predict(batch[1]), expected[1])
    ragged = loaded.predict([batch[0], batch[1, :20]])
    assert [mask.shape for mask in ragged] == [(37, 53), (20, 53)]
    np.testing.assert_array_equal(ragged[0], expected[0])
    np.testing.assert_array_equal(loaded.predict(batch[:2].tolist()), expected[:2])  # as it comes from JSON


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4)), np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 3), 300)],
)
@pytest.mark.usefixtures("registered")
def test_the_registered_model_refuses_what_is_no_image(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(height, width, 3\)"):
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(wrong)


@pytest.mark.usefixtures("registered")
def test_signature_and_input_example_are_uint8_images_of_any_size() -> None:
    info = mlflow.models.get_model_info(f"models:/{NAME}@champion")
    (images,), (masks,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (images.type, images.shape) == (np.dtype("uint8"), (-1, -1, -1, 3))
    assert (masks.type, masks.shape) == (np.dtype("uint8"), (-1, -1, -1))
    example = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").input_example
    assert np.asarray(example).shape == (1, 20, 40, 3)


@pytest.mark.usefixtures("registered")
def test_nothing_in_the_model_is_pickled_and_it_names_its_requirements() -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    pickled = [
        path.name
        for path in folder.rglob("*")
        if path.suffix in (".pkl", ".pickle", ".pt", ".pth") or (path.is_file() and path.read_bytes()[:1] == b"\x80")
    ]
    assert pickled == []
    assert sorted(path.name for path in (folder / "artifacts" / "bundle").iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    requirements = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in requirements] == list(REQUIREMENTS)
    assert f"torch=={torch.__version__.split('+')[0]}" in requirements


def test_the_exported_program_computes_the_same_at_any_size(registered: Workplace) -> None:
    path = mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion/artifacts/export.pt2")
    program = torch.export.load(path).module()
    predictor = Predictor(load_bundle(registered.folder / "model"))
    for shape in ((1, 3, 24, 32), (4, 3, 45, 71)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), predictor.network(images).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_the_model_works_where_only_its_requirements_are_installed(tmp_path: Path) -> None:
    """Another process, away from the repository, in which the project's other dependencies cannot be imported."""
    program = f"""
import sys
blocked = ["lightning", "pyarrow.parquet", "matplotlib", "numba", "sklearn", "rich",
           "dvc", "great_expectations", "components", "pipelines"]
sys.modules.update(dict.fromkeys(blocked))
sys.path[:] = [path for path in sys.path if path not in ("", {str(Path(__file__).resolve().parents[3])!r})]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mlflow, numpy as np
mlflow.set_tracking_uri({tracking_uri()!r})
masks = mlflow.pyfunc.load_model("models:/{NAME}@champion").predict(np.zeros((2, 20, 30, 3), np.uint8))
import segmodels
print(masks.shape, segmodels.__file__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    shape, file = done.stdout.strip().splitlines()[-1].rsplit(" ", 1)
    assert shape == "(2, 20, 30)"
    assert "mlruns" in file  # the code that came with the model


# --- who is champion

# --- interruptions and bad input


class Interrupted(BaseException):
    """As SIGKILL: nothing in the way catches it."""


CHANGES = ("create_registered_model", "create_model_version", "set_registered_model_alias")


@pytest.mark.slow
def test_an_interruption_at_any_change_leaves_a_champion_and_a_rerun_completes(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.train("first", "poor")
    workplace.train("second", "good")
    workplace.register("first")
    left = 0

    def watched(name: str):
        original = getattr(mlflow.MlflowClient, name)

        def change(*args, **kwargs):
            nonlocal left
            if left == 0:
                raise Interrupted(name)
            left -= 1
            return original(*args, **kwargs)

        return change

    for name in CHANGES:
        monkeypatch.setattr(mlflow.MlflowClient, name, watched(name))

    interrupted = []
    for allowed in (0, 1, 2, 0, 1):  # the first three while the version is made, then it is found
        left = allowed
        with pytest.raises(Interrupted) as at:
            workplace.register("second")
        interrupted.append(str(at.value))
        assert workplace.aliases()["champion"] == "1"
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
        assert not (workplace.folder / "second-registration").exists()
    assert interrupted == [
        "create_registered_model",
        "create_model_version",
        *["set_registered_model_alias"] * 3,
    ]

    left = 99
    assert workplace.register("second")["alias"] == "champion"
    assert workplace.versions() == ["1", "2"]
    assert workplace.aliases() == {"champion": "2", "previous": "1"}


def test_an_evaluation_of_another_model_or_other_data_is_refused(workplace: Workplace) -> None:
    workplace.train("model")
    write_model(workplace.folder / "model", steps=1)
    with pytest.raises(InputError, match="measured with another model"):
        workplace.register("model")
    workplace.evaluate("model")
    shutil.rmtree(workplace.shards)
    write_shards(workplace.shards, digest="e" * 32 + ".dir")
    assert ShardReader(workplace.shards, "test").digest != DIGEST
    with pytest.raises(InputError, match="measured with another data"):
        workplace.register("model")


def test_missing_results_of_earlier_steps_are_named(workplace: Workplace) -> None:
    workplace.train("model")
    (workplace.folder / "model" / "run.json").unlink()
    with pytest.raises(InputError, match=r"run.json is not there"):
        workplace.register("model")
    shutil.rmtree(workplace.folder / "model-evaluation")
    with pytest.raises(InputError, match=r"metrics.json is not there: run the step evaluate first"):
        workplace.register("model")
