import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from segmodels.encoders.freezing import freeze_batch_norm
from segmodels.errors import InputError
from segmodels.losses.soft_labels import soft_label_loss
from segmodels.models.registry import create_model
from segmodels.outputs import PixelOutput
from segmodels.training.self_correction import (
    SelfCorrection,
    average_weights,
    cyclic_learning_rate_factor,
    estimate_batch_norm,
    refine_labels,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("unet", 3, widths=[2, 3])


class Noise(nn.Module):
    """Batch norm behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))

    def forward(self, images: torch.Tensor) -> PixelOutput:
        return PixelOutput(self.layers(images))


def test_cycles_end_at_the_start_and_then_every_cycle() -> None:
    correction = SelfCorrection(network(0), start=100, cycle=10)
    assert [epoch for epoch in range(1, 131) if correction.cycle_ends(epoch)] == [100, 110, 120, 130]


def test_average_is_the_arithmetic_mean_of_the_cycles_weights() -> None:
    nets = [network(seed) for seed in range(4)]
    correction = SelfCorrection(nets[0], start=1, cycle=1)
    images = [torch.randn(2, 3, 8, 8)]
    for number, net in enumerate(nets[1:], start=1):
        correction.end_cycle(net, images)
        assert correction.cycles == number
    for averaged, *parts in zip(correction.model.parameters(), *(net.parameters() for net in nets[1:]), strict=True):
        torch.testing.assert_close(averaged, torch.stack([part.detach() for part in parts]).mean(0))


def test_averaging_leaves_the_statistics_of_batch_norm() -> None:
    average, model = network(0), network(1)
    model(torch.randn(2, 3, 8, 8))
    before = [buffer.clone() for buffer in average.buffers()]
    average_weights(average, model, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, average.buffers(), strict=True))


def test_estimated_statistics_are_the_means_over_batches_weighted_by_images() -> None:
    norm = nn.BatchNorm2d(3)
    batches = [torch.randn(size, 3, 4, 5) * 3 + 7 for size in (2, 5, 1)]
    estimate_batch_norm(norm, batches)
    torch.testing.assert_close(norm.running_mean, torch.cat(batches).mean((0, 2, 3)))
    variance = sum(len(batch) * batch.transpose(0, 1).flatten(1).var(1) for batch in batches) / 8
    torch.testing.assert_close(norm.running_var, variance)


def test_estimation_makes_every_layer_of_an_averaged_network_normalised_again() -> None:
    """The reason for it: statistics of one network do not fit the average of two."""
    model = network(0)
    average_weights(model, network(1), 0.5)
    images = torch.randn(8, 3, 8, 8) * 2 + 1
    deviations: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, _inputs, output: deviations.append(
                    (output.mean((0, 2, 3)) - module.bias).abs().max().item()
                )
            )
    model.eval()(images)
    assert max(deviations) > 0.1
    estimate_batch_norm(model, [images])
    deviations.clear()
    model(images)
    assert max(deviations) < 0.02  # not 0: running variances are unbiased


def test_estimation_runs_without_dropout_and_keeps_modes_momenta_and_frozen_layers() -> None:
    model = Noise().train()
    model.layers[1].momentum = 0.3
    images = torch.rand(4, 3, 6, 6)
    estimate_batch_norm(model, [images])
    torch.testing.assert_close(model.layers[1].running_mean, images.mean((0, 2, 3)))
    assert model.layers[1].momentum == 0.3
    assert all(module.training for module in model.modules())

    frozen = Noise().eval()
    freeze_batch_norm(frozen)
    frozen.layers[1].running_mean.fill_(5.0)
    estimate_batch_norm(frozen, [images])
    assert (frozen.layers[1].running_mean == 5).all()
    assert not any(module.training for module in frozen.modules())


def test_estimation_without_batches_is_refused() -> None:
    with pytest.raises(InputError, match="batches"):
        estimate_batch_norm(network(0), [])


@pytest.mark.parametrize("cycles", [1, 2, 5])
def test_soft_labels_mix_prediction_and_given_labels(cycles: int) -> None:
    probabilities = torch.randn(2, 3, 4, 5).softmax(1)
    target = torch.randint(3, (2, 4, 5))
    target[0, 0] = 255
    soft = refine_labels(probabilities, target, cycles)
    one_hot = functional.one_hot(target.clamp_max(2), 3).permute(0, 3, 1, 2)
    expected = cycles / (cycles + 1) * probabilities + one_hot / (cycles + 1)
    torch.testing.assert_close(soft[:, :, 1:], expected[:, :, 1:])
    assert (soft[0, :, 0] == 0).all()
    torch.testing.assert_close(soft[1].sum(0), torch.ones(4, 5))


def test_soft_labels_come_from_the_average_after_the_first_cycle_and_carry_no_gradient() -> None:
    model = network(0)
    correction = SelfCorrection(model, start=1, cycle=1)
    images, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    assert correction.soft_labels(images, target) is None
    correction.end_cycle(network(1), [images])
    soft = correction.soft_labels(images, target)
    assert soft is not None
    assert not soft.requires_grad
    torch.testing.assert_close(soft, refine_labels(correction.model(images).logits.softmax(1), target, 1))
    assert not correction.model.training


def test_loss_is_the_divergence_over_the_pixels_that_count() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    target = torch.randint(3, (2, 4, 5))
    target[1, 2:] = 255
    soft = refine_labels(torch.randn(2, 3, 4, 5).softmax(1), target, 2)
    valid = target != 255
    rows = logits.log_softmax(1).movedim(1, -1)[valid], soft.movedim(1, -1)[valid]
    loss = soft_label_loss(logits, soft)
    torch.testing.assert_close(loss, functional.kl_div(*rows, reduction="batchmean"))
    loss.backward()
    assert (logits.grad.movedim(1, -1)[~valid] == 0).all()
    assert (logits.grad.movedim(1, -1)[valid] != 0).any()


def test_loss_of_one_hot_labels_is_the_cross_entropy_and_of_the_prediction_itself_zero() -> None:
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    one_hot = functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(soft_label_loss(logits, one_hot), functional.cross_entropy(logits, target))
    torch.testing.assert_close(soft_label_loss(logits, logits.softmax(1)), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_loss_is_finite_and_zero_where_nothing_counts_and_in_half_precision() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = soft_label_loss(logits, torch.zeros(2, 3, 4, 5))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
    soft = torch.randn(2, 3, 4, 5).softmax(1)
    assert math.isfinite(soft_label_loss(100 * logits.detach().half(), soft).item())


def test_learning_rate_falls_to_the_start_and_restarts_each_cycle_at_half() -> None:
    def factor(epoch: float) -> float:
        return cyclic_learning_rate_factor(epoch, start=100, cycle=10, warmup=10)

    assert factor(0) == 0.01
    assert factor(5) == 0.5
    assert factor(10) == 1
    assert factor(55) == pytest.approx((1 + 0.01) / 2)
    assert factor(99.999) == pytest.approx(0.01, abs=1e-6)
    for start in (100, 110, 140):
        assert factor(start) == 0.5
        assert factor(start + 5) == pytest.approx((0.5 + 0.01) / 2)
        assert factor(start + 9.999) == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize(
    "options", [{"start": 0, "cycle": 10}, {"start": 100, "cycle": 0}, {"start": 10, "cycle": 1, "warmup": 10}]
)
def test_schedules_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="epochs"):
        cyclic_learning_rate_factor(0, **options)


def test_state_round_trip_continues_the_average() -> None:
    images = [torch.randn(2, 3, 8, 8)]
    first = SelfCorrection(network(0), start=1, cycle=1)
    first.end_cycle(network(1), images)
    second = SelfCorrection(network(2), start=1, cycle=1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for correction in (first, second):
        correction.end_cycle(network(3), images)
    assert first.cycles == second.cycles == 2
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_corrected_labels_have_fewer_errors_than_the_noisy_ones() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(64, 16, 16, dtype=torch.int64)
    for index, mask in enumerate(truth):
        mask[2 + index % 5 : 9, 3 : 8 + index % 7] = 1
    images = truth.unsqueeze(1) + 0.3 * torch.randn(64, 1, 16, 16)
    noisy = torch.where(torch.rand(truth.shape) < 0.25, 1 - truth, truth)
    model = create_model("unet", 2, in_channels=1, widths=[4, 6])
    correction = SelfCorrection(model, start=8, cycle=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(14):
        for step, (batch, labels) in enumerate(zip(images.split(16), noisy.split(16), strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * cyclic_learning_rate_factor(epoch + step / 4, start=8, cycle=3)
            soft = correction.soft_labels(batch, labels)
            logits = model.train()(batch).logits
            loss = functional.cross_entropy(logits, labels) if soft is None else soft_label_loss(logits, soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if correction.cycle_ends(epoch + 1):
            correction.end_cycle(model, images.split(16))
    soft = correction.soft_labels(images, noisy)
    assert correction.cycles == 3
    assert soft is not None
    given, corrected = ((labels != truth).float().mean().item() for labels in (noisy, soft.argmax(1)))
    assert given > 0.2
    assert corrected < given / 2
