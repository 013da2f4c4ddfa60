"""Segment Anything against transformers' SamModel: counts, every kind of prompt, everything mode, names of weights."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segmodels import run_lengths
from segmodels.encoders.sam_vit import SamViT
from segmodels.errors import InputError
from segmodels.models.published import load_published
from segmodels.models.registry import create_model
from segmodels.models.sam import SAM
from segmodels.outputs import PromptedOutput
from segmodels.prompts import NO_CLICK, Prompts
from segmodels.tasks.everything import everything
from segmodels.tasks.promptable import PromptableSettings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

SIDE = 64
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def reference() -> nn.Module:
    """A small SamModel; each tensor is drawn from a seed of its own, its name's."""
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": SIDE, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
    )  # fmt: skip
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            drawn = torch.from_numpy(rng.normal(size=tuple(tensor.shape))).float()
            if "norm" in name and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * drawn)
            elif tensor.dim() == 1:
                tensor.copy_(0.2 * drawn)
            elif "pos" in name or "embed" in name or "token" in name:
                tensor.copy_(0.5 * drawn)
            else:
                tensor.copy_(drawn * tensor[0].numel() ** -0.5)
    return model


def ours(state: dict[str, Tensor], folder: Path) -> SAM:
    """Of the same size, with these weights, read from a file as users have it."""
    torch.manual_seed(0)
    encoder = SamViT(32, 3, 2, (1,), image_size=SIDE, window=3, out_channels=32)
    model = SAM(encoder, hidden=64)
    save_file({key: value.clone() for key, value in state.items()}, folder / "weights.safetensors")
    load_published(model, folder / "weights.safetensors")
    return model.eval()


POINTS = np.random.default_rng(0).integers(0, SIDE, (2, 3, 2, 2)).astype(np.float32)
LABELS = np.array([[[1, 0], [1, 1], [0, 1]], [[1, 1], [1, 0], [1, 1]]])
BOXES = np.sort(np.random.default_rng(1).integers(0, SIDE, (2, 3, 2, 2)), axis=2).reshape(2, 3, 4).astype(np.float32)
MASKS = np.random.default_rng(2).normal(0, 4, (2, 1, SIDE // 4, SIDE // 4)).astype(np.float32)
KINDS: dict[str, tuple[int, bool, bool]] = {  # points, boxes, masks
    "click": (1, False, False),
    "clicks": (2, False, False),
    "box": (0, True, False),
    "box and click": (1, True, False),
    "click and mask": (1, False, True),
    "box and mask": (0, True, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_qualities_are_those_of_transformers_for_its_weights(kind: str, tmp_path: Path) -> None:
    """Two images with three prompts each. Theirs count from the centre of the first pixel."""
    count, boxed, masked = KINDS[kind]
    theirs, images = reference(), torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {}
    if count:
        given |= {"input_points": torch.from_numpy(POINTS[:, :, :count])}
        given |= {"input_labels": torch.from_numpy(LABELS[:, :, :count])}
    if boxed:
        given |= {"input_boxes": torch.from_numpy(BOXES)}
    if masked:
        given |= {"input_masks": torch.from_numpy(MASKS)}
    prompts = Prompts(
        tuple(torch.from_numpy(POINTS[:, :, :count]) + 0.5),
        tuple(torch.from_numpy(LABELS[:, :, :count])),
        tuple(torch.from_numpy(BOXES) + 0.5) if boxed else None,
        tuple(torch.from_numpy(MASKS).expand(-1, 3, -1, -1)) if masked else None,
    )
    with torch.inference_mode():
        output = ours(theirs.state_dict(), tmp_path)(images, prompts)
        one = theirs(images, **given, multimask_output=False)
        three = theirs(images, **given, multimask_output=True)
    assert three.pred_masks.abs().max() > 0.5
    for image in range(2):
        if masked:
            torch.testing.assert_close(output.mask_logits[image], one.pred_masks[image, :, 0], **CLOSE)
            torch.testing.assert_close(output.quality[image], one.iou_scores[image, :, 0], **CLOSE)
            continue
        choices = output.choices[image]
        torch.testing.assert_close(choices.mask_logits[:, :1], one.pred_masks[image], **CLOSE)
        torch.testing.assert_close(choices.quality[:, :1], one.iou_scores[image], **CLOSE)
        torch.testing.assert_close(choices.mask_logits[:, 1:], three.pred_masks[image], **CLOSE)
        torch.testing.assert_close(choices.quality[:, 1:], three.iou_scores[image], **CLOSE)
        single = count + boxed == 1
        assert choices.allowed.tolist() == [[not single, single, single, single]] * 3
        best = three.iou_scores[image].argmax(dim=1) if single else torch.zeros(3, dtype=torch.int64)
        chosen = (three if single else one).pred_masks[image, torch.arange(3), best]
        torch.testing.assert_close(output.mask_logits[image], chosen, **CLOSE)


def test_prompts_of_different_numbers_and_kinds_do_not_see_each_other(tmp_path: Path) -> None:
    model, images = ours(reference().state_dict(), tmp_path), torch.randn(1, 3, SIDE, SIDE)
    points = torch.tensor([[[9.0, 8.0], [30.0, 30.0]], [[50.0, 5.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 0], [1, NO_CLICK], [NO_CLICK, NO_CLICK]])
    boxes = torch.tensor([[float("nan")] * 4, [float("nan")] * 4, [5.0, 6.0, 40.0, 50.0]])
    with torch.inference_mode():
        answer = model(images)
        together = answer(Prompts((points,), (labels,), (boxes,)))
        alone = [
            answer(Prompts((points[:1],), (labels[:1],))),
            answer(Prompts((points[1:2, :1],), (labels[1:2, :1],))),
            answer(Prompts((points[2:, :0],), (labels[2:, :0],), (boxes[2:],))),
        ]
    for number, own in enumerate(alone):
        torch.testing.assert_close(together.mask_logits[0][number], own.mask_logits[0][0], **CLOSE)
        torch.testing.assert_close(together.quality[0][number], own.quality[0][0], **CLOSE)


@pytest.mark.parametrize("size", [(48, 64), (64, 30), (96, 128)])
def test_images_of_other_sizes_lie_in_the_square_as_transformers_processor_puts_them(
    size: tuple[int, int], tmp_path: Path
) -> None:
    theirs = reference()
    model = ours(theirs.state_dict(), tmp_path)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    scale = SIDE / max(size)
    seen = [round(length * scale) for length in size]
    inside = image if scale == 1 else nn.functional.interpolate(image, seen, mode="bilinear", antialias=True)
    square = torch.zeros(1, 3, SIDE, SIDE)
    square[..., : seen[0], : seen[1]] = inside
    point = torch.tensor([[[20.0, 30.0]]])
    with torch.inference_mode():
        output: PromptedOutput = model(image, Prompts((point,), (torch.ones(1, 1, dtype=torch.int64),)))
        expected = theirs(square, input_points=(point * scale - 0.5)[None])
        full = nn.functional.interpolate(expected.pred_masks[0], (SIDE, SIDE), mode="bilinear", align_corners=False)
        full = full[..., : seen[0], : seen[1]]
        full = nn.functional.interpolate(full, (40, 50), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output.at(output.choices[0].mask_logits[:, 1:], (40, 50)), full, **CLOSE)
    (result,) = output.objects([(40, 50)])
    best = int(expected.iou_scores[0, 0].argmax())
    np.testing.assert_array_equal(result.mask(0), full[0, best].numpy() > 0)


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """What torchvision's nms keeps, by its definition."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = boxes[i].tolist()
        for j in kept:
            other = boxes[j].tolist()
            across = max(0.0, min(right, other[2]) - max(left, other[0]))
            down = max(0.0, min(bottom, other[3]) - max(top, other[1]))
            whole = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1]) - across * down
            if whole > 0 and across * down / whole > threshold:
                break
        else:
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def sure_of_small_masks() -> nn.Module:
    """As after training: estimates of the IoU near 0.9, masks that are small, lie elsewhere for each click, and have
    clear borders.
    """
    model = reference()
    decoder = model.mask_decoder
    with torch.no_grad():
        decoder.iou_prediction_head.proj_out.bias.fill_(0.9)
        decoder.iou_prediction_head.proj_out.weight.mul_(0.2)
        model.shared_image_embedding.positional_embedding.mul_(2)
        for layer in decoder.transformer.layers:  # cells see the tokens of places near them
            attention = layer.cross_attn_image_to_token
            attention.k_proj.weight.copy_(4 * attention.q_proj.weight)
        decoder.upscale_conv2.weight[:, 0] = 0  # one channel is the same everywhere, and lowers all logits
        decoder.upscale_conv2.bias[0] = 1
        for layer in decoder.output_hypernetworks_mlps:
            layer.proj_out.weight[0] = 0
            layer.proj_out.weight.mul_(1000)
            layer.proj_out.bias.mul_(1000)
            layer.proj_out.bias[0] = -300
    return model


def test_everything_is_what_transformers_mask_generation_finds(tmp_path: Path) -> None:
    """By the settings of both: estimated IoU above 0.88, stability above 0.95 at an offset of 1, boxes' IoU to 0.7."""
    from transformers.models.sam import image_processing_pil_sam as processing

    theirs = sure_of_small_masks()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, SIDE, 3), dtype=np.uint8))
    processor = processing.SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, mask_pad_size={"height": 16, "width": 16}
    )
    inputs = processor(image, return_tensors="pt")
    crop, grid, _, labels = processor.generate_crop_boxes(image, SIDE, points_per_crop=20)
    with torch.inference_mode():
        grid, labels = torch.as_tensor(grid), torch.as_tensor(labels)
        outputs = theirs(inputs["pixel_values"], input_points=grid, input_labels=labels)
        size = [image.size[::-1]]
        full = processor.post_process_masks(outputs.pred_masks, size, size, binarize=False)
        masks, scores, boxes = processor.filter_masks(
            full[0], outputs.iou_scores[0], size[0], torch.as_tensor(crop)[0].tolist()
        )
    kept = greedy(boxes.float(), scores, 0.7)
    assert 8 <= len(kept) < len(masks) < 20 * 20 * 3
    expected = np.stack([processing._rle_to_mask(masks[i]) for i in kept.tolist()])

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
    with torch.inference_mode():
        answer = ours(theirs.state_dict(), tmp_path)(pixels[None])
        (found,) = everything(answer, pixels[None], size, PromptableSettings(grid=20))
    np.testing.assert_allclose(found.scores, scores[kept].numpy(), atol=1e-4)
    own = run_lengths.decode(found.masks, found.size)[:, None]
    ious = (own & expected).sum(axis=(2, 3)) / (own | expected).sum(axis=(2, 3))
    rows, columns = linear_sum_assignment(-ious)  # whatever the order of nearly equal scores
    assert len(own) == len(expected)
    assert ious[rows, columns].min() >= 0.999


@pytest.mark.parametrize(("name", "count"), [("sam_b", 93_735_728), ("sam_l", 312_343_088), ("sam_h", 641_090_864)])
def test_all_parameters_with_the_fixed_frequencies_are_as_many_as_in_transformers(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in create_model(name, 1).parameters()) == count


def test_the_authors_file_loads_as_it_is_and_other_variants_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("sam_tiny", 1)
    assert {
        "image_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.blocks.5.mlp.lin2.bias",
        "image_encoder.neck.3.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.point_embeddings.3.weight",
        "prompt_encoder.mask_downscaling.6.bias",
        "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.weight",
        "mask_decoder.iou_prediction_head.layers.0.weight",
        "mask_decoder.output_upscaling.3.weight",
    } <= model.state_dict().keys()
    torch.save({key: value + 1 for key, value in model.state_dict().items()}, tmp_path / "sam_tiny.pth")
    copied = create_model("sam_tiny", 1, weights=tmp_path / "sam_tiny.pth").state_dict()
    assert all(torch.equal(copied[key], value + 1) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"not of this SAM: of \d+ tensors .*give weights of the same"):
        create_model("sam_tiny", 1, weights=tmp_path / "sam_tiny.pth", encoder_options={"out_channels": 64})
    torch.save(model, tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        create_model("sam_tiny", 1, weights=tmp_path / "pickled.pth")


def test_positions_of_another_image_size_are_resampled_and_the_encoder_alone_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("sam_tiny", 1)
    torch.save(model.state_dict(), tmp_path / "sam_tiny.pth")
    larger = create_model("sam_tiny", 1, weights=tmp_path / "sam_tiny.pth", encoder_options={"image_size": 256})
    assert larger.image_encoder.pos_embed.shape == (1, 16, 16, 192)
    assert larger.image_encoder.blocks[2].attn.rel_pos_h.shape == (31, 64)
    body = create_model("sam_tiny", 1, encoder_weights=tmp_path / "sam_tiny.pth").image_encoder.state_dict()
    assert all(torch.equal(body[key], value) for key, value in model.image_encoder.state_dict().items())


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_every_parameter_has_a_gradient_whatever_the_prompts_are(counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = create_model("sam_tiny", 1)
    points = tuple(torch.full((count, 1, 2), 40.0) for count in counts)
    labels = tuple(torch.ones(count, 1, dtype=torch.int64) for count in counts)
    output = model(torch.randn(2, 3, 128, 128), Prompts(points, labels))
    total = sum(own.sum() for own in (*output.mask_logits, *output.quality))
    assert isinstance(total, Tensor)
    total.backward()
    without = [name for name, own in model.named_parameters() if own.requires_grad and own.grad is None]
    assert without == []
    assert [len(own) for own in output.mask_logits] == list(counts)


def test_options_that_do_not_fit_are_named() -> None:
    with torch.device("meta"):
        with pytest.raises(InputError, match="encoder of SAM is 'resnet18', expected one of sam_vit_tiny"):
            create_model("sam_tiny", 1, encoder="resnet18")
        with pytest.raises(InputError, match="image_size of SamViT is 100 and window 4, expected a multiple of 16"):
            create_model("sam_tiny", 1, encoder_options={"image_size": 100})
        with pytest.raises(InputError, match="out_channels of SAM's encoder is 24, expected a multiple of 16"):
            create_model("sam_tiny", 1, encoder_options={"out_channels": 24})
        with pytest.raises(InputError, match="passes of SAM is 0, expected at least 1"):
            create_model("sam_tiny", 1, passes=0)
