"""sync: what a training could not send arrives later, once."""

from pathlib import Path

import pytest
from small_pipeline import use_local_store

from components.__main__ import main
from components.artifacts import JOURNAL, RUN
from components.running.folder_lock import locked_folder
from components.tracking import runs
from components.tracking.journal import Entry, Journal


def test_metrics_and_pictures_arrive_later_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    use_local_store(tmp_path, monkeypatch)
    state, model, busy = (tmp_path / "data" / name for name in ("checkpoints/a", "model", "checkpoints/b"))
    run = runs.start_run(experiment="tests", name="unet", state=state, params={}, tags={})
    run.send([Entry(0, 1, {"val/miou": 0.1})])
    journal = Journal(JOURNAL.path(state))
    for step in range(3):
        journal.append(Entry(step, step + 1, {"val/miou": step / 10, "val/iou/road": 0.5}))
    picture = state / "pictures" / "2" / "validation~one.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(picture)
    model.mkdir()
    for file in (RUN, JOURNAL):
        file.path(model).write_bytes(file.path(state).read_bytes())
    unmade = state.with_name("c")  # a training that was stopped while MLflow made its run
    unmade.mkdir()
    RUN.write(unmade, RUN.read(state) | {"run_id": ""})
    other = runs.start_run(experiment="tests", name="busy", state=busy, params={}, tags={})
    Journal(JOURNAL.path(busy)).append(Entry(0, 1, {"val/miou": 0.9}))
    with locked_folder(busy, "training"):
        for _ in range(2):
            assert main(["sync"]) == 0
    said = capsys.readouterr().out
    assert "training in data/checkpoints/b is already running" in said
    assert str(unmade.relative_to(tmp_path)) not in said
    for key, count in {"val/miou": 3, "val/iou/road": 3}.items():
        assert [point.step for point in run.client.get_metric_history(run.run_id, key)] == list(range(count))
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
    assert any("+step+2+" in file.path for file in run.client.list_artifacts(run.run_id, "images"))
    assert not picture.exists()
    assert other.client.get_run(other.run_id).data.metrics == {}
    assert main(["sync"]) == 0
    assert other.client.get_run(other.run_id).data.metrics == {"val/miou": 0.9}
