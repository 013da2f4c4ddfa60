"""``python -m segmodels`` and the README list what the library holds."""

from pathlib import Path

import pytest

from segmodels.__main__ import main
from segmodels.data.layouts import list_layouts
from segmodels.losses import list_losses
from segmodels.metrics import scores
from segmodels.models.registry import list_models

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "names"),
    [("models", list_models()), ("losses", list_losses()), ("metrics", scores.__all__), ("layouts", list_layouts())],
)
def test_every_name_is_listed(command: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    printed = capsys.readouterr().out
    assert names
    assert [name for name in names if name not in printed] == []


def test_the_readme_has_a_line_for_every_loss_and_metric() -> None:
    assert [name for name in (*list_losses(), *scores.__all__) if f"| `{name}` |" not in README] == []


def test_a_model_is_described_with_its_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "unet", "--size", "64", "96"]) == 0
    printed = capsys.readouterr().out
    assert "64x96" in printed.replace(" ", "").replace("×", "x").replace(",", "x")


def test_an_unknown_model_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "unett"]) == 2
    assert "'unet'" in capsys.readouterr().err
