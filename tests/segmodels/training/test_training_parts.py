"""Schedules, weight averaging, checkpoints, batch norm over processes."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from segmodels.training.checkpoints import Checkpoints
from segmodels.training.distributed import SynchronizedBatchNorm, synchronize_batch_norm
from segmodels.training.moving_average import MovingAverage
from segmodels.training.schedules import learning_rate_factor


def test_polynomial_schedule_is_one_minus_t_to_the_power() -> None:
    for t in (0.0, 0.25, 0.5, 0.9):
        assert learning_rate_factor("polynomial", t) == pytest.approx((1 - t) ** 0.9)


def test_one_cycle_is_torch_s() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=1001, div_factor=25, final_div_factor=400
    )
    for step in range(1001):
        # torch places the peak on a whole step: 0.3 * 1001 - 1 instead of 0.3 * 1000
        assert learning_rate_factor("one_cycle", step / 1000) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=0.01
        )
        optimizer.step()
        if step < 1000:
            reference.step()


@pytest.mark.parametrize("name", ["polynomial", "cosine", "constant"])
def test_warm_up_rises_to_one_and_the_rate_never_leaves_zero_to_one(name: str) -> None:
    factors = [learning_rate_factor(name, t / 200, warmup=0.1) for t in range(201)]
    assert all(earlier < later for earlier, later in itertools.pairwise(factors[:20]))
    assert factors[20] == 1
    assert all(0 < factor <= 1 for factor in factors)


def test_the_average_forgets_its_random_start_and_copies_buffers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = MovingAverage(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    model(torch.randn(2, 3, 4, 4))
    for _ in range(40):
        average.update(model)
    for mine, theirs in zip(average.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(average.model[1].running_mean, model[1].running_mean)


def state(value: float) -> dict:
    return {"model": {"weight": torch.full((3,), value)}, "progress": {"epoch": int(value)}}


def test_the_newest_state_comes_back_and_only_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "key")
    assert checkpoints.load_newest(print) is None
    for value in (1.0, 2.0, 3.0):
        checkpoints.save(state(value))
    assert len(list((tmp_path / "key").iterdir())) == 2
    newest = Checkpoints(tmp_path / "key").load_newest(print)
    assert newest is not None
    assert newest["progress"]["epoch"] == 3
    torch.testing.assert_close(newest["model"]["weight"], torch.full((3,), 3.0))


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0))
    newest = checkpoints.save(state(2.0))
    content = bytearray(newest.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[: len(content) // 2], "one bit": content, "empty": b""}[damage])
    said: list[str] = []
    loaded = checkpoints.load_newest(said.append)
    assert loaded is not None
    assert loaded["progress"]["epoch"] == 1
    assert len(said) == 1
    assert str(newest) in said[0]


def test_a_state_half_written_by_a_killed_process_is_not_seen(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0))
    (tmp_path / "00000001-0123456789abcdef01234567.partial").write_bytes(b"half")
    loaded = checkpoints.load_newest(print)
    assert loaded is not None
    assert loaded["progress"]["epoch"] == 1


def batch_norm_share(rank: int, folder: str, images: torch.Tensor, model: nn.Module) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = synchronize_batch_norm(model, torch.device("cpu"))
    share = images[rank::2].clone().requires_grad_()
    output = model(share)
    (output**3).sum().backward()
    torch.save({"output": output.detach(), "gradient": share.grad, "state": model.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_batch_norm_over_two_processes_is_batch_norm_over_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5))
    nn.init.normal_(model[1].weight)
    images = torch.randn(6, 3, 8, 8)
    whole = copy.deepcopy(model)
    inputs = images.clone().requires_grad_()
    output = whole(inputs)
    (output**3).sum().backward()
    multiprocessing.spawn(batch_norm_share, args=(str(tmp_path), images, model), nprocs=2)
    assert inputs.grad is not None
    for rank in range(2):
        share = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(share["output"], output.detach()[rank::2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(share["gradient"], inputs.grad[rank::2], atol=1e-4, rtol=1e-4)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(share["state"][name], value, atol=1e-5, rtol=1e-4)


def test_batch_norm_outside_a_process_group_is_torch_s() -> None:
    mine, reference = SynchronizedBatchNorm(4), nn.BatchNorm2d(4)
    images = torch.randn(3, 4, 5, 6)
    torch.testing.assert_close(mine(images), reference(images))
    torch.testing.assert_close(mine.eval()(images), reference.eval()(images))
