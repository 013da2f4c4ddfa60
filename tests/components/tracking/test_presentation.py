"""What people see of runs in MLflow's UI: links, names, descriptions, pictures."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest
import torch

from components.tracking import links
from components.tracking.presentation import dataset_words, run_name, with_part
from components.tracking.validation_pictures import MOST_BYTES, TIMES, ValidationPictures, key_and_step
from segmodels.annotations import Annotation
from segmodels.data.batches import EvaluationBatch
from segmodels.labels import LabelMap
from segmodels.tasks.registry import create_task

LABELS = LabelMap(("land", "water"), ((90, 140, 60), (40, 90, 200)), {0: 0, 1: 1})


def test_links_open_the_pages_of_machine_learning() -> None:
    assert links.ui_address("sqlite:////tmp/mlflow.db") == "http://localhost:5000"
    ui = links.ui_address("https://me:secret@mlflow.example/")
    assert ui == "https://mlflow.example"
    pages = [
        links.experiment_page(ui, "3"),
        links.run_page(ui, "3", "ab12"),
        links.comparison_page(ui, "3", ["ab12", "cd34"]),
        links.model_page(ui, "road scenes", "2"),
    ]
    for page in pages:
        fragment = urlsplit(urlsplit(page).fragment)
        assert parse_qs(fragment.query)["workflowType"] == ["machine_learning"]
        assert not set(' "[]') & set(page), "a terminal's link ends at a blank or a bracket"
    assert parse_qs(urlsplit(urlsplit(pages[2]).fragment).query)["runs"] == ['["ab12","cd34"]']


def test_a_run_s_name_tells_what_was_trained_and_runs_apart() -> None:
    assert run_name("unet", ["dice"], 0.003, "a1b2c3d4e5f6") == "unet dice lr=0.003 · a1b2c3"
    assert dataset_words({"kind": "digits", "train": 3}) == "digits"
    assert dataset_words({"kind": "dvc", "repo": "x", "path": "data/road/", "rev": "v1"}) == "road at v1"


def test_a_part_of_a_description_is_replaced_and_what_a_person_wrote_stays() -> None:
    note = with_part("dataset digits · model unet", "test split: MIoU 0.5")
    note = with_part(f"{note} · the blurred camera", "test split: MIoU 0.7")
    assert note == "dataset digits · model unet · test split: MIoU 0.7 · the blurred camera"
    assert with_part("", "test split: MIoU 0.5") == "test split: MIoU 0.5"


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (9, 1), (20, 1), (21, 1), (100, 1), (90, 4), (5000, 7), (10, 3)])
def test_pictures_are_made_at_most_twenty_times_evenly_and_at_the_end(tmp_path: Path, epochs: int, every: int) -> None:
    pictures = ValidationPictures(create_task("semantic", LABELS), tmp_path, epochs, every)
    validated = [epoch for epoch in range(epochs) if (epoch + 1) % every == 0 or epoch + 1 == epochs]
    due = [epoch for epoch in validated if pictures.due(epoch)]
    assert min(len(validated), TIMES) * 0.6 <= len(due) <= TIMES
    assert due[-1] == epochs - 1


def test_the_same_images_are_drawn_whatever_the_batches_and_no_picture_is_large(tmp_path: Path) -> None:
    task, rng = create_task("semantic", LABELS), np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 3, 200, 300), dtype=np.uint8)  # noise, which no PNG makes small
    masks = rng.integers(0, 2, (30, 200, 300), dtype=np.uint8)
    drawn = []
    for size in (30, 7):
        pictures = ValidationPictures(task, tmp_path / str(size), 1, 1)
        for start in range(0, 30, size):
            own = range(start, min(start + size, 30))
            annotations = [Annotation.of_classes(masks[i]) for i in own]
            batch = EvaluationBatch(torch.from_numpy(images[own]), annotations, [f"val/{i}" for i in own], list(own))
            pictures.see(0, batch, [task.truth(annotation) for annotation in annotations])
        drawn.append([(key_and_step(path), path.read_bytes()) for path in pictures.write(0)])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 8
    for (key, step), content in drawn[0]:
        assert key.startswith("validation/val/")
        assert step == 0
        assert len(content) <= MOST_BYTES
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        half = picture.shape[1] // 2
        assert np.abs(picture[:, :half].astype(int) - picture[:, -half:]).mean() < 12, "truth and a perfect prediction"
