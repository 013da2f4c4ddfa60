"""register: who becomes champion. A real MLflow store."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from registry_workplace import NAME, Workplace
from small_pipeline import LABELS, write_model, write_run, write_shards

from components.__main__ import main
from components.tracking.promotion import Decision, Gate, Rival, decide
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.metrics import Comparison


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
    assert "neither the champion nor the previous one (2 and 1)" in command("rollback", f"{NAME}/3", code=2)
    command("rollback", f"{NAME}/2")
    assert workplace.aliases() == {"champion": "1", "previous": "2"}
    assert "in use" in command("archive", f"{NAME}/1", code=2)
    command("archive", f"{NAME}/2")
    assert workplace.aliases() == {"champion": "1"}
    assert "no version with the alias previous" in command("rollback", NAME, code=2)
    assert "registered model 'roads' is not in MLflow" in command("rollback", "roads", code=2)
    assert f"registered model '{NAME}@champion' is not in MLflow" in command("rollback", f"{NAME}@champion", code=2)
    for step in ("promote", "rollback", "archive"):
        assert main([step, f"{NAME}/1", "--reason", " "]) == 2
        assert "--reason is ' ', expected why, in words" in capsys.readouterr().err
    assert "expected NAME/NUMBER" in command("promote", NAME, code=2)
    assert "not in MLflow" in command("promote", f"{NAME}/7", code=2)
    for step, number in (("archive", "01"), ("promote", "01"), ("promote", "٣"), ("promote", "9" * 20)):
        assert "expected one as MLflow writes it" in command(step, f"{NAME}/{number}", code=2)
    assert workplace.aliases() == {"champion": "1"}
    tags = workplace.client.get_model_version(NAME, "2").tags
    assert tags["archived"] == "the night camera"
    history = [value for key, value in sorted(tags.items()) if key.startswith("history.")]
    assert [entry.split(" by ")[0] for entry in history] == ["challenger", "champion", "rolled back", "archived"]
    assert all("the night camera" in entry for entry in history[1:])


def register_poor_and_better(workplace: Workplace) -> None:
    """Version 2 is the champion, version 1 the previous one."""
    workplace.train("first", "poor")
    workplace.train("second")
    for name in ("first", "second"):
        workplace.register(name)


def test_a_champion_that_is_deleted_leaves_no_version_that_is_champion_and_previous(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    register_poor_and_better(workplace)
    workplace.client.delete_model_version(NAME, "2")
    assert workplace.aliases() == {"previous": "1"}
    assert main(["rollback", NAME, "--reason", "version 2 is deleted"]) == 0
    assert workplace.aliases() == {"champion": "1"}
    workplace.client.set_registered_model_alias(NAME, "previous", "1")  # as earlier versions of this project left it
    assert main(["rollback", NAME, "--reason", "again"]) == 2
    assert "version 1 is the champion and the previous one: there is none" in capsys.readouterr().err


def test_registering_again_undoes_nothing_that_a_person_decided(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    register_poor_and_better(workplace)
    assert main(["rollback", NAME, "--reason", "blurred signs"]) == 0
    assert workplace.register("second")["alias"] == "rolled back"
    assert "stays rolled back (rolled back to version 1: blurred signs): `python -m" in capsys.readouterr().out
    assert main(["archive", f"{NAME}/2", "--reason", "wrong labels"]) == 0
    assert workplace.register("second")["alias"] == "archived"
    assert workplace.aliases() == {"champion": "1"}
    assert main(["promote", f"{NAME}/2", "--reason", "right labels after all"]) == 0
    assert workplace.register("second")["alias"] == "champion"
    assert workplace.register("first")["alias"] == "previous"
    assert workplace.aliases() == {"champion": "2", "previous": "1"}


def test_registering_again_adds_nothing_to_the_history(workplace: Workplace) -> None:
    workplace.train("first")
    for _ in range(2):
        workplace.register("first")
    assert sum(key.startswith("history.") for key in workplace.client.get_model_version(NAME, "1").tags) == 1
