"""Losses by name and their weighted sums."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from loss_cases import regions, scores

from segmodels.errors import InputError
from segmodels.losses import LOSSES, create_loss, list_losses, loss_class

NAMES = {
    *(
        "cross_entropy",
        "weighted_cross_entropy",
        "binary_cross_entropy",
        "top_k",
        "focal",
        "distance_penalized_cross_entropy",
        "ohem",
    ),
    *(
        "sensitivity_specificity",
        "iou",
        "lovasz_softmax",
        "lovasz_hinge",
        "dice",
        "tversky",
        "focal_tversky",
        "asymmetric_similarity",
    ),
    *(
        "generalized_dice",
        "penalty",
        "boundary",
        "hausdorff",
        "mask_classification",
        "prompted_masks",
        "soft_normalized_cut",
        "reconstruction",
        "ms_ssim",
    ),
    *("border_weighted_cross_entropy", "presence", "object_presence", "points", "image_label", "further"),
    *("detection", "one_stage_detection", "stuff"),
}


def test_every_loss_of_the_literature_is_there_with_its_source_and_use() -> None:
    assert set(list_losses()) == NAMES
    for name in list_losses():
        card, loss = LOSSES[name].card, loss_class(name)
        assert card.source
        assert 10 < len(card.use) < 120
        assert "\n" not in card.use
        assert loss.reads in ("logits", "queries", name)
        assert loss.requires <= {"image_label", "objects"}
        assert loss.__doc__


def test_a_sum_is_the_weighted_terms_each_by_its_name() -> None:
    target = regions(0, 4)
    logits = scores(0, target, 4)
    loss = create_loss({"cross_entropy": 1.0, "dice": {"weight": 0.5, "smooth": 1e-3}, "focal": {"gamma": 1}})
    terms = loss.terms(logits, target)
    assert loss.weights == {"cross_entropy": 1.0, "dice": 0.5, "focal": 1.0}
    assert list(terms) == ["cross_entropy", "dice", "focal"]
    torch.testing.assert_close(loss(logits, target), terms["cross_entropy"] + 0.5 * terms["dice"] + terms["focal"])
    assert terms["dice"] == create_loss({"dice": {"smooth": 1e-3}})(logits, target)
    assert terms["focal"] == create_loss({"focal": {"gamma": 1.0}})(logits, target)


def test_class_weights_go_to_the_terms_that_take_them_and_do_not_set_their_own() -> None:
    target = regions(1, 3)
    logits, weights = scores(1, target, 3), torch.tensor([1.0, 2.0, 5.0])
    loss = create_loss(
        {"cross_entropy": 1.0, "focal": {"class_weights": [1.0, 1.0, 0.0]}, "dice": 1.0}, class_weights=weights
    )
    terms = loss.terms(logits, target)
    assert terms["cross_entropy"] == create_loss({"cross_entropy": {"class_weights": [1.0, 2.0, 5.0]}})(logits, target)
    assert terms["focal"] == create_loss({"focal": {"class_weights": [1.0, 1.0, 0.0]}})(logits, target)
    assert terms["dice"] == create_loss({"dice": 1.0})(logits, target)


def test_class_weights_move_with_the_loss_but_are_no_part_of_a_checkpoint() -> None:
    loss = create_loss({"cross_entropy": 1.0}, class_weights=torch.tensor([1.0, 2.0]))
    assert not loss.state_dict()
    assert next(loss.to(torch.float64).buffers()).dtype == torch.float64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "loss is empty"),
        ({"dise": 1.0}, "unknown loss 'dise': did you mean 'dice'"),
        ({"zzz": 1.0}, "unknown loss 'zzz': choose one of asymmetric_similarity, "),
        ({"dice": {"smoth": 1.0}}, "unknown option 'smoth' of loss 'dice': did you mean 'smooth'"),
        (
            {"dice": {"xyz": 1.0}},
            (
                "unknown option 'xyz' of loss 'dice': choose one of weight, include_background, per_image, reduction,"
                " smooth, squared"
            ),
        ),
        (
            {"dice": {"smooth": "much"}},
            "option 'smooth' of loss 'dice' is 'much', expected a value like its default 1e-05",
        ),
        ({"dice": {"smooth": True}}, "option 'smooth' of loss 'dice' is True"),
        ({"dice": {"squared": 1}}, "option 'squared' of loss 'dice' is 1, expected a value like its default False"),
        ({"dice": {"smooth": -1.0}}, "loss 'dice': smooth is -1, expected at least 0"),
        ({"dice": {"reduction": "mean"}}, "loss 'dice': reduction is 'mean', expected one of macro, micro"),
        ({"dice": -1.0}, "weight of loss 'dice' is -1.0, expected a number of at least 0"),
        ({"dice": {"weight": "1"}}, "weight of loss 'dice' is '1'"),
        ({"dice": float("nan")}, "weight of loss 'dice' is nan"),
        ({"weighted_cross_entropy": 1.0}, "loss 'weighted_cross_entropy': class_weights is not given"),
        ({"cross_entropy": {"class_weights": [1.0, -1.0]}}, r"loss 'cross_entropy': class_weights is \[1.0, -1.0\]"),
        ({"cross_entropy": {"label_smoothing": 2.0}}, "label_smoothing is 2, expected 0..1"),
        ({"tversky": {"fp_weight": -0.1}}, "fp_weight is -0.1"),
        ({"focal_tversky": {"exponent": 0.0}}, "exponent is 0"),
        ({"focal": {"alpha": 0.25}}, "alpha is 0.25 with activation 'softmax', expected 0..1 with 'sigmoid'"),
        ({"focal": {"gamma": -1.0}}, "gamma is -1"),
        ({"top_k": {"k": 0.0}}, "k is 0, expected a percentage"),
        ({"ohem": {"threshold": 0.0}}, "threshold is 0"),
        ({"penalty": {"k": -1.0}}, "k is -1"),
        ({"sensitivity_specificity": {"sensitivity_weight": 2.0}}, "sensitivity_weight is 2"),
        ({"hausdorff": {"alpha": 0.0}}, "alpha is 0"),
        ({"hausdorff": {"alpha": 100.0}}, "alpha is 100, expected an exponent above 0 and at most 20"),
        ({"border_weighted_cross_entropy": {"sigma": 0.0}}, "sigma 0"),
        ({"ms_ssim": {"window": 4}}, "window 4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_loss(config)


def test_class_weights_for_another_number_of_classes_are_refused() -> None:
    target = regions(2, 4)
    with pytest.raises(InputError, match="class_weights has 3 values, expected 4, one per class of the logits"):
        create_loss({"focal": 1.0}, class_weights=torch.ones(3))(scores(2, target, 4), target)
    with pytest.raises(InputError, match="lovasz_hinge got 4 classes, expected 2: use lovasz_softmax"):
        create_loss({"lovasz_hinge": 1.0})(scores(2, target, 4), target)


def test_importing_losses_does_not_import_what_only_some_need() -> None:
    code = (
        "import sys, segmodels.losses; segmodels.losses.create_loss({'lovasz_softmax': 1.0}); assert not {'numba',"
        " 'matplotlib', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
