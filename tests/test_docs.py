"""docs/: generated pages are up to date, links lead somewhere, and the examples run."""

import re
from pathlib import Path

import pytest
import torch

from components.commands.docs import PAGES, main, page
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


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_training_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    size = "train=300, val=50, test=50"
    assert size in EXAMPLES[0]
    small = EXAMPLES[0].replace(size, "train=8, val=2, test=4").replace("range(10)", "range(1)")
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
