"""docs/: generated pages are up to date, links lead somewhere, and the examples run."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from components import __main__ as steps
from components.commands.docs import PAGES, main, page
from pipelines import __main__ as pipelines
from segmodels.__main__ import LISTINGS
from segmodels.encoders.registry import create_encoder

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", ROOT / "infra" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_registries_say(name: str) -> None:
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written == page(name), "run `make docs`"


def test_the_command_writes_every_page(tmp_path: Path) -> None:
    assert main([str(tmp_path / "docs")]) == 0
    assert sorted(path.stem for path in (tmp_path / "docs").iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(text: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", text.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (text.parent / link).exists()] == []


def options(package: str, name: str) -> set[str]:
    """Of a command."""
    if package == "components":
        step = steps.ALL[name]
        parser = steps._parser(step, getattr(importlib.import_module(step.module), step.function))
        return set(parser._option_string_actions)
    choices = pipelines._parser()._subparsers._group_actions[0].choices
    return set(choices[name]._option_string_actions)


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist_and_have_the_options_that_are_shown(text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```bash\n(.*?)^```", content, re.M | re.S) + re.findall(r"`([^`\n]+)`", content))
    for package, name, rest in re.findall(r"python -m (components|pipelines) ([\w-]+)([^#|&\n]*)", code):
        assert set(re.findall(r"(?<!\S)--[\w-]+", rest)) <= options(package, name), name
    assert set(re.findall(r"python -m segmodels (\w+)", code)) <= {*LISTINGS, "describe"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(targets)
    modules = re.findall(r"python -m\s+(benchmarks[\w.]+)", content)
    assert all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in modules)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_training_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    size = "train=300, val=50, test=50"
    assert size in EXAMPLES[0]
    small = EXAMPLES[0].replace(size, "train=8, val=2, test=4").replace("range(4)", "range(1)")
    exec(compile(small, "docs/library.md", "exec"), {})
    assert re.search(r"^MIoU 0\.\d{3}$", capsys.readouterr().out, re.M)


def test_the_example_of_a_pretrained_encoder_runs_with_a_local_file(tmp_path: Path) -> None:
    weights = create_encoder("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    (address,) = re.findall(r'encoder_weights="([^"]+)"', EXAMPLES[1])
    found: dict = {}
    exec(EXAMPLES[1].replace(address, str(tmp_path / "resnet18.pth")), found)
    loaded = found["model"].encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
