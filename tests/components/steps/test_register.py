"""register: what a version holds and does, who becomes champion, and that no interruption takes the champion away. A
real MLflow store.
"""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlflow
import numpy as np
import pytest
import torch
from small_pipeline import DIGEST, LABELS, use_local_store, write_model, write_run, write_shards

from components.__main__ import main
from components.params.schema import EvaluateParams, RegisterParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.tracking.client import mlflow_client, tracking_uri
from components.tracking.promotion import Decision, Gate, Rival, decide
from components.tracking.saved_model import REQUIREMENTS
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.metrics import Comparison

NAME = "scenes"
STEPS = {"poor": 8, "good": 40}  # of training; mean IoU about 0.3 and 0.97


@cache
def trained(skill: str, seed: int) -> Path:
    """A trained model and its evaluation on the shards of ``write_shards``, made once."""
    folder = Path(mkdtemp())
    write_model(folder / "model", steps=STEPS[skill], seed=seed)
    evaluate(EvaluateParams(overlays=0), write_shards(folder / "shards"), folder / "model", folder / "evaluation")
    return folder


class Workplace:
    """Shards and trained, evaluated models in a folder with its own MLflow store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = write_shards(folder / "shards")
        self.runs: dict[str, str] = {}

    def train(self, name: str, skill: str = "good", seed: int = 0) -> None:
        shutil.copytree(trained(skill, seed) / "model", self.folder / name)
        shutil.copytree(trained(skill, seed) / "evaluation", self.folder / f"{name}-evaluation")
        self.runs[name] = write_run(self.folder / name, self.folder / f"{name}-state")

    def evaluate(self, name: str, **params) -> None:
        evaluate(
            EvaluateParams(overlays=0, settings=params),
            self.shards,
            self.folder / name,
            self.folder / f"{name}-evaluation",
        )

    def register(self, name: str, **params) -> dict:
        return register(
            RegisterParams(**({"name": NAME} | params)),
            self.shards,
            self.folder / name,
            self.folder / f"{name}-evaluation",
            self.folder / f"{name}-registration",
        )

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow_client()

    def aliases(self) -> dict[str, str]:
        return {alias: str(version) for alias, version in self.client.get_registered_model(NAME).aliases.items()}

    def versions(self) -> list[str]:
        return sorted(str(version.version) for version in self.client.search_model_versions(f"name = '{NAME}'"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Here no model can be exported, as is true of some: the decision does not depend on it, and exporting takes most
    of the time.
    """

    def refuse(*_):
        raise RuntimeError("torch.export: data-dependent sizes")

    monkeypatch.setattr("segmodels.inference.export.export_program", refuse)
    use_local_store(tmp_path, monkeypatch)
    return Workplace(tmp_path)


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


def difference(value: float, low: float) -> Comparison:
    return Comparison("mean_iou", 0.7 + value, 0.7, value, low, 2 * value - low, 0.2, 0.9, 100, 2000)


def test_the_better_model_takes_over_and_the_worse_one_challenges(workplace: Workplace) -> None:
    workplace.train("first", "poor")
    workplace.train("second", "good")
    workplace.train("third", "poor", seed=1)
    assert workplace.register("first")["alias"] == "champion"
    second = workplace.register("second")
    assert workplace.aliases() == {"champion": "2", "previous": "1"}
    first_value = json.loads((workplace.folder / "first-evaluation" / "metrics.json").read_text())["mean_iou"]
    assert second["champion_before"] == "1"
    assert second["champion_value"] == pytest.approx(first_value)  # re-evaluated, it is what it was
    assert second["significance"]["difference"] == pytest.approx(second["value"] - first_value)
    assert 0 < second["significance"]["low"] < second["significance"]["difference"] < second["significance"]["high"]
    third = workplace.register("third")
    assert third["alias"] == "challenger"
    assert "worse than the champion" in third["reason"]
    assert workplace.aliases() == {"champion": "2", "previous": "1", "challenger": "3"}


def test_the_champion_is_measured_on_the_same_shards_by_its_own_settings(workplace: Workplace) -> None:
    workplace.train("first")
    workplace.evaluate("first", flip=True, scales=[1.0, 1.5])
    workplace.register("first")
    before = json.loads((workplace.folder / "first-evaluation" / "metrics.json").read_text())["mean_iou"]
    shutil.rmtree(workplace.shards)
    write_shards(workplace.shards, test=9, digest="f" * 32 + ".dir")
    workplace.train("second", seed=2)
    workplace.evaluate("second")
    facts = workplace.register("second", tolerance=1.0)
    workplace.evaluate("first")
    plain = json.loads((workplace.folder / "first-evaluation" / "metrics.json").read_text())["mean_iou"]
    workplace.evaluate("first", flip=True, scales=[1.0, 1.5])
    again = json.loads((workplace.folder / "first-evaluation" / "metrics.json").read_text())["mean_iou"]
    assert facts["champion_value"] == again
    assert again not in (plain, pytest.approx(before))
    assert facts["significance"]["images"] == 9
    assert facts["significance"]["baseline"] == pytest.approx(again)


def test_what_was_measured_is_registered_and_other_settings_are_another_version(workplace: Workplace) -> None:
    workplace.train("model")
    workplace.register("model")
    workplace.evaluate("model", flip=True, scales=[1.0, 0.5])
    facts = workplace.register("model", tolerance=1.0)
    assert (facts["version"], facts["settings"]["flip"], facts["settings"]["scales"]) == ("2", True, [1.0, 0.5])
    version = workplace.client.get_model_version_by_alias(NAME, "champion")
    assert (version.tags["task"], version.tags["predicts"]) == (
        "semantic",
        "flip=True, scales=[1.0, 0.5], sliding_window=None, crf=None",
    )
    card = (workplace.folder / "model-registration" / "model_card.md").read_text()
    assert "| flip | `True` |" in card
    assert "| scales | `[1.0, 0.5]` |" in card
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    bundle = load_bundle(workplace.folder / "model")
    plain, measured = (Predictor(bundle, settings=one).masks([image])[0] for one in (None, facts["settings"]))
    assert (plain != measured).any()
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(image), measured)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(f"models:/{NAME}@previous").predict(image), plain)


def test_any_score_decides_and_unknown_ones_are_refused(workplace: Workplace) -> None:
    workplace.train("first")
    workplace.train("second", seed=2)
    with pytest.raises(InputError, match=r"unknown score \(register.metric\) 'mean_dise': did you mean 'mean_dice'"):
        workplace.register("first", metric="mean_dise")
    with pytest.raises(InputError, match=r"unknown score \(register.metric\) 'pixels'"):
        workplace.register("first", metric="pixels")
    workplace.register("first", metric="mean_dice")
    facts = workplace.register("second", metric="mean_dice", tolerance=1.0)
    scores = json.loads((workplace.folder / "second-evaluation" / "metrics.json").read_text())
    assert (facts["metric"], facts["value"]) == ("mean_dice", scores["mean_dice"])
    assert facts["significance"]["metric"] == "mean_dice"
    assert facts["significance"]["candidate"] == pytest.approx(scores["mean_dice"])


def test_registering_the_same_run_again_makes_no_second_version(workplace: Workplace) -> None:
    workplace.train("model")
    first = workplace.register("model")
    again = workplace.register("model")
    assert workplace.versions() == ["1"]
    assert again == first
    assert workplace.aliases() == {"champion": "1"}


def test_a_model_that_cannot_be_exported_is_registered_without_and_says_so(workplace: Workplace) -> None:
    workplace.train("model")
    facts = workplace.register("model")
    assert facts["export"] == "not possible for this model (torch.export: data-dependent sizes)"
    assert facts["export"] in (workplace.folder / "model-registration" / "model_card.md").read_text()
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion/artifacts"))
    assert sorted(path.name for path in folder.iterdir()) == ["bundle", "card"]


def test_a_challenger_that_is_registered_again_after_the_gate_was_lowered_wins(workplace: Workplace) -> None:
    workplace.train("model")
    assert workplace.register("model", minimum=0.999)["alias"] == "challenger"
    assert workplace.aliases() == {"challenger": "1"}
    assert workplace.register("model", minimum=0.5)["alias"] == "champion"
    assert workplace.versions() == ["1"]
    assert workplace.aliases() == {"champion": "1"}


def test_a_champion_whose_files_are_gone_is_replaced(workplace: Workplace) -> None:
    workplace.train("first")
    workplace.register("first")
    for folder in (workplace.folder / "mlruns" / "models").iterdir():
        shutil.rmtree(folder)
    workplace.train("second", "poor")
    facts = workplace.register("second", minimum=0.1)
    assert facts["alias"] == "champion"
    assert "version 1, has lost its files" in facts["reason"]
    assert workplace.aliases() == {"champion": "2", "previous": "1"}


def test_a_champion_whose_files_are_not_the_registered_ones_is_replaced(workplace: Workplace) -> None:
    workplace.train("first")
    workplace.register("first")
    workplace.train("second", "poor")
    (weights,) = (workplace.folder / "mlruns" / "models").rglob("weights.safetensors")
    for path in (weights, weights.with_name("model.json")):  # a whole model, but another one
        shutil.copyfile(workplace.folder / "second" / path.name, path)
    facts = workplace.register("second")
    assert (facts["alias"], facts["champion_value"]) == ("champion", None)
    assert "version 1, is damaged" in facts["reason"]


def test_a_champion_of_other_classes_stays_until_a_person_decides(workplace: Workplace) -> None:
    workplace.train("first")
    workplace.register("first")
    labels = LabelMap(("lawn", *LABELS.classes[1:]), LABELS.palette, LABELS.ids)
    shutil.rmtree(workplace.shards)
    write_shards(workplace.shards, labels=labels)
    write_model(workplace.folder / "second", labels=labels)
    write_run(workplace.folder / "second", workplace.folder / "second-state")
    workplace.evaluate("second")
    facts = workplace.register("second")
    assert facts["alias"] == "challenger"
    assert "version 1, knows other classes (grass, brick, pond, snow): set register.name" in facts["reason"]
    assert workplace.aliases() == {"champion": "1", "challenger": "2"}


@pytest.mark.parametrize(
    ("value", "rival", "params", "alias"),
    [
        (0.5, None, {"minimum": 0.5}, "champion"),
        (0.49, None, {"minimum": 0.5}, "challenger"),
        (0.7, Rival("3", 0.7), {}, "champion"),
        (0.699, Rival("3", 0.7), {}, "challenger"),
        (0.695, Rival("3", 0.7), {"tolerance": 0.01}, "champion"),
        (0.4, Rival("3", 0.3), {"minimum": 0.5}, "challenger"),
        (0.7, Rival("3", problem="is damaged", usable=False), {}, "champion"),
        (0.4, Rival("3", problem="is damaged", usable=False), {"minimum": 0.5}, "challenger"),
        (0.7, Rival("3", problem="knows other classes"), {}, "challenger"),
        (0.72, Rival("3", 0.7), {"min_gain": 0.01}, "champion"),
        (0.705, Rival("3", 0.7), {"min_gain": 0.01}, "challenger"),
        (0.72, Rival("3", 0.7, significance=difference(0.02, low=0.005)), {"confidence": 0.9}, "champion"),
        (0.72, Rival("3", 0.7, significance=difference(0.02, low=-0.005)), {"confidence": 0.9}, "challenger"),
        (
            0.72,
            Rival("3", 0.7, significance=difference(0.02, low=-0.005)),
            {"confidence": 0.9, "tolerance": 0.01},
            "champion",
        ),
        (
            0.72,
            Rival("3", 0.7, significance=difference(0.02, low=0.005)),
            {"confidence": 0.9, "min_gain": 0.01},
            "challenger",
        ),
        (0.72, Rival("3", 0.7), {"confidence": 0.9}, "challenger"),
        (0.72, Rival("3", 0.7, class_losses={"road": -0.1, "sign": 0.2}), {"max_class_loss": 0.1}, "challenger"),
        (0.72, Rival("3", 0.7, class_losses={"road": -0.1, "sign": 0.05}), {"max_class_loss": 0.1}, "champion"),
    ],
)
def test_the_gate(value: float, rival: Rival | None, params: dict, alias: str) -> None:
    decision = decide("mean_iou", value, rival, Gate(**params))
    assert isinstance(decision, Decision)
    assert decision.alias == alias
    assert f"mean_iou {value:.4f}" in decision.reason


def test_people_promote_roll_back_and_archive_and_the_tags_tell(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.train("first")
    workplace.train("second", "poor")
    for name in ("first", "second"):
        workplace.register(name)

    def command(*arguments: str, code: int = 0) -> str:
        assert main([*arguments, "--reason", "the night camera"]) == code
        return "".join(capsys.readouterr())

    assert "version 2 is the champion, version 1 the previous one" in command("promote", f"models:/{NAME}/2")
    assert workplace.aliases() == {"champion": "2", "previous": "1"}
    assert "already" in command("promote", f"{NAME}/2", code=2)
    command("rollback", NAME)
    assert workplace.aliases() == {"champion": "1", "previous": "2"}
    assert "in use" in command("archive", f"{NAME}/1", code=2)
    command("archive", f"{NAME}/2")
    assert workplace.aliases() == {"champion": "1"}
    assert "no version with the alias previous" in command("rollback", NAME, code=2)
    assert "expected NAME/NUMBER" in command("promote", NAME, code=2)
    assert "not in MLflow" in command("promote", f"{NAME}/7", code=2)
    tags = workplace.client.get_model_version(NAME, "2").tags
    assert tags["archived"] == "the night camera"
    history = [value for key, value in sorted(tags.items()) if key.startswith("history.")]
    assert [entry.split(" by ")[0] for entry in history] == ["challenger", "champion", "rolled back", "archived"]
    assert all("the night camera" in entry for entry in history[1:])


def test_registering_again_adds_nothing_to_the_history(workplace: Workplace) -> None:
    workplace.train("first")
    for _ in range(2):
        workplace.register("first")
    assert sum(key.startswith("history.") for key in workplace.client.get_model_version(NAME, "1").tags) == 1


# --- interruptions and bad input


class Interrupted(BaseException):
    """As SIGKILL: nothing in the way catches it."""


CHANGES = ("create_registered_model", "create_model_version", "set_registered_model_alias", "set_terminated")


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
    for allowed in (0, 1, 2, 0, 1, 2):  # the first three while the version is made, then it is found
        left = allowed
        with pytest.raises(Interrupted) as at:
            workplace.register("second")
        interrupted.append(str(at.value))
        assert workplace.aliases()["champion"] == ("2" if interrupted[-1] == "set_terminated" else "1")
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
        assert not (workplace.folder / "second-registration").exists()
    assert interrupted == [
        "create_registered_model",
        "create_model_version",
        *["set_registered_model_alias"] * 3,
        "set_terminated",
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
