"""Weights of whole public models: the names of mmsegmentation's tensors, other numbers of classes, auxiliary heads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segmodels.encoders.base import Encoder
from segmodels.errors import InputError
from segmodels.models.published import _named, _reshaped
from segmodels.models.registry import create_model

PUBLISHED = json.loads((Path(__file__).parents[2] / "fixtures" / "openmmlab_keys.json").read_text())
"""Names and shapes of mmsegmentation 1.2.2, from its own models, without bodies and running statistics."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_mmsegmentation_has_its_place_with_its_shape(name):
    classes = next(shape[0] for key, shape in PUBLISHED[name].items() if "conv_seg" in key or "mask_norm" in key)
    with torch.device("meta"):
        model = create_model(name, classes)
        given = {key: torch.empty(shape) for key, shape in PUBLISHED[name].items()}
    own = {key: value for key, value in model.state_dict().items() if "running_" not in key and "batches" not in key}
    bodies = tuple(f"{part}." for part, module in model.named_modules() if isinstance(module, Encoder))
    named = _reshaped(_named(model, given, own), own)
    expected = {key: value.shape for key, value in own.items() if not (bodies and key.startswith(bodies))}
    assert {key: value.shape for key, value in named.items()} == expected


def saved(model: torch.nn.Module, folder: Path, **renamed: str) -> Path:
    state = {}
    for key, value in model.state_dict().items():
        first, _, rest = key.partition(".")
        state[f"{renamed.get(first, first)}.{rest}"] = value.clone()
    save_file(state, folder / "whole.safetensors")
    return folder / "whole.safetensors"


def test_torchvisions_whole_model_loads(tmp_path):
    torch.manual_seed(0)
    given = create_model("deeplab_v3_resnet50", 3, encoder="resnet18")
    path = saved(given, tmp_path, encoder="backbone")
    loaded = create_model("deeplab_v3_resnet50", 3, encoder="resnet18", weights=path)
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["deeplab_v3_resnet50", "pointrend_r50", "upernet_r50"])
def test_heads_of_another_number_of_classes_start_at_random_and_are_reported(name, tmp_path, caplog):
    torch.manual_seed(0)
    given = create_model(name, 7, encoder="resnet18")
    model = create_model(name, 3, encoder="resnet18", weights=saved(given, tmp_path))
    assert "are for 7 classes and the model has 3" in caplog.text
    last = model.classifiers()[0].weight
    assert next(key for key, value in model.named_parameters() if value is last).rpartition(".")[0] in caplog.text
    state = given.state_dict()
    fits = [key for key, value in model.state_dict().items() if value.shape == state[key].shape]
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in fits)
    assert len(fits) < len(state)


def test_missing_auxiliary_heads_and_those_that_the_model_lacks_are_reported(tmp_path, caplog):
    torch.manual_seed(0)
    whole, bare = (create_model("fcn_resnet50", 3, encoder="resnet18", auxiliary=flag) for flag in (True, False))
    create_model("fcn_resnet50", 3, encoder="resnet18", weights=saved(bare, tmp_path))
    assert "have no auxiliary head: aux_classifier.0" in caplog.text
    caplog.clear()
    create_model("fcn_resnet50", 3, encoder="resnet18", auxiliary=False, weights=saved(whole, tmp_path))
    assert "heads that the model does not: aux_classifier.0" in caplog.text


def test_weights_of_another_model_or_of_a_body_alone_are_refused(tmp_path):
    torch.manual_seed(0)
    other = saved(create_model("pspnet_r50_d8", 3, encoder="resnet18"), tmp_path)
    with pytest.raises(InputError, match=r"are not of this DilatedModel: .*give weights of the same variant"):
        create_model("apcnet_r50_d8", 3, encoder="resnet18", weights=other)
    with pytest.raises(InputError, match=r"set encoder_options \{deep_stem: true\}"):
        create_model("fcn_resnet50", 3, encoder="resnet18", weights=other)
    with pytest.raises(InputError, match=r"of the whole model .* and of its encoder .* leave out encoder_weights"):
        create_model("fcn_resnet50", 3, weights=other, encoder_weights=other)


def test_first_layers_are_adapted_to_other_channels(tmp_path):
    torch.manual_seed(0)
    given = create_model("fcn_resnet50", 3, encoder="resnet18")
    model = create_model("fcn_resnet50", 3, encoder="resnet18", in_channels=1, weights=saved(given, tmp_path))
    torch.testing.assert_close(model.encoder.conv1.weight, given.encoder.conv1.weight.sum(dim=1, keepdim=True))
