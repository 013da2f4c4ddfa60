"""Auxiliary heads: in training only, and not in what is kept of it."""

from pathlib import Path

import pytest
import torch
from model_variants import LIBRARY, smallest_of_each_family, without_memory
from safetensors.torch import load_file

from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.labels import LabelMap
from segmodels.models.analysis import on_meta
from segmodels.models.registry import create_model, model_options
from segmodels.outputs import PixelOutput
from segmodels.tasks.registry import create_task

LABELS = LabelMap(("background", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), {0: 0, 7: 1, 8: 2})
KEPT = {
    "unet_plus_plus": "its heads are the outputs of the smaller networks that it can be pruned to",
    "deeplab_v2_resnet101": "its scores at each scale come from the same weights",
    "ocrnet_hr18s": "its coarse scores make the regions that positions attend to",
}
SMALL = {
    "attention_unet_original": {"widths": [4, 6, 8, 10]},
    "bisenet_v1_resnet18": {},
    "bisenet_v2": {},
    "fcn_resnet50": {"encoder": "resnet18"},
    "unet_3_plus": {"widths": [4, 6, 8], "classification_guided": True},
}


@pytest.mark.parametrize("name", smallest_of_each_family(LIBRARY))
def test_what_has_auxiliary_outputs_in_training_has_an_option_that_leaves_out_their_weights_alone(name: str) -> None:
    model, image = without_memory(name)
    images = torch.empty(2, image.shape[1], 128, 128, device="meta")
    output = model.train()(images)
    if "auxiliary" not in model_options(name):  # each layer of a decoder answers by the heads of the last one
        assert not isinstance(output, PixelOutput) or not output.auxiliary or name in KEPT
        return
    assert output.auxiliary
    bare, _ = on_meta(name, auxiliary=False)
    assert bare.train()(images).auxiliary == ()
    assert bare.state_dict().keys() < model.state_dict().keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_bundle_predicts_the_same_without_them(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3, **SMALL[name])
    images = torch.randn(2, 3, 64, 64)
    heads = len(model(images).auxiliary)
    assert heads > 0
    save_bundle(
        tmp_path,
        model,
        name=name,
        options=SMALL[name],
        task=create_task("semantic", LABELS),
        mean=(1, 2, 3),
        std=(4, 5, 6),
        lineage={},
    )
    bundle = load_bundle(tmp_path)
    assert bundle.options == {**SMALL[name], "auxiliary": False}
    assert load_file(tmp_path / "weights.safetensors").keys() < model.state_dict().keys()
    assert bundle.model.train()(images).auxiliary == ()
    fresh = load_bundle(tmp_path).model
    assert torch.equal(fresh(images).logits, model.eval()(images).logits)
