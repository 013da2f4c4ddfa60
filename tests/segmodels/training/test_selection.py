"""Which weights of a training are kept: none that are not finite, and the newest where nothing scores them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from test_fit import LABELS, new_fit, recorded
from torch import nn

from segmodels.errors import InputError
from segmodels.finite import all_finite


def test_without_labelled_validation_images_the_newest_weights_are_kept_and_a_sentence_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    fit = new_fit(tmp_path, epochs=4, patience=1, warn=said.append)
    for batch in fit.validation:
        for annotation in batch.annotations:
            annotation.classes[:] = LABELS.ignore_index
    best = fit.run()
    assert (fit.progress.epoch, fit.progress.best_epoch) == (4, 3)
    for name, value in fit.model.state_dict().items():
        assert torch.equal(value, best[name]), name
    assert said == ["nothing in the validation images defines val/miou, which chooses weights: the newest are kept"]


def test_a_training_whose_loss_is_not_finite_stops_and_its_metrics_show_it(tmp_path: Path) -> None:
    said: list[str] = []
    fit = new_fit(tmp_path, epochs=5, warn=said.append)
    fit.optimisation.factor = lambda share: 1.0 if share < 0.55 else 1e30  # from the last step of epoch 3 on
    epochs = recorded(fit)
    with pytest.raises(InputError, match=r"loss of epoch 4 is nan \(.*cross_entropy.*learning rate 2e\+28\)"):
        fit.run()
    assert [epoch for epoch, _ in epochs] == [0, 1, 2, 3]
    assert math.isnan(epochs[-1][1]["train/loss"])
    assert fit.progress.best_epoch < 2  # the last of finite weights
    assert all_finite(fit.state.best)
    assert len(said) == 1
    assert "weights of epoch 3 are not kept" in said[0]


@pytest.mark.parametrize("fault", ["weights", "outputs", "huge outputs"])
def test_weights_that_are_not_finite_or_predict_what_is_not_are_never_kept(tmp_path: Path, fault: str) -> None:
    fit = new_fit(tmp_path, epochs=2, ema=0.9)
    assert fit.average

    def spoil(_model: nn.Module) -> None:  # the average, which is validated; training does not see it
        average = fit.average.model  # type: ignore[union-attr]
        average.head.bias.data.fill_({"outputs": math.inf, "huge outputs": 1e5}.get(fault, 0.0))
        average.auxiliary_head.bias.data.fill_(math.nan if fault == "weights" else 0.0)  # without effect on outputs

    fit.average.after_step = spoil
    epochs = recorded(fit)
    said = r"no weights of its 2 validations .* epoch 2, .* beyond 65504 \(val/loss .*, learning rate 0\.\d+\)"
    with pytest.raises(InputError, match=said):
        fit.run()
    assert len(epochs) == 2
    assert fit.state.best == {}
