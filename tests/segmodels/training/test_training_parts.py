"""Schedules, weight averaging, checkpoints, batch norm over processes."""

import copy
import hashlib
import io
import itertools
import subprocess
import sys
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

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


def write(folder: Path, *values: float) -> list[Path]:
    """Saves states, each with its best weights; the states' files, oldest first."""
    checkpoints = Checkpoints(folder)
    for value in values:
        checkpoints.save(state(value), {"weight": torch.full((2,), value)})
    checkpoints.wait()
    return sorted(folder.glob("*.ckpt"))


def read(folder: Path, warn: Any = pytest.fail) -> tuple[int, float] | None:
    """Epoch of the newest sound state, and its best weights."""
    found: list[tuple[int, float]] = []

    def restore(state: dict[str, Any], best: dict[str, torch.Tensor]) -> None:
        found.append((state["progress"]["epoch"], best["weight"][0].item()))

    assert Checkpoints(folder).resume(restore, warn) == bool(found)
    return found[0] if found else None


def test_the_newest_state_comes_back_and_only_two_are_kept(tmp_path: Path) -> None:
    assert read(tmp_path / "key") is None
    write(tmp_path / "key", 1.0, 2.0, 3.0)
    assert len(list((tmp_path / "key").iterdir())) == 4, "two states, each with best weights of its own"
    assert read(tmp_path / "key") == (3, 3.0)


def test_the_best_weights_are_written_when_they_change_and_outlive_the_states_they_came_with(tmp_path: Path) -> None:
    checkpoints, best = Checkpoints(tmp_path), {"weight": torch.full((2,), 7.0)}
    checkpoints.save(state(1.0), best)
    checkpoints.wait()
    [weights] = tmp_path.glob("*.best")
    weights.rename(tmp_path / "elsewhere")
    for value in (2.0, 3.0, 4.0):
        checkpoints.save(state(value), best)
    checkpoints.wait()
    assert not list(tmp_path.glob("*.best")), "they are not written again"
    (tmp_path / "elsewhere").rename(weights)
    assert read(tmp_path) == (4, 7.0)
    resumed = Checkpoints(tmp_path)
    resumed.resume(lambda _, best: resumed.save(state(5.0), best), pytest.fail)
    resumed.wait()
    assert [path.name for path in tmp_path.glob("*.best")] == [weights.name]
    assert read(tmp_path) == (5, 7.0)


@pytest.mark.parametrize("numbers", [10, 100_000])
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file_and_leaves_the_room_free(
    tmp_path: Path, numbers: int
) -> None:
    (tmp_path / "writing.partial").symlink_to("/dev/full")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0), {"weight": torch.zeros(numbers)})
    with pytest.raises(OSError, match=r"No space left on device: .*writing\.partial"):
        checkpoints.wait()
    assert not list(tmp_path.iterdir())


def test_a_save_keeps_what_the_state_was_and_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, disk = Checkpoints(tmp_path), threading.Event()
    write_file = checkpoints._write_file
    monkeypatch.setattr(checkpoints, "_write_file", lambda *args: (disk.wait(10), write_file(*args))[1])
    now = state(1.0)
    checkpoints.save(now, {"weight": torch.zeros(2)})
    now["model"]["weight"].fill_(9.0)
    now["progress"]["epoch"] = 9
    assert not list(tmp_path.glob("*.ckpt"))
    disk.set()
    checkpoints.wait()
    assert read(tmp_path) == (1, 0.0)


def test_a_disk_that_refuses_is_reported_by_the_next_question(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a file")
    checkpoints = Checkpoints(tmp_path / "key")
    checkpoints.save(state(1.0), {})
    with pytest.raises(FileExistsError):
        checkpoints.wait()
    checkpoints.save(state(1.0), {})
    wait([checkpoints._writing])
    with pytest.raises(FileExistsError):
        checkpoints.check()


def overwrite(path: Path, content: object) -> None:
    """Other content, with the digest that belongs to it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = b"no archive" if content is None else buffer.getvalue()
    path.unlink()
    digest = hashlib.blake2b(data, digest_size=12).hexdigest()
    path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{digest}.ckpt").write_bytes(data)


@pytest.mark.parametrize(
    "damage", ["truncated", "one bit", "empty", "no archive", "no progress", "no dict", "best gone", "best one bit"]
)
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    _, newest = write(tmp_path, 1.0, 2.0)
    content = bytearray(newest.read_bytes())
    best = tmp_path / f"{newest.name.split('-')[1]}.best"
    match damage:
        case "truncated" | "empty":
            newest.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
        case "one bit":
            content[len(content) // 2] ^= 1
            newest.write_bytes(content)
        case "best gone":
            best.unlink()
        case "best one bit":
            best.write_bytes(best.read_bytes().replace(b"weight", b"weighs"))
        case _:
            overwrite(newest, {"no archive": None, "no progress": {"model": {}}, "no dict": [1.0]}[damage])
    said: list[str] = []
    assert read(tmp_path, said.append) == (1, 1.0)
    [sentence] = said
    assert newest.name.rsplit("-", 1)[0] in sentence
    assert "falling back to 00000000-" in sentence
    assert len(list(tmp_path.glob("00000001-*.damaged"))) == 1, "kept, and never read again"
    assert read(tmp_path) == (1, 1.0)


def test_without_a_sound_state_a_training_starts_anew(tmp_path: Path) -> None:
    for path in write(tmp_path, 1.0, 2.0):
        overwrite(path, None)
    said: list[str] = []
    assert read(tmp_path, said.append) is None
    assert "training starts anew" in said[-1]


def test_a_state_half_written_by_a_killed_process_is_not_seen(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    (tmp_path / "writing.partial").write_bytes(b"half")
    assert read(tmp_path) == (1, 1.0)
    assert not list(tmp_path.glob("*.partial"))


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


@pytest.mark.slow
def test_training_imports_nothing_that_takes_seconds_and_is_not_used() -> None:
    heavy = {"lightning", "torchmetrics", "transformers", "matplotlib", "sklearn", "pandas"}
    script = f"import sys, segmodels.training.fit, segmodels.training.recipe; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
