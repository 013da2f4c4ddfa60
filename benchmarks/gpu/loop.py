"""The training loop: beside a bare one, with its saves, resumed, with workers, on two processes.

``python -m benchmarks.gpu.loop`` is one process of ``processes``.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from benchmarks.gpu.setting import Setting
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.fit import Fit, Stopped
from segmodels.training.learner import Turn
from segmodels.training.recipe import create_loaders, create_recipe
from segmodels.training.settings import TrainSettings

MODEL, WARMUP = "deeplab_v3_plus_resnet50", 20
T = TypeVar("T")
Rows = Iterator[tuple[str, dict[str, Any]]]


def loop(setting: Setting, known: set[str]) -> Rows:
    """Images per second of the training loop, loader included and saves left out, and of a bare loop on one batch that
    is on the device already. Target: 0.95 (0.97 on a CPU).
    """
    for name in (MODEL, "unet"):
        if name not in known:
            settings = setting.training(name)
            bare, ours = bare_speed(setting, settings), loop_speed(setting, settings)
            yield name, {"bare loop": bare, "segmodels": ours, "ratio": ours / bare}


def saves(setting: Setting, known: set[str]) -> Rows:
    """Images per second of a whole training of three epochs with validations and saves as they are by default, by the
    clock on the wall; and its seconds until the end of the first step, in training and validation (the first batch of
    each left out) and waiting for saves.
    """
    if MODEL not in known:
        settings = setting.training(MODEL, epochs=3, validate_every=1)
        with TemporaryDirectory() as folder:
            fit, steps = create_fit(setting, settings, Path(folder)), []
            fit.checkpoints = saving = TimedCheckpoints(Path(folder))
            fit.on_batch = lambda *_: steps.append(time.perf_counter())
            start = time.perf_counter()
            fit.run()
            seconds = time.perf_counter() - start
        row = {"images/s": 3 * len(setting.readers()[0]) / seconds, "seconds": seconds, "first step": steps[0] - start}
        yield MODEL, {**row, "training and validation": fit.progress.seconds, "saves": saving.seconds}


class TimedCheckpoints(Checkpoints):
    """Adds up the seconds that the training waits for its saves."""

    seconds = 0.0

    def save(self, state: dict[str, Any], best: dict[str, Any]) -> None:
        self.wait()
        start = time.perf_counter()
        super().save(state, best)
        self.seconds += time.perf_counter() - start

    def wait(self) -> None:
        start = time.perf_counter()
        super().wait()
        self.seconds += time.perf_counter() - start


def host(setting: Setting, known: set[str]) -> Rows:
    """What Python is at during the training loop: the functions in which its threads were found, every 5 ms."""
    if known:
        return
    found: dict[str, Counter[str]] = {}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.005):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                code = frame.f_code
                place = f"{Path(code.co_filename).name}:{code.co_name}"
                found.setdefault(names.get(ident, "?"), Counter())[place] += 1

    sampler = threading.Thread(target=sample, name="sampler")
    sampler.start()
    loop_speed(setting, setting.training(MODEL))
    ended.set()
    sampler.join()
    for thread in ("MainThread", "prefetch"):
        places = found.get(thread, Counter())
        for place, count in places.most_common(12):
            yield f"{thread} {place}", {"% of its samples": 100 * count / places.total()}


def deterministic(setting: Setting, known: set[str]) -> Rows:
    """Images per second of a bare loop where torch may use any algorithm, and where it may use deterministic ones
    alone. Target: 0.9.
    """
    for name in (MODEL, "unet", "pspnet_r50_d8"):
        if name not in known:
            choices = [setting.training(name, deterministic=value) for value in (False, True)]
            free, fixed = (in_process(bare_speed, setting, choice) for choice in choices)
            yield name, {"any algorithm": free, "deterministic": fixed, "ratio": fixed / free}


def resume(setting: Setting, known: set[str]) -> Rows:
    """Whether a training that is stopped and resumed in another process ends with the same weights, bit for bit, with
    ``deterministic``.
    """
    names = [name for name in (MODEL, "unet") if name not in known]
    with TemporaryDirectory() as folder:
        first = [(name, Path(folder, kind, name), end) for name in names for kind, end in (("a", None), ("b", 3))]
        ends = in_process(trained_to_end, setting, first)
        resumed = in_process(trained_to_end, setting, [(name, Path(folder, "b", name), None) for name in names])
    for name, whole, half, rest in zip(names, ends[::2], ends[1::2], resumed, strict=True):
        yield name, {"stopped": half == "stopped", "equal": whole == rest, "digest": whole}


def workers(setting: Setting, known: set[str]) -> Rows:
    """Images per second of the training loop by the number of loader processes."""
    for count in (0, 1, 2, 4, 8) if not setting.rehearse else (0, 1):
        if (name := f"{count} workers") not in known:
            yield name, {"images/s": loop_speed(setting, setting.training(MODEL, workers=count))}


def processes(setting: Setting, known: set[str]) -> Rows:
    """Images per second of the training loop on two processes (DDP), each with a GPU of its own."""
    if not setting.rehearse and torch.cuda.device_count() < 2:
        yield "two GPUs", {"skipped": f"this machine has {torch.cuda.device_count()}"}
    elif "two processes" not in known:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        own = ["-m", "benchmarks.gpu.loop", *(["--rehearse"] if setting.rehearse else [])]
        output = subprocess.run([*launch, *own], check=True, capture_output=True, text=True).stdout
        yield "two processes", {"images/s": 2 * float(output.split()[-1])}


def bare_speed(setting: Setting, settings: TrainSettings) -> float:
    """Images per second of forward, backward and step on one batch, written out in PyTorch."""
    readers = setting.readers()
    recipe = create_recipe(settings, *readers)
    fabric = recipe.devices.launch(reaches_all_parameters=True)
    loader, _ = create_loaders(settings, recipe.task, *readers, rank=0, processes=1)
    learner, optimizer = recipe.learner.to(setting.device).train(), recipe.optimizer
    batch = fabric.to_device(next(iter(loader)))
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(recipe.devices.precision)
    turn = Turn(learner.objectives[0], 0.0)

    def step() -> None:
        with torch.autocast(setting.device, dtype, enabled=dtype is not None):
            loss = learner(batch, turn).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(WARMUP):
        step()
    setting.synchronize()
    start = time.perf_counter()
    for _ in range(setting.steps):
        step()
    setting.synchronize()
    return setting.steps * setting.batch / (time.perf_counter() - start)


def loop_speed(setting: Setting, settings: TrainSettings) -> float:
    """Images per second of ``Fit`` in this process, from one optimiser step to another."""
    times: list[float] = []
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        if steps in (WARMUP, WARMUP + setting.steps):
            setting.synchronize()
            times.append(time.perf_counter())
        return len(times) == 2

    with TemporaryDirectory() as folder:
        fit = create_fit(setting, settings, Path(folder), stop)
        with contextlib.suppress(Stopped):
            fit.run()
    start, end = times
    return setting.steps * setting.batch / (end - start)


def create_fit(
    setting: Setting, settings: TrainSettings, folder: Path, stop: Callable[[], bool] = lambda: False
) -> Fit:
    """The training of ``settings`` on the scenes, as the step ``train`` makes it."""
    readers = setting.readers()
    recipe = create_recipe(settings, *readers)
    fabric = recipe.devices.launch(reaches_all_parameters=recipe.learner.reaches_all_parameters)
    loaders = create_loaders(settings, recipe.task, *readers, rank=fabric.global_rank, processes=fabric.world_size)
    return Fit(
        fabric, recipe.learner, recipe.optimizer, recipe.learning_rate_factor, *loaders,
        settings=recipe.fit, checkpoints=Checkpoints(folder), average=recipe.average, stop=stop,
    )  # fmt: skip


def trained_to_end(setting: Setting, trainings: list[tuple[str, Path, int | None]]) -> list[str]:
    """``train_to_end`` of each."""
    return [train_to_end(setting, *training) for training in trainings]


def train_to_end(setting: Setting, name: str, folder: Path, stop_after: int | None) -> str:
    """Digest of the weights after two epochs, or "stopped"."""
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_after

    settings = setting.training(name, epochs=2, validate_every=1, deterministic=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        weights = create_fit(setting, settings, folder, stop).run()
    except Stopped:
        return "stopped"
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def in_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function that runs in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    own = Setting.of(rehearse="--rehearse" in sys.argv)
    speed = loop_speed(own, own.training(MODEL))
    if os.environ["RANK"] == "0":
        print(speed)
