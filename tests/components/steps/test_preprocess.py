"""Preprocess: shards hold what the layout reads, byte for byte the same each time, and nothing half-written stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.params.schema import PreprocessParams
from components.steps.preprocess import preprocess
from segmodels.annotations import Annotation
from segmodels.data.decoding import resize_image
from segmodels.data.digits import DigitsSettings, write_digits
from segmodels.data.layouts import Sample, open_layout
from segmodels.data.manifest import Dataset, manifest_row, write_dataset
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError

SPLITS = {"train": 7, "val": 2, "test": 3}
SOURCE_IDS = np.array([10, 20, 30, 255], np.uint8)


def row(sample: Sample, **changed) -> dict:
    return manifest_row(replace(sample, **changed), dict.fromkeys((sample.image, *sample.files), "0"))


def make(root: Path, size: tuple[int, int] = (40, 60)) -> tuple[Path, Path]:
    """A dataset of label ids 10, 20, 30 and ignored 255, its manifest, and a validation that it passed."""
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for number in range(count):
            for part, pixels in (
                ("images", rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
                ("masks", rng.choice(SOURCE_IDS, size)),
            ):
                path = root / "source" / part / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "source" / "classes.txt").write_text("a, 10\nb, 20\nc, 30\n")
    layout = open_layout("folder", root / "source")
    rows = [row(s) for s in layout.samples()]
    (root / "dataset").mkdir()
    write_dataset(
        root / "dataset",
        layout="folder",
        root="../source",
        labels=layout.labels,
        source={"source": "folder"},
        revision=None,
        digest="5.dir",
        rows=rows,
    )
    (root / "validation").mkdir()
    (root / "validation" / "report.json").write_text('{"success": true, "digest": "5.dir", "form": null}')
    return root / "dataset", root / "validation"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make(root)
    return root


def classes(data: Dataset, sample: Sample) -> np.ndarray:
    annotation = data.layout.annotation(sample)
    assert annotation is not None
    return annotation.classes


def run(root: Path, shards: Path, **params):
    return preprocess(PreprocessParams(workers=2, **params), root / "dataset", root / "validation", shards)


def test_shards_hold_every_sample_in_order_in_train_ids(made, tmp_path):
    statistics = run(made, tmp_path / "shards")
    data = Dataset.open(made / "dataset")
    for split, count in SPLITS.items():
        reader = ShardReader(tmp_path / "shards", split)
        assert len(reader) == count
        assert reader.digest == "5.dir"
        assert reader.source == {"source": "folder"}
        assert reader.statistics == statistics
        for index, sample in enumerate(data.samples(split)):
            mask = classes(data, sample)
            assert reader.id(index) == sample.id
            np.testing.assert_array_equal(reader.image(index), data.layout.read_image(sample))
            np.testing.assert_array_equal(reader.annotation(index).classes, mask)
            assert set(np.unique(mask)) == {0, 1, 2, 255}
    assert statistics.images == SPLITS


def test_twice_the_same_bytes_with_any_number_of_workers(made, tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        preprocess(
            PreprocessParams(workers=workers, longer_side=50), made / "dataset", made / "validation", tmp_path / name
        )
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["statistics.json", "test-00000.arrow", "train-00000.arrow", "val-00000.arrow"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_images_are_resized_and_only_masks_of_test_keep_their_size(made, tmp_path):
    run(made, tmp_path / "shards", longer_side=30)
    data = Dataset.open(made / "dataset")
    for split in SPLITS:
        reader = ShardReader(tmp_path / "shards", split)
        sample = data.samples(split)[0]
        image, mask = data.layout.read_image(sample), classes(data, sample)
        assert reader.image(0).shape == (20, 30, 3)
        halves = image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
        assert np.abs(reader.image(0) - halves).max() <= 0.51
        if split == "test":
            np.testing.assert_array_equal(reader.annotation(0).classes, mask)
        else:
            assert reader.annotation(0).classes.shape == (20, 30)
            assert np.isin(reader.annotation(0).classes, [mask[y::2, x::2] for y in (0, 1) for x in (0, 1)]).all()


def test_growing_is_bilinear_and_masks_take_the_nearest_label():
    large = resize_image(np.array([[[0] * 3, [100] * 3]], np.uint8), 8)
    labels = Annotation.of_classes(np.array([[4, 7]], np.uint8)).resized(large.shape[:2]).classes
    assert large.shape == (4, 8, 3)
    assert np.abs(large[0, :, 0] - [0, 0, 12.5, 37.5, 62.5, 87.5, 100, 100]).max() <= 1
    assert (labels == [4, 4, 4, 4, 7, 7, 7, 7]).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_longer_side_is_met_and_proportions_stay(channels, dtype):
    for height, width in ((100, 37), (37, 100), (5, 1000)):
        image = resize_image(np.full((height, width, channels), 77, dtype), 64)
        assert max(image.shape[:2]) == 64
        assert image.shape[2] == channels
        assert image.dtype == dtype
        assert np.abs(image.astype(float) - 77).max() < 1e-3
        assert abs(min(image.shape[:2]) - max(1, min(height, width) * 64 / max(height, width))) <= 0.5


def test_shards_are_closed_at_their_size(tmp_path):
    make(tmp_path, size=(300, 400))
    run(tmp_path, tmp_path / "shards", shard_megabytes=1)
    assert len(list((tmp_path / "shards").glob("train-*.arrow"))) == 3  # 0.48 MB each
    reader = ShardReader(tmp_path / "shards", "train")
    data = Dataset.open(tmp_path / "dataset")
    np.testing.assert_array_equal(reader.image(6), data.layout.read_image(data.samples("train")[6]))


def test_camvid_becomes_shards(shared_data, tmp_path):
    """The real frames: as many, void ignored, statistics in the range of photographs."""
    layout = open_layout("camvid", shared_data / "camvid")
    chosen = {"train": 12, "val": 3, "test": 3}
    samples = [s for s in layout.samples() if s.split == "train"]
    rows = []
    for split, count in chosen.items():
        for sample in (samples.pop(0) for _ in range(count)):
            rows.append(row(sample, split=split))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text('{"success": true, "digest": "1.dir", "form": null}')
    write_dataset(
        tmp_path / "dataset",
        layout="camvid",
        root=layout.root,
        labels=layout.labels,
        source={},
        revision=None,
        digest="1.dir",
        rows=rows,
    )
    statistics = run(tmp_path, tmp_path / "shards", longer_side=240)
    assert statistics.pixels == {split: count * 240 * 180 for split, count in chosen.items()}
    assert all(40 < value < 200 for value in statistics.mean)
    assert statistics.class_frequencies[3] > 0.15  # the road
    assert ShardReader(tmp_path / "shards", "test").annotation(0).size == (360, 480)


# Bad input


def test_a_dataset_that_did_not_pass_is_refused(made, tmp_path):
    (tmp_path / "report.json").write_text('{"success": false, "digest": "5.dir", "form": null}')
    with pytest.raises(InputError, match=r"did not pass its validation \(.*report\.json\)"):
        preprocess(PreprocessParams(), made / "dataset", tmp_path, tmp_path / "shards")
    (tmp_path / "report.json").write_text("[")
    with pytest.raises(InputError, match=r"report\.json is damaged \(.*\): run the step validate again"):
        preprocess(PreprocessParams(), made / "dataset", tmp_path, tmp_path / "shards")
    (tmp_path / "report.json").write_text('{"success": true, "digest": "6.dir", "form": null}')
    with pytest.raises(InputError, match=r"is the report of the dataset 6\.dir, not of 5\.dir: run the step validate"):
        preprocess(PreprocessParams(), made / "dataset", tmp_path, tmp_path / "shards")
    with pytest.raises(InputError, match="run the step validate first"):
        preprocess(PreprocessParams(), made / "dataset", tmp_path / "nowhere", tmp_path / "shards")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda source: truncate(source / "images" / "train" / "5.png"), r"train/5\.png is truncated"),
        (lambda source: (source / "masks" / "test" / "1.png").unlink(), r"test/1\.png is not there"),
        (
            lambda source: Image.fromarray(np.full((40, 60), 11, np.uint8)).save(source / "masks" / "val" / "0.png"),
            r"val/0\.png: mask holds unknown labels \[11\]",
        ),
        (
            lambda source: Image.fromarray(np.full((9, 60), 10, np.uint8)).save(source / "masks" / "val" / "0.png"),
            r"val/0\.png is 60x9 but its image",
        ),
        (
            lambda source: (source / "classes.txt").write_text("a, 10\nb, 20\nc, 31\n"),
            "classes of dataset .* have changed",
        ),
    ],
    ids=["truncated image", "missing mask", "unknown label", "another size", "other classes"],
)
def test_damage_is_named_and_an_earlier_output_stays(tmp_path, damage, message):
    make(tmp_path)
    run(tmp_path, tmp_path / "shards")
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    damage(tmp_path / "source")
    with pytest.raises(InputError, match=message):
        run(tmp_path, tmp_path / "shards")
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "shards", "source", "validation"]


def command(root: Path, out: Path) -> list[str]:
    options = {"params-json": "{}", "dataset": root / "dataset", "validation": root / "validation", "shards": out}
    return [
        sys.executable,
        "-m",
        "components",
        "preprocess",
        *(str(part) for key, value in options.items() for part in (f"--{key}", value)),
    ]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk needs Linux's unshare")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """On a file system of one megabyte, for three megabytes of pixels."""
    make(tmp_path, size=(300, 400))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1m tmpfs "{disk}" || exit 99; "$@"; code=$?; ls -A "{disk}"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command(tmp_path, disk / "shards")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    if done.returncode in (1, 99) and "error:" not in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM])
def test_killed_half_way_it_leaves_no_output_and_no_process(tmp_path, number):
    make(tmp_path, size=(600, 800))
    process = subprocess.Popen(
        command(tmp_path, tmp_path / "shards"),
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".shards.partial/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "shards").exists()
    assert bool(list(tmp_path.glob(".*"))) == (number == signal.SIGKILL)
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []
    run(tmp_path, tmp_path / "shards")
    assert len(ShardReader(tmp_path / "shards", "train")) == 7
    assert not list(tmp_path.glob(".*"))


def members(session: int) -> list[int]:
    """Processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_help_and_the_command_line(made, tmp_path):
    done = subprocess.run(
        command(made, tmp_path / "shards"), capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 samples in 3 shards")
    assert json.loads((tmp_path / "shards" / "statistics.json").read_text())["images"] == SPLITS
    assert cv2.getNumThreads() > 0  # only the worker processes were set to one thread


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path):
    """5,000 scenes under 1.5 GB, and hardly more than for 500: the sum over all processes, sampled while it runs."""
    write_digits(tmp_path / "source", DigitsSettings(train=40, val=5, test=5, size=96, seed=0))
    layout = open_layout("folder", tmp_path / "source")
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text('{"success": true, "digest": "5.dir", "form": null}')
    peaks = {}
    for times in (10, 100):
        rows = [row(s, id=f"{s.id} {n}") for s in layout.samples() for n in range(times)]
        (tmp_path / "dataset").mkdir(exist_ok=True)
        write_dataset(
            tmp_path / "dataset",
            layout="folder",
            root="../source",
            labels=layout.labels,
            source={},
            revision=None,
            digest="5.dir",
            rows=rows,
        )
        process = subprocess.Popen(command(tmp_path, tmp_path / "shards"), cwd=Path(__file__).parents[3])
        peaks[len(rows)] = 0
        while process.poll() is None:
            peaks[len(rows)] = max(peaks[len(rows)], resident(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
    print(f"peak of all processes: { ({count: f'{peak / 1e6:.0f} MB' for count, peak in peaks.items()}) }")
    assert peaks[5000] < 1.5e9
    assert peaks[5000] < 1.3 * peaks[500]


def resident(pid: int) -> int:
    """Bytes in memory of a process and all below it."""
    import psutil

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(process.memory_info().rss for process in family)
    except psutil.Error:  # one has just ended
        return 0
