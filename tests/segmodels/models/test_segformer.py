"""SegFormer against transformers: counts, and logits and loss for copied weights."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from segmodels.models.registry import create_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")


def test_logits_and_loss_are_those_of_transformers_for_its_weights(tmp_path):
    torch.manual_seed(0)
    config = transformers.SegformerConfig(num_labels=5)
    reference = transformers.SegformerForSemanticSegmentation(config).eval()
    for name, tensor in reference.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0) if name.endswith(("weight", "var")) else tensor.uniform_(-0.5, 0.5)
        elif tensor.dim() > 1:
            tensor.mul_(3)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    model = create_model("segformer_b0", 5, weights=tmp_path / "weights.safetensors").eval()
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96))
    with torch.inference_mode():
        expected = reference(images, labels=labels)
        logits = model(images).logits
    theirs = F.interpolate(expected.logits, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(F.cross_entropy(logits, labels), expected.loss, rtol=1e-4, atol=1e-4)


def test_the_decoder_learns_ten_times_as_fast():
    with torch.device("meta"):
        model = create_model("segformer_b0", 5)
    (group,) = model.parameter_groups()
    assert group["lr_factor"] == 10
    body = {id(parameter) for parameter in model.encoder.parameters()}
    assert {id(parameter) for parameter in group["params"]} == {id(p) for p in model.parameters()} - body


def test_the_authors_files_load_with_the_layer_that_nothing_reads(tmp_path):
    torch.manual_seed(0)
    model = create_model("segformer_b0", 5)
    official = {}
    for key, value in model.state_dict().items():
        name = key.replace("encoder.", "backbone.") if key.startswith("encoder.") else f"decode_head.{key}"
        if "linear_c" in key:
            name = (
                name.replace("linear_c", "linear_c", 1)
                .replace(".weight", ".proj.weight")
                .replace(".bias", ".proj.bias")
            )
        official[name.replace("linear_fuse.norm", "linear_fuse.bn")] = value + 1
    official |= {"decode_head.conv_seg.weight": torch.zeros(5, 128, 1, 1), "decode_head.conv_seg.bias": torch.zeros(5)}
    save_file(official, tmp_path / "official.safetensors")
    copied = create_model("segformer_b0", 5, weights=tmp_path / "official.safetensors").state_dict()
    assert all(torch.equal(copied[key], value + 1) for key, value in model.state_dict().items())
