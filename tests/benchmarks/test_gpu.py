import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the call would measure it")
def test_without_a_gpu_it_says_how_to_rehearse() -> None:
    ended = run()
    assert ended.returncode == 2
    assert ended.stdout == "torch sees no GPU: run this where there is one, or rehearse it on the CPU with --rehearse\n"


@pytest.mark.slow
def test_a_rehearsal_measures_the_loop_and_checks_that_the_models_are_right() -> None:
    ended = run("loop", "correctness", "--rehearse")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "## loop" in ended.stdout
    assert "| vnet | 0 | 0 |" in ended.stdout
    assert ended.stdout.count("| yes |") == 2
