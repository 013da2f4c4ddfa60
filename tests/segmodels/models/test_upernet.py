"""UPerNet: equal to transformers' heads with the same weights; which level each task reads."""

import pytest
import torch
from torch import nn

from segmodels.encoders.registry import create_encoder
from segmodels.errors import InputError
from segmodels.losses import create_loss
from segmodels.models.analysis import count_gmac, count_parameters, on_meta
from segmodels.models.registry import create_model, model_entry
from segmodels.models.upernet import UPerNet
from segmodels.tasks.targets import SemanticTargets

TASKS = {"scene": 7, "part": 5, "material": 4, "texture": 6}


@pytest.mark.parametrize(("num_classes", "parameters", "gmac"), [(19, 66_415_238, 236.76), (150, 66_516_108, 237.86)])
def test_counts_of_mmseg_for_both_data_sets(num_classes, parameters, gmac):
    model, images = on_meta("upernet_r50", num_classes)
    assert count_parameters(model) == parameters
    assert round(count_gmac(model, images), 2) == gmac


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand_like(tensor) if tensor.dim() == 1 else 0.05 * torch.randn_like(tensor))
    return module.eval()


def copy_in_order(target: nn.Module, source: list[torch.Tensor]) -> None:
    own = target.state_dict()
    target.load_state_dict(dict(zip(own, source, strict=True)))


def test_heads_compute_what_transformers_do_with_the_same_weights():
    from transformers import UperNetConfig  # takes two seconds, which other tests' processes need not spend
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    config = UperNetConfig(hidden_size=24, num_labels=5, auxiliary_in_channels=256, auxiliary_channels=64)
    reference = randomise(UperNetHead(config, [64, 128, 256, 512]))
    reference_auxiliary = randomise(UperNetFCNHead(config, [64, 128, 256, 512]))
    model = UPerNet(create_encoder("resnet18"), 5, channels=24)
    theirs = reference.state_dict()
    classifier = [theirs.pop("classifier.weight"), theirs.pop("classifier.bias")]
    copy_in_order(model.decoder, list(theirs.values()))
    copy_in_order(model.conv_seg, classifier)
    copy_in_order(model.aux_classifier, list(reference_auxiliary.state_dict().values()))
    model.eval()
    maps = [
        torch.randn(2, channels, *size)
        for channels, size in zip((64, 128, 256, 512), ((25, 33), (13, 17), (7, 9), (4, 5)), strict=True)
    ]
    with torch.no_grad():
        torch.testing.assert_close(model.conv_seg(model.decoder(maps).fused), reference(maps), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.aux_classifier(maps[2]), reference_auxiliary(maps), atol=1e-4, rtol=1e-4)


@pytest.fixture
def multitask():
    torch.manual_seed(0)
    return create_model("upernet_r50_multitask", 3, encoder="resnet18", tasks=TASKS)


@pytest.mark.parametrize("training", [True, False])
def test_every_task_has_logits_in_training_and_evaluation(multitask, training):
    with torch.no_grad():
        prediction = multitask.train(training)(torch.randn(2, 3, 75, 53))
    assert prediction.logits.shape == (2, 3, 75, 53)
    assert len(prediction.auxiliary) == training
    assert {task: tuple(logits.shape) for task, logits in prediction.extras["further"].items()} == {
        "scene": (2, 7),
        "part": (2, 5, 75, 53),
        "material": (2, 4, 75, 53),
        "texture": (2, 6, 75, 53),
    }


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("scene", {"encoder", "pooling"}),
        ("material", {"encoder", "pooling", "laterals.0", "laterals.1", "laterals.2", "outputs.0"}),
        (
            "part",
            {
                "encoder",
                "pooling",
                "laterals.0",
                "laterals.1",
                "laterals.2",
                "outputs.0",
                "outputs.1",
                "outputs.2",
                "fuse",
            },
        ),
        ("texture", set()),
    ],
)
def test_each_task_trains_the_levels_it_reads(multitask, task, expected):
    multitask.train()(torch.randn(2, 3, 64, 64)).extras["further"][task].square().mean().backward()
    reached = {key for key, parameter in multitask.named_parameters() if parameter.grad is not None}
    parts = {key.removeprefix("decoder.") for key in reached if not key.startswith("task_heads.")}
    levels = {".".join(key.split(".")[: 2 if key.startswith(("laterals", "outputs")) else 1]) for key in parts}
    assert levels == expected
    assert {key.split(".")[1] for key in reached if key.startswith("task_heads.")} == {task}


def test_heads_with_labels_train_and_the_others_have_a_gradient_of_zero(multitask):
    loss = create_loss(model_entry("upernet_r50_multitask").card.losses)
    targets = SemanticTargets(
        torch.randint(3, (2, 64, 64), dtype=torch.uint8),
        image_label=torch.tensor([6, 0]),
        further={"part": torch.randint(5, (2, 64, 64), dtype=torch.uint8)},
    )
    output = multitask.train()(torch.randn(2, 3, 64, 64))
    terms = loss.terms(output, targets)
    assert terms.keys() == {"cross_entropy", "further"}
    loss.total(terms).backward()
    heads = {key: parameter.grad for key, parameter in multitask.named_parameters() if key.startswith("task_heads.")}
    assert all(gradient is not None for gradient in heads.values()), "data-parallel training waits for every gradient"
    trained = {key.split(".")[1] for key, gradient in heads.items() if gradient.any()}
    assert trained == {"scene", "part"}


def test_heads_without_labels_can_be_left_out():
    with torch.device("meta"):
        whole = create_model("upernet_r50_multitask", 3)
        part = create_model("upernet_r50_multitask", 3, tasks={"part": 152})
    assert set(whole.task_heads) == {"scene", "part", "material", "texture"}
    assert set(part.task_heads) == {"part"}
    assert part.state_dict().keys() < whole.state_dict().keys()


def test_texture_is_read_from_the_encoders_map_at_stride_4(multitask):
    multitask.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = multitask(images).extras["further"]
        for parameter in multitask.encoder.layer2.parameters():
            parameter.zero_()
        after = multitask(images).extras["further"]
    assert torch.equal(before["texture"], after["texture"])
    assert not torch.allclose(before["part"], after["part"])
    widths = [layer.out_channels for layer in multitask.task_heads["texture"].modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [128, 128, 128, 128, 6]


def test_the_objects_head_of_the_paper_has_a_3x3_convolution_as_those_of_parts_and_materials():
    with torch.device("meta"):
        heads = create_model("upernet_r50_multitask", 3)
        semantic = create_model("upernet_r50", 3)
    assert [tuple(p.shape) for p in heads.object_conv.parameters()] == [
        tuple(p.shape) for p in heads.task_heads["part"][0].parameters()
    ]
    assert not list(semantic.object_conv.parameters())


def test_without_tasks_there_are_no_heads_for_them():
    semantic, _ = on_meta("upernet_r50")
    multitask, _ = on_meta("upernet_r50_multitask", num_classes=150, tasks=None)
    assert semantic.state_dict().keys() == multitask.state_dict().keys()
    assert create_model("upernet_r50", 2, encoder="resnet18").eval()(torch.randn(1, 3, 64, 64)).extras == {}


def test_unknown_task_names_the_known_ones():
    with pytest.raises(InputError, match="texture"):
        create_model("upernet_r50", 2, encoder="resnet18", tasks={"textures": 3})


@pytest.mark.slow
def test_tasks_export(multitask):
    multitask.eval()
    axes = {0: torch.export.Dim("batch", min=1, max=8)} | {
        axis: torch.export.Dim.DYNAMIC(min=64, max=256) for axis in (2, 3)
    }
    program = torch.export.export(multitask, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(axes,)).module()
    images = torch.randn(1, 3, 99, 131)
    with torch.inference_mode():
        expected, got = multitask(images).extras["further"], program(images).extras["further"]
    assert list(got) == list(expected)
    for task, logits in expected.items():
        torch.testing.assert_close(got[task], logits, atol=1e-4, rtol=1e-4)
