"""torch.export programs: what is free, and models that do not allow it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segmodels.inference.bundle import Bundle
from segmodels.inference.export import NormalisedModel, export_program
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.outputs import PixelOutput
from segmodels.tasks.registry import create_task

LABELS = LabelMap(("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1})


class AnySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, images: Tensor) -> PixelOutput:
        return PixelOutput(self.head(images))


class OneSize(AnySize):
    """As a transformer with position embeddings for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(3, 40, 56))

    def forward(self, images: Tensor) -> PixelOutput:
        return super().forward(images + self.positions)


class DependsOnPixels(AnySize):
    def forward(self, images: Tensor) -> PixelOutput:
        return super().forward(images if images.mean() > 0 else -images)


def bundle(model: nn.Module) -> Bundle:
    return Bundle(
        model.eval(),
        "test",
        {},
        create_task("semantic", LABELS),
        (120.0, 110.0, 100.0),
        (60.0, 50.0, 40.0),
        None,
        {},
        {},
    )


@pytest.mark.parametrize(
    ("model", "free", "shape"),
    [
        (AnySize, "batch size, height and width", (3, 3, 33, 50)),
        (OneSize, "batch size alone: every image has 40 x 56 pixels", (5, 3, 40, 56)),
    ],
)
def test_a_program_computes_what_the_model_does_at_every_free_size(
    tmp_path: Path, model: type[AnySize], free: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    made = bundle(model())
    assert export_program(made, tmp_path / "model.pt2", (40, 56)) == f"to logits, free {free}"
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (made.mean, made.std))
    with torch.inference_mode():
        expected = made.model((images - mean) / std).logits
        torch.testing.assert_close(
            torch.export.load(tmp_path / "model.pt2").module()(images), expected, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(NormalisedModel(made)(images), expected)


def test_the_least_side_that_a_program_takes_is_stated(tmp_path: Path) -> None:
    made = bundle(create_model("unet", num_classes=2, widths=[4, 8, 8, 8]))
    free = "batch size, height and width of at least 9 pixels"
    assert export_program(made, tmp_path / "model.pt2") == f"to logits, free {free}"
    program = torch.export.load(tmp_path / "model.pt2").module()
    for shape in ((1, 3, 9, 9), (2, 3, 9, 40), (1, 3, 30, 9)):
        program(torch.zeros(shape, dtype=torch.uint8))
    for shape in ((1, 3, 8, 40), (1, 3, 40, 8)):
        with pytest.raises(Exception, match="Guard failed"):
            program(torch.zeros(shape, dtype=torch.uint8))


def test_a_program_of_volumes_is_free_in_all_their_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Conv3d(2, 2, 3, padding=1)
    made = replace(bundle(model), mean=(-300.0, 0.5), std=(200.0, 0.1), dtype="float32", spatial_dims=3)
    assert export_program(made, tmp_path / "model.pt2") == "to logits, free batch size, depth, height and width"
    images = torch.randn(2, 2, 5, 9, 7)
    mean, std = (torch.tensor(values).view(2, 1, 1, 1) for values in (made.mean, made.std))
    with torch.inference_mode():
        program = torch.export.load(tmp_path / "model.pt2").module()
        torch.testing.assert_close(program(images), model((images - mean) / std), rtol=1e-4, atol=1e-3)


class Known(DependsOnPixels):
    exportable = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("it is not traced")


@pytest.mark.parametrize("model", [DependsOnPixels, Known])
def test_a_model_that_cannot_be_exported_says_so_in_one_line(model: type[DependsOnPixels], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^torch\.export: ") as refused:
        export_program(bundle(model()), tmp_path / "model.pt2")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "model.pt2").exists()
