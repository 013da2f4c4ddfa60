"""``python -m segmodels`` lists everything that is registered."""

import subprocess
import sys

import pytest
import torch

import segmodels
from segmodels.__main__ import LISTINGS, Listing, main
from segmodels.data.layouts import list_layouts
from segmodels.encoders.registry import list_encoders
from segmodels.losses import list_losses
from segmodels.metrics import scores
from segmodels.models.registry import list_models
from segmodels.tasks.registry import TASKS


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("models", list_models()),
        ("encoders", list_encoders()),
        ("losses", list_losses()),
        ("tasks", TASKS.names()),
        ("metrics", scores.__all__),
        ("layouts", list_layouts()),
    ],
)
def test_every_name_is_listed(command: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    printed = capsys.readouterr().out
    assert names
    assert [name for name in names if name not in printed] == []

    assert main([command, "--markdown"]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [f"`{name}`" for name in names]
    assert header.count("|") == rule.count("|")


def test_the_package_offers_each_public_name_once_and_imports_nothing_before_it_is_used() -> None:
    code = (
        "import sys, segmodels\nassert 'torch' not in sys.modules\n"
        "assert len(set(segmodels.__all__)) == len(segmodels.__all__)\n"
        "assert all(getattr(segmodels, name) is not None for name in segmodels.__all__)\n"
        "assert set(segmodels.__all__) <= set(dir(segmodels))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'segmodels' has no attribute 'create_modle'"):
        segmodels.create_modle  # noqa: B018


def test_a_model_is_built_and_run_without_the_pipeline() -> None:
    with torch.device("meta"):
        model = segmodels.create_model("pspnet_r50_d8", num_classes=19)
        assert model.eval()(torch.empty(1, 3, 64, 96)).logits.shape == (1, 19, 64, 96)
        assert segmodels.create_encoder("resnet50").channels == (64, 256, 512, 1024, 2048)


def test_every_listed_thing_is_described() -> None:
    for kind, listing in LISTINGS.items():
        empty = [row[0] for row in listing().rows if not all(row[-1:])]
        assert empty == [], f"{kind} without a description"


def test_a_model_is_described_with_its_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "unet", "--size", "64", "96"]) == 0
    printed = capsys.readouterr().out
    assert "64x96" in printed.replace(" ", "").replace("×", "x").replace(",", "x")


def test_a_layout_is_described_with_its_folder_classes_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layouts", "cityscapes"]) == 0
    printed = capsys.readouterr().out
    for text in ("leftImg8bit/train/aachen/", "19 classes, 8 of them countable", "traffic light", "no redistribution"):
        assert text in printed
    assert printed.count("██") == 19
    assert main(["layouts", "cityscape"]) == 2
    assert "did you mean 'cityscapes'" in capsys.readouterr().err


def test_an_unknown_model_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "unett"]) == 2
    assert "'unet'" in capsys.readouterr().err


def test_what_the_machine_refuses_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> Listing:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setitem(LISTINGS, "models", refused)
    assert main(["models"]) == 2
    assert capsys.readouterr().err.startswith("error: /x cannot be used (permission denied)")
