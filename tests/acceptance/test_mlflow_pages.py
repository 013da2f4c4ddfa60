"""MLflow's pages as a person sees them: `python -m components ui`, its links, a real browser.

With SEGMODELS_SCREENSHOTS=FOLDER the pages are kept as pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from small_pipeline import SMALL_TRAINING, use_local_store, write_shards

from components.params.checking import checked
from components.params.schema import EvaluateParams, RegisterParams, TrainParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.steps.train import train

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]
SECONDS = 60
SMALL = SMALL_TRAINING | {"epochs": 3}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two trained, evaluated and registered models."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_local_store(folder, monkeypatch)
        monkeypatch.setattr("components.steps.register._export", lambda *_: "none")  # takes long, and is on no page
        shards = write_shards(folder / "shards", train=24, val=10, scale=1)
        for number, lr in enumerate((0.0003, 0.01)):
            model, evaluation = folder / f"model{number}", folder / f"evaluation{number}"
            train(checked(TrainParams, {**SMALL, "lr": lr}), shards, model, folder / "checkpoints")
            evaluate(EvaluateParams(overlays=1), shards, model, evaluation)
            register(RegisterParams(name="scenes"), shards, model, evaluation, folder / f"registration{number}")
        yield folder


@pytest.fixture(scope="module")
def links(project: Path) -> Iterator[dict[str, str]]:
    """What `python -m components ui` prints."""
    command = [sys.executable, "-m", "components", "ui", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        printed: dict[str, str] = {}
        assert process.stdout
        for line in process.stdout:
            name, _, link = line.strip().rpartition(" ")
            printed[name.strip()] = link
            if line.startswith("Ctrl-C"):
                break
        yield printed
        process.terminate()
        assert process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(command[-1])), timeout=5)


class Browser:
    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, link: str, *texts: str) -> str:
        """The page's text when it has all of ``texts``."""
        self.driver.get("about:blank")
        self.driver.get(link)
        return self.wait(*texts)

    def wait(self, *texts: str) -> str:
        body, deadline = "", time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            body = self.driver.execute_script("return document.body.innerText")
            if all(text in body for text in texts):
                return body
            time.sleep(0.3)
        missing = [text for text in texts if text not in body]
        raise AssertionError(f"{self.driver.current_url} does not show {missing}, but {body[:3000]}")

    def scroll_to(self, text: str) -> None:
        """Bring the first element with this text, and nothing else, into sight."""
        found = self.driver.find_element(By.XPATH, f"//*[normalize-space(text())='{text}']")
        self.driver.execute_script("arguments[0].scrollIntoView()", found)

    def wait_for_picture(self, width: int) -> None:
        """Until an image of at least that many pixels is loaded."""
        widest = "return Math.max(0, ...[...document.images].map(image => image.naturalWidth))"
        WebDriverWait(self.driver, SECONDS).until(lambda driver: driver.execute_script(widest) >= width)

    def keep(self, name: str) -> None:
        if folder := os.environ.get("SEGMODELS_SCREENSHOTS"):
            time.sleep(2)  # charts are drawn with an animation
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no browser on this machine (Debian's packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=2000,1000"):
        options.add_argument(f"--{flag}")
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield Browser(chromium)
    chromium.quit()


def run_of(project: Path, number: int) -> str:
    return json.loads((project / f"model{number}" / "run.json").read_text())["run_id"]


def test_the_table_of_runs_shows_scores_and_names(browser: Browser, links: dict[str, str], project: Path) -> None:
    page = browser.open(links["all runs"], "lr=0.0003", "lr=0.01", "test/miou", "test/fwiou", "val/loss")
    browser.keep("mlflow-runs")
    for number in range(2):
        metrics = json.loads((project / f"evaluation{number}" / "metrics.json").read_text())
        assert f"{metrics['mean_iou']:.8f}"[:6] in page, "the score of each run"
    assert "/runs?" in browser.driver.current_url
    assert "Tokens" not in page, "a page of generative AI"


def test_two_runs_are_compared(browser: Browser, links: dict[str, str], project: Path) -> None:
    page = browser.open(links["last two runs"], "test/miou", "test/fwiou", "train/loss", "lr")
    browser.keep("mlflow-compare")
    for number in range(2):
        metrics = json.loads((project / f"evaluation{number}" / "metrics.json").read_text())
        for score in ("mean_iou", "frequency_weighted_iou"):
            assert f"\n{metrics[score]:.3f}".rstrip("0") in page


def test_a_run_shows_curves_pictures_and_the_confusion_matrix(
    browser: Browser, links: dict[str, str], project: Path
) -> None:
    address, _, query = links["all runs"].partition("?")
    run = f"{address}/{run_of(project, 1)}"
    browser.open(f"{run}?{query}", "dataset somewhere", "test split: MIoU", "registered as scenes version")
    browser.keep("mlflow-run")
    browser.open(f"{run}/model-metrics?{query}", "mean_dice", "val/iou", "validation/val")
    browser.scroll_to("val")
    browser.wait("fwiou", "mean_pixel_accuracy")
    browser.keep("mlflow-curves")
    browser.scroll_to("validation/val")
    browser.wait_for_picture(64)
    browser.keep("mlflow-validation-pictures")
    browser.open(f"{run}/artifacts/evaluation/pictures/confusion.png?{query}", "confusion.png")
    browser.wait_for_picture(300)
    browser.keep("mlflow-confusion")


def test_the_model_page_shows_aliases_and_the_card(browser: Browser, links: dict[str, str]) -> None:
    ui = links["all runs"].partition("#")[0]
    browser.open(f"{ui}#/models/scenes?workflowType=machine_learning", "champion")
    browser.open(f"{ui}#/models/scenes/versions/1?workflowType=machine_learning", "Where it comes from", "previous")
    browser.keep("mlflow-model")
