"""The interface of models: parameters that do not decay, last layers."""

import torch
from torch import nn

from segmodels.encoders.base import Encoder
from segmodels.models.base import Model, last_layers


class Patches(Encoder):
    """An encoder with position embeddings."""

    in_channels, channels, strides = 3, (4,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 4, 8, 8))
        self.patches = nn.Conv2d(3, 4, 4, 4)

    def no_weight_decay(self) -> set[str]:
        return {"positions"}


class OnPatches(Model):
    """A model with an encoder inside a part."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Sequential(Patches())
        self.head = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1), nn.Dropout(0.1))

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.head, None)


def test_what_an_encoder_exempts_from_decay_is_named_from_the_models_root() -> None:
    model = OnPatches()
    assert model.no_weight_decay() == {"context.0.positions"}
    assert model.no_weight_decay() <= dict(model.named_parameters()).keys()
    assert model.parameter_groups() is None


def test_the_last_layer_of_a_head_is_its_last_convolution_and_an_absent_head_has_none() -> None:
    model = OnPatches()
    assert model.classifiers() == [model.head[2]]
    assert last_layers(None) == []
