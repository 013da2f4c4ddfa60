"""Parameters counted on mmsegmentation 1.2.2 that no model card states: those at other numbers of classes, and those of
the parts of a model.
"""

import pytest
import torch

from segmodels.models.analysis import count_gmac, count_parameters, on_meta
from segmodels.models.unet import UNetOriginal

RESNET_D8 = {50: 23_527_264, 101: 42_519_392}  # with a deep stem
AUXILIARY_HEAD = {19: 2_364_691, 21: 2_365_205, 150: 2_398_358}  # by classes

# Variant, depth of its body, classes: parameters in training, of which in what mmseg counts as the head.
DILATED = [
    ("fcn_r50_d8", 50, 19, 49_497_734, 23_605_779),
    ("fcn_r101_d8", 101, 21, 68_491_402, 23_606_805),
    ("deeplab_v3_r50_d8", 50, 19, 68_113_030, 42_221_075),
    ("deeplab_v3_plus_r50_d8", 50, 19, 43_589_878, 17_697_923),
    ("deeplab_v3_plus_r101_d8", 101, 21, 62_583_546, 17_698_949),
    ("pspnet_r50_d8", 50, 19, 48_975_494, 23_083_539),
    ("pspnet_r50_d8", 50, 150, 49_076_364, 23_150_742),
    ("upernet_r50", 50, 19, 66_415_238, 40_523_283),
    ("upernet_r50", 50, 150, 66_516_108, 40_590_486),
    ("encnet_r50_d8", 50, 19, 35_891_961, 10_000_006),
    ("encnet_r50_d8", 50, 150, 36_060_034, 10_134_412),
    ("psanet_r50_d8", 50, 19, 59_138_694, 33_246_739),
    ("apcnet_r50_d8", 50, 19, 56_357_560, 30_465_605),
    ("apcnet_r50_d8", 50, 150, 56_458_430, 30_532_808),
    ("dmnet_r50_d8", 50, 19, 53_175_942, 27_283_987),
    ("dmnet_r50_d8", 50, 150, 53_276_812, 27_351_190),
    ("knet_fcn_r50_d8", 50, 150, 62_810_508, 36_884_886),
    ("knet_pspnet_r50_d8", 50, 150, 62_288_268, 36_362_646),
    ("knet_deeplab_v3_r50_d8", 50, 150, 81_425_804, 55_500_182),
    ("knet_upernet_r50", 50, 150, 79_728_012, 53_802_390),
]


@pytest.mark.parametrize(("name", "depth", "classes", "total", "head"), DILATED)
def test_body_head_and_auxiliary_head_have_the_references_parameters(name, depth, classes, total, head):
    assert total == RESNET_D8[depth] + head + AUXILIARY_HEAD[classes], "the table of the test itself"
    model, _ = on_meta(name, classes)
    assert count_parameters(model) == total
    assert count_parameters(model.encoder) == RESNET_D8[depth]
    assert count_parameters(model.aux_classifier) == AUXILIARY_HEAD[classes]


@pytest.mark.parametrize(
    ("name", "classes", "neck", "head"),
    [
        ("semantic_fpn_r50", 19, 3_344_384, 1_626_259),
        ("semantic_fpn_r50", 150, 3_344_384, 1_643_158),
        ("pointrend_r50", 19, 3_344_384, 1_843_471),
        ("pointrend_r50", 150, 3_344_384, 2_016_784),
    ],
)
def test_pyramid_and_head_have_the_references_parameters(name, classes, neck, head):
    model, _ = on_meta(name, classes)
    assert count_parameters(model.encoder) == RESNET_D8[50]
    assert count_parameters(model.fpn) == neck
    assert count_parameters(model) == RESNET_D8[50] + neck + head


@pytest.mark.parametrize(
    ("name", "body", "head"),
    [
        ("ocrnet_hr18s", 3_860_720, 2_517_776),
        ("ocrnet_hr18", 9_562_260, 2_517_776),
        ("ocrnet_hr48", 65_325_120, 5_046_326),
        ("ocrnet_r101_d8", 42_519_392, 12_996_902),
    ],
)
def test_ocrnet_has_the_references_parameters(name, body, head):
    model, _ = on_meta(name, 19)
    assert (count_parameters(model.encoder), count_parameters(model)) == (body, body + head)


@pytest.mark.parametrize(
    ("name", "body", "head", "auxiliary"),
    [("bisenet_v1_r18", 12_680_320, 595_219, 150_182), ("bisenet_v1_r50", 47_414_592, 9_458_707, 2_370_086)],
)
def test_bisenet_has_the_references_parameters(name, body, head, auxiliary):
    """mmseg counts both paths and their fusion as the body."""
    model, _ = on_meta(name, 19)
    parts = (model.context_path, model.spatial_path, model.fusion)
    assert sum(map(count_parameters, parts)) == body
    assert (count_parameters(model.head), count_parameters(model.auxiliary_heads)) == (head, auxiliary)
    assert count_parameters(model) == body + head + auxiliary


@pytest.mark.parametrize(("name", "gmac"), [("apcnet_r50_d8", 204.58), ("dmnet_r50_d8", 195.99)])
def test_multiply_accumulates_at_150_classes(name, gmac):
    assert round(count_gmac(*on_meta(name, 150)), 2) == gmac


def test_u_net_as_wide_as_unet_plus_plus_has_the_papers_parameters():
    with torch.device("meta"):
        assert count_parameters(UNetOriginal(1, 3, [32, 64, 128, 256, 512])) == 7_760_097
