"""MaskFormer against transformers: every layer's output and the loss for its weights; what it learns at which rate."""

import os

import pytest
import torch
from query_references import (
    CLASSES,
    OUT,
    RESNET,
    SWIN,
    assert_same,
    drawn,
    labels_of,
    resnet,
    scene,
    swin,
    with_weights_of,
)
from torch import nn

from segmodels.losses import create_loss
from segmodels.losses.mask_classification import MaskClassificationLoss
from segmodels.models.maskformer import MaskFormer
from segmodels.models.registry import create_model, model_entry
from segmodels.tasks.targets import SegmentTargets

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")


def reference(body: str) -> nn.Module:
    backbone = transformers.SwinConfig(**SWIN, **OUT) if body == "swin" else transformers.ResNetConfig(**RESNET, **OUT)
    decoder = transformers.DetrConfig(
        decoder_layers=3, d_model=64, decoder_ffn_dim=96, num_queries=7, backbone_config=transformers.ResNetConfig(),
        use_timm_backbone=False,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=64, mask_feature_size=32, num_labels=CLASSES
    )
    return drawn(transformers.MaskFormerForInstanceSegmentation(config))


@pytest.mark.parametrize(("body", "size"), [("swin", (75, 92)), ("resnet", (64, 96))])
def test_outputs_and_losses_are_those_of_transformers_for_its_weights(body, size, tmp_path):
    theirs = reference(body)
    small = {"queries": 7, "channels": 64, "mask_channels": 32, "layers": 3, "hidden": 96, "dropout": 0.0}
    ours = MaskFormer({"swin": swin, "resnet": resnet}[body](), CLASSES, **small)
    ours = with_weights_of(theirs, ours, tmp_path)
    images, segments = scene(size)
    with torch.no_grad():
        expected = theirs(images, **labels_of(segments), output_hidden_states=True)
        output = ours(images)
        assert output.size == size
        assert_same(output, expected.class_queries_logits, expected.masks_queries_logits)
        torch.testing.assert_close(MaskClassificationLoss()(output, segments), expected.loss[()], rtol=1e-4, atol=1e-4)

        for module in (ours, *ours.layers):  # the decoder's layers one by one, the encoder as in evaluation
            module.training = True
        layers = ours(images)
        normed = [theirs.model.transformer_module.decoder.layernorm(x)
                  for x in expected.transformer_decoder_hidden_states[-3:-1]]  # fmt: skip
        auxiliary = [
            (theirs.class_predictor(x),
             torch.einsum("bqc,bchw->bqhw", theirs.mask_embedder(x), expected.pixel_decoder_last_hidden_state))
            for x in normed
        ]  # fmt: skip
        for own, (class_logits, mask_logits) in zip(layers.auxiliary, auxiliary, strict=True):
            assert_same(own, class_logits, mask_logits)
        in_theirs = [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in auxiliary]
        terms = theirs.get_loss_dict(
            expected.masks_queries_logits, expected.class_queries_logits, *labels_of(segments).values(), in_theirs
        )
        criterion = create_loss(model_entry("maskformer_swin_t").card.losses)
        targets = SegmentTargets(segments, torch.zeros(2, *size, dtype=torch.uint8))
        total = sum(criterion(layer, targets) for _, layer in layers.layers((1.0,)))
    torch.testing.assert_close(total, sum(terms.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "share"), [("maskformer_r50", 0.1), ("mask2former_swin_t", 0.1)])
def test_the_encoder_learns_at_the_papers_share_and_embeddings_do_not_decay(name, share):
    with torch.device("meta"):
        model = create_model(name, 5)
    (group,) = model.parameter_groups()
    assert group["lr_factor"] == share
    assert {id(p) for p in group["params"]} == {id(p) for p in model.encoder.parameters()}
    assert {"query_embed.weight"} <= model.no_weight_decay() <= dict(model.named_parameters()).keys()
    with torch.device("meta"):
        assert create_model("maskformer_swin_t", 5).parameter_groups() is None


def test_layer_wise_decay_of_the_encoder_multiplies_the_papers_share():
    with torch.device("meta"):
        model = MaskFormer(create_model("maskformer_r50", 5).encoder, 5, encoder_rate=0.1)
    layers = list(model.encoder.children())
    model.encoder.parameter_groups = lambda: [{"params": list(layers[0].parameters()), "lr_factor": 0.5}]
    groups = model.parameter_groups()
    assert [group["lr_factor"] for group in groups] == [0.05, 0.1]
    places = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(places) == sorted(id(parameter) for parameter in model.encoder.parameters())
