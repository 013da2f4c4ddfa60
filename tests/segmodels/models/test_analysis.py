"""Counts and descriptions of models."""

import pytest
import torch
from torch import nn

from segmodels.errors import InputError
from segmodels.models.analysis import count_gmac, count_parameters, describe, on_meta


def test_parameters_are_the_trainable_ones_each_once():
    shared = nn.Linear(3, 4)
    model = nn.Sequential(shared, nn.Linear(4, 3, bias=False), shared, nn.BatchNorm1d(4).requires_grad_(False))
    assert count_parameters(model) == (3 * 4 + 4) + 4 * 3


def test_gmac_is_that_of_the_textbook_formulas_in_eval_mode():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 5, stride=2, padding=2)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.training_only = nn.Conv2d(8, 1000, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depthwise(self.conv(x))
            if self.training:
                self.training_only(x)
            x = self.up(x).flatten(2)
            return x @ x.transpose(1, 2)

    model = Net().train()
    conv = 16 * 16 * 8 * 3 * 25
    depthwise = 16 * 16 * 8 * 9
    up = 16 * 16 * 8 * 4 * 4  # each input pixel times each weight
    product = 4 * 4 * 32 * 32
    assert count_gmac(model, torch.zeros(1, 3, 32, 32)) == pytest.approx((conv + depthwise + up + product) / 1e9)
    assert model.training, "the mode is put back"


def test_a_model_on_the_meta_device_takes_no_memory_and_the_cards_size():
    model, images = on_meta("fcn_resnet50", in_channels=5)
    assert images.shape == (1, 5, 520, 520)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_description_shows_each_stage_with_its_shape_and_what_only_trains():
    text = describe("fcn_resnet50", num_classes=11, size=(64, 96))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "input 3x64x96, 35,314,518 trainable parameters" in text
    assert lines["layer1"].split()[1:] == ["Sequential", "256x16x24", "215,808"]
    assert lines["layer4"].split()[2] == "2048x8x12"
    assert lines["classifier"].split()[2] == "11x8x12"
    assert "training only" in lines["aux_classifier"]


@pytest.mark.parametrize(("name", "part"), [("segnet", "features"), ("wnet", "contracting")])
def test_a_part_whose_layers_are_called_one_by_one_is_not_for_training_only(name, part):
    line = next(line for line in describe(name).splitlines() if line.split()[0] == part)
    assert "training only" not in line


def test_description_of_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match="unknown model 'fcn_resnet5'"):
        describe("fcn_resnet5")
