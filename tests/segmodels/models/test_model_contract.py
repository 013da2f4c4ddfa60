"""The contract that binds every registered model: what ``create_model`` returns can be counted, trained, saved, copied
and exported.

Parametrised over the registry, so that a new model is held to it without a line here. Variants where a setting is
impossible are listed with the reason. The default tier checks the counts and the behaviour of the smallest variant of
each file of models; the slow tier checks those of the other variants, export, bfloat16, and (test_model_learning.py)
learning.
"""

import copy
import inspect
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_variants import (
    LIBRARY,
    OTHERS,
    SMALL,
    TOO_LARGE,
    build,
    images_for,
    logits_of,
    sizes,
    smallest_of_each_family,
    without_memory,
)
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.inference.observation import deepest_layer, with_maps
from segmodels.models.analysis import count_gmac, count_parameters, on_meta
from segmodels.models.base import Model, PromptableModel
from segmodels.models.registry import model_entry
from segmodels.outputs import PixelOutput, QueryOutput

# Parameters that no loss on the logits reaches: variant -> (prefix of their names, reason).
UNREACHED: dict[str, tuple[str, str]] = {}
# Parameters that depend on the number of classes, though they are no last layer: variant -> (prefixes, reason).
UPSAMPLING = (("upscore.", "upscore_pools."), "the scores themselves are upsampled")
DEPENDENT: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("fcn16s_vgg16", "fcn32s_vgg16", "fcn8s_vgg16"), UPSAMPLING),
    "pointrend_r50": (("point_head.fcs.",), "every layer of the point head sees the coarse scores"),
    "pointrend_rcnn_r50_fpn": (("roi_heads.point_head.fcs.",), "every layer of the point head sees the coarse scores"),
    **dict.fromkeys(
        ("segmenter_t_mask", "segmenter_s_mask", "segmenter_b_mask", "segmenter_l_mask"),
        (("decoder.cls_emb",), "every class has an embedding"),
    ),
    "wnet": (("decoder.contracting.0.",), "the second network rebuilds the image from the segments"),
    "ynet": (("decoder1.", "decoder2.", "decoder3."), "its decoder has as many channels as there are classes"),
}


# --- every variant, on the meta device
# ------------------------------------------------------------------------------------------------------------


SMALLEST = smallest_of_each_family(LIBRARY)


@pytest.mark.parametrize(
    "name", [name if name in SMALLEST else pytest.param(name, marks=pytest.mark.slow) for name in LIBRARY]
)
def test_card_states_paper_and_the_counts_that_the_model_has(name):
    card = model_entry(name).card
    assert card.paper
    assert 1990 < card.year < 2030
    assert card.source, "a count without a source cannot be checked"
    model, images = without_memory(name)
    assert count_parameters(model) == card.parameters
    assert round(count_gmac(model, images), 2) == card.gmac


@pytest.mark.parametrize("name", LIBRARY)
def test_every_model_has_the_interface_and_names_the_layers_that_other_classes_replace(name):
    model, _ = without_memory(name)
    other, _ = on_meta(name, model_entry(name).card.num_classes + 2)
    assert isinstance(model, Model)
    forward = inspect.signature(type(model).forward).parameters
    assert list(forward) == ["self", "images", "guide"]
    assert forward["guide"].default is None

    parameters = dict(model.named_parameters())
    shapes = {key: parameter.shape for key, parameter in other.named_parameters()}
    dependent = {key for key, parameter in parameters.items() if parameter.shape != shapes[key]}
    names = {id(parameter): key for key, parameter in parameters.items()}
    last = {names[id(parameter)] for layer in model.classifiers() for parameter in layer.parameters()}
    assert bool(last) != isinstance(model, PromptableModel), "promptable models know no classes, all others do"
    assert last <= dependent
    assert [key for key in dependent - last if not key.startswith(DEPENDENT.get(name, (("\0",), ""))[0])] == []

    assert model.no_weight_decay() <= parameters.keys()
    grouped = [names[id(parameter)] for group in model.parameter_groups() or [] for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))


def test_importing_models_has_no_side_effects():
    code = (
        "import random, numpy, torch\nstate = torch.get_rng_state(), numpy.random.get_state()[1].copy(),"
        " random.getstate()\nflags = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),"
        " torch.backends.cudnn.benchmark\nfrom segmodels.models.registry import list_models\nassert len(list_models())"
        " > 2\nassert torch.equal(state[0], torch.get_rng_state())\nassert (state[1] =="
        " numpy.random.get_state()[1]).all() and state[2] == random.getstate()\nassert flags =="
        " (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),"
        " torch.backends.cudnn.benchmark)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- behaviour: the smallest variant of each family in the default tier, the others in the slow one
# ---------------------------------------------------

SMALL_THEN_OTHERS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS if name not in TOO_LARGE)]


def tensors_of(extras) -> list[torch.Tensor]:
    return [value for value in torch.utils._pytree.tree_leaves(extras) if isinstance(value, torch.Tensor)]


def loss_of(prediction: PixelOutput | QueryOutput, classes: int) -> torch.Tensor:
    """Cross-entropy of every segmentation against random labels, and the squares of other outputs, so that each output
    sends a gradient back.
    """
    total = torch.zeros(())
    for logits in logits_of(prediction):
        labels = torch.randint(
            classes, (logits.shape[0], *logits.shape[2:]), generator=torch.Generator().manual_seed(2)
        )
        total = total + F.cross_entropy(logits, labels)
    for other in tensors_of(getattr(prediction, "extras", ())):
        total = total + other.square().mean()
    return total


@pytest.fixture
def _repeated_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights repeat after 65,537 numbers: most of the time of building a large model goes into drawing numbers, and
    torch draws those of each layer twice.
    """
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, repeating(getattr(torch.Tensor, name)))


def repeating(draw: Callable[..., torch.Tensor], period: int = 65_537) -> Callable[..., torch.Tensor]:
    def drawn(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if tensor.numel() <= period or not tensor.is_contiguous():
            return draw(tensor, *arguments, **options)
        numbers = tensor.detach().view(-1)
        draw(numbers[:period], *arguments, **options)
        for start in range(period, len(numbers), period):
            numbers[start : start + period] = numbers[: min(period, len(numbers) - start)]
        return tensor

    return drawn


@pytest.mark.usefixtures("_repeated_numbers")
@pytest.mark.parametrize("name", SMALL_THEN_OTHERS)
def test_forward_and_backward_at_batch_2_give_every_parameter_a_gradient(name):
    classes = 2
    model = build(name, classes).train()
    size = sizes(name)[0]
    prediction = model(images_for(name, 2, size))
    assert isinstance(prediction, PixelOutput | QueryOutput)
    for logits in logits_of(prediction):
        assert logits.shape == (2, classes, *size)
    # torch's own kernels take a second for the gradient of 4096 dilated convolutions of 7x7, oneDNN's a minute
    with torch.backends.mkldnn.flags(enabled=False) if name == "deeplab_v1_7x7" else nullcontext():
        loss_of(prediction, classes).backward()
    prefix = UNREACHED.get(name, ("\0",))[0]
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and not key.startswith(prefix):
            assert parameter.grad is not None, f"{key} has no gradient"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {key} is not finite"


@pytest.mark.usefixtures("_repeated_numbers")
@pytest.mark.parametrize("name", SMALL_THEN_OTHERS)
def test_eval_takes_one_image_of_odd_size_with_four_channels_and_is_deterministic(name):
    size = sizes(name)[1]
    model = build(name, 21, in_channels=4).eval()
    images = images_for(name, 1, size, channels=4)
    with torch.inference_mode():
        network: Any = SimpleNamespace(model=model, network=model)
        first, (second, deepest) = model(images), with_maps(network, deepest_layer(network, images), images)
    assert deepest.dim() == images.dim()
    assert deepest[0, 0].numel() < images[0, 0].numel(), "the deepest map, which drift is looked for in"
    assert 1 / 21 <= float(first.confidence()) <= 1
    ((logits,), again) = logits_of(first), logits_of(second)[0]
    assert logits.shape == (1, 21, *size)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, again)
    assert first.auxiliary == (), "auxiliary outputs belong to training mode"
    with pytest.raises(InputError, match="in_channels"):
        model(images[:, :3])


@pytest.mark.usefixtures("_repeated_numbers")
@pytest.mark.parametrize("name", SMALL_THEN_OTHERS)
def test_weights_go_through_safetensors_and_deepcopy_unchanged(name, tmp_path):
    model = build(name).eval()
    images = images_for(name, 1, sizes(name)[0])
    with torch.inference_mode():
        (expected,) = logits_of(model(images))
        torch.manual_seed(1)
        copied = copy.deepcopy(model)
        assert torch.equal(logits_of(copied(images))[0], expected)

        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors"
        )
        other = copied
        for parameter in other.parameters():
            parameter.add_(0.1)
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(logits_of(other(images))[0], expected)
        assert torch.equal(logits_of(model(images))[0], expected), "the copy shares memory with the original"


# --- slow: export, bfloat16
# ------------------------------------------------------------------------------------------------------------


def shortened(model: torch.nn.Module) -> torch.nn.Module:
    """With one of equal blocks in a row of the encoder, and two of the equal layers of each transformer decoder: the
    program of all of them takes minutes, and shows no more.
    """
    for part in (model, getattr(model, "pixel_decoder", None)):
        if isinstance(layers := getattr(part, "layers", None), torch.nn.ModuleList):
            part.layers = layers[:2]
    for row in [one for one in getattr(model, "encoder", model).modules() if type(one) is torch.nn.Sequential]:
        for number in reversed(range(1, len(row))):
            strides = {layer.stride for layer in row[number].modules() if isinstance(layer, torch.nn.Conv2d)}
            if repr(row[number]) == repr(row[number - 1]) and strides == {(1, 1)}:
                del row[number]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_export_keeps_the_outputs_for_another_batch_and_size(name, tmp_path):
    model = shortened(build(name).eval())
    size, _ = sizes(name)
    other_size = (
        tuple(extent + change for extent, change in zip(size, (6, 35, 3), strict=False))
        if model.exportable_sizes
        else size
    )
    axes = {0: torch.export.Dim("batch", min=1, max=8)}
    if model.exportable_sizes:
        axes |= {
            axis: torch.export.Dim.DYNAMIC(min=extent, max=4 * extent) for axis, extent in enumerate(size, start=2)
        }
    program = torch.export.export(model, (images_for(name, 2, size),), dynamic_shapes=(axes,))
    torch.export.save(program, tmp_path / "model.pt2")
    exported = torch.export.load(tmp_path / "model.pt2").module()
    for other in [images_for(name, 1, size), images_for(name, 3, other_size)]:
        with torch.inference_mode():
            (got,), (expected,) = logits_of(exported(other)), logits_of(model(other))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_autocast_trains_and_predicts_finite_values(name):
    model = build(name).train()
    images = images_for(name, 2, sizes(name)[0])
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(images)
        loss = loss_of(prediction, 3)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(logits_of(model(images))[0]).all()
