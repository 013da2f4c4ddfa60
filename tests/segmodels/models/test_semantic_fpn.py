"""Semantic FPN: the counts of mmseg's form, group norm in the paper's, the branch's steps and sum."""

import pytest
from torch import nn

from segmodels.models.analysis import count_gmac, count_parameters, on_meta


@pytest.mark.parametrize(("num_classes", "parameters", "gmac"), [(19, 28_497_907, 45.27), (150, 28_514_806, 45.54)])
def test_counts_of_mmseg_for_both_data_sets(num_classes, parameters, gmac):
    model, images = on_meta("semantic_fpn_r50", num_classes)
    assert count_parameters(model) == parameters
    assert round(count_gmac(model, images), 2) == gmac


@pytest.mark.parametrize(
    ("name", "norm", "other"),
    [("semantic_fpn_resnet50", nn.GroupNorm, nn.BatchNorm2d), ("semantic_fpn_r50", nn.BatchNorm2d, nn.GroupNorm)],
)
def test_papers_branch_has_group_norm_and_mmsegs_batch_norm(name, norm, other):
    model, _ = on_meta(name)
    kinds = [type(module) for module in model.branch.modules()]
    assert kinds.count(norm) == 7
    assert other not in kinds


def test_classes_are_scored_at_stride_4():
    model, images = on_meta("semantic_fpn_resnet50", 19, (128, 128))
    assert model.branch(model.fpn(model.encoder(images)[-4:])).shape == (1, 128, 32, 32)
