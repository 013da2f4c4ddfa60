"""SETR: encoders that its decoders cannot stand on. The contract test compares shapes, counts and gradients."""

import pytest
import torch

from segmodels.errors import InputError
from segmodels.models.registry import create_model


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            "mit_b0",
            r"maps at the strides 4, 8, 16, 32, expected four of one size: choose a ViT, .* with four out_blocks",
        ),
        ("sam_vit_tiny", r"has 1 maps, expected 4: give it four out_blocks"),
    ],
)
def test_mla_takes_four_maps_of_one_size(encoder: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        create_model("setr_mla", 3, encoder=encoder)
