"""The code that decides a training's weights: which files it is, and which edits of them change its digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segmodels.training import code_digest as module
from segmodels.training.code_digest import code_digest, training_code
from segmodels.training.settings import TrainSettings


def names(**settings: Any) -> set[str]:
    """Of the files, below segmodels/."""
    root = module.ROOT / "segmodels"
    return {path.relative_to(root).as_posix() for path in training_code(TrainSettings(**settings), "semantic")}


def test_it_is_that_of_the_chosen_model_encoder_losses_learner_and_task_and_of_the_loop() -> None:
    unet = names()
    assert {"models/unet.py", "losses/distribution.py", "tasks/semantic.py", "training/learner.py"} <= unet
    assert {
        "training/recipe.py",
        "training/criterion.py",
        "training/optimizers.py",
        "training/fit.py",
        "training/optimisation.py",
        "training/selection.py",
        "training/schedules.py",
        "data/loader.py",
        "data/augment.py",
    } <= unet
    assert {"metrics/confusion.py", "layers/blocks.py", "registry.py", "errors.py"} <= unet
    assert not {"losses/region.py", "training/alternating.py", "models/wnet.py", "encoders/resnet.py"} & unet
    assert names(loss={"dice": 1.0}) - unet == {"losses/region.py"}
    pspnet = names(model="pspnet_r50_d8")
    assert {"models/pspnet.py", "encoders/resnet.py"} <= pspnet
    assert not {"models/unet.py", "encoders/hrnet.py"} & pspnet
    assert "encoders/hrnet.py" in names(model="pspnet_r50_d8", options={"encoder": "hrnet_w18"})
    assert {"models/wnet.py", "training/alternating.py", "losses/normalized_cut.py"} <= names(model="wnet")


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("unet", {"unet", "encoder_unet"}),  # the second is the first on an encoder
        ("pspnet_r50_d8", {"pspnet"}),
        ("wnet", {"wnet"}),
    ],
)
def test_pictures_prediction_and_other_models_do_not_count(model: str, own: set[str]) -> None:
    files = names(model=model)
    assert "plots.py" not in files
    assert not any(name.startswith("inference/") for name in files)
    shared = {"models/registry.py", "models/base.py", "models/dilated.py", "models/published.py"}
    assert {name for name in files if name.startswith("models/")} - shared == {f"models/{name}.py" for name in own}


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


@pytest.mark.parametrize(
    ("file", "edit", "changes"),
    [
        ("training/optimizers.py", replaced("if p.requires_grad", "if p.requires_grad and p.dim() < 5"), True),
        ("losses/distribution.py", replaced("mean_valid(values, valid)", "2 * mean_valid(values, valid)"), True),
        ("models/unet.py", replaced("return ", "return 1 * "), True),
        ("training/schedules.py", replaced("peak, start, end = 0.3", "peak, start, end = 0.4"), True),
        ("training/recipe.py", replaced('"""Builds a training', '"""Makes a training'), False),
        ("models/unet.py", replaced("class UNet", "# the network of the paper\nclass UNet"), False),
        ("losses/distribution.py", replaced("\n\n\n", "\n\n\n\n\n"), False),
        ("training/learner.py", replaced('"""The state of the training loop', '"""Where the loop is'), False),
    ],
)
def test_what_python_runs_changes_the_digest_and_words_do_not(
    file: str, edit: Callable[[str], str], changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = module.ROOT / "segmodels" / file
    assert edited in training_code(TrainSettings(), "semantic")
    before = code_digest({edited})
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, **options: edit(read(self, **options)) if self == edited else read(self, **options),
    )
    assert (code_digest({edited}) != before) == changes


def test_a_file_that_is_imported_in_a_function_counts_and_one_for_type_checkers_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "segmodels" / "inner").mkdir(parents=True)
    texts = {
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from segmodels import d\n"
        "def f():\n    from segmodels.inner import b\n",
        "inner/__init__.py": "",
        "inner/b.py": "import segmodels.c\nimport segmodels.plots\n",
        "c.py": "",
        "d.py": "",
        "plots.py": "",
    }
    for name, text in texts.items():
        (tmp_path / "segmodels" / name).write_text(text)
    found = module.all_imported({tmp_path / "segmodels" / "a.py"})
    expected = {"a.py", "inner/__init__.py", "inner/b.py", "c.py"}
    assert {path.relative_to(tmp_path / "segmodels").as_posix() for path in found} == expected
