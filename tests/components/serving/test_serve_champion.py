"""serve: the champion of a real registry, another one in its place, and versions that cannot be loaded."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ports import free_port
from small_pipeline import LABELS, use_local_store, write_model, write_run
from small_server import served, until

from components.__main__ import main
from components.commands.serve import _listen
from components.serving import live_model
from components.serving.live_model import LiveModel, ModelSource
from components.tracking.client import mlflow_client
from components.tracking.model_registry import Registry, Version
from segmodels.errors import InputError, TransientError
from segmodels.files import DESCRIPTION, WEIGHTS
from segmodels.inference.bundle import bundle_digest, load_bundle
from segmodels.inference.description import DamagedBundleError
from segmodels.inference.predictor import Predictor
from segmodels.tasks.registry import create_task

NAME = "scenes"
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


class Store:
    """A registry with two good versions, 1 and 2, and one whose weights are damaged, 3."""

    def __init__(self, folder: Path) -> None:
        self.models: dict[str, Path] = {}
        run = write_run(write_model(folder / "first", steps=1), folder / "state")
        self.registry = Registry(mlflow_client(), NAME)
        for seed, number in enumerate("123"):
            contents = folder / number
            model = self.models[number] = write_model(contents / "bundle", steps=3, seed=seed)
            if number == "3":
                (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:1000])
            self.registry.add(
                run_id=run,
                model_digest=bundle_digest(model),
                contents=contents,
                task=create_task("semantic", LABELS),
                example=IMAGE[None],
                tags={},
                description="",
            )

    def crown(self, number: str) -> None:
        self.registry.make_champion(Version(number, {}), None)

    def artifacts(self, number: str) -> Path:
        return (
            Path(self.registry.client.get_model_version_download_uri(NAME, number).removeprefix("file:")) / "artifacts"
        )

    def mask(self, number: str) -> np.ndarray:
        return Predictor(load_bundle(self.models[number])).masks([IMAGE])[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("registry")
        use_local_store(folder, monkeypatch)
        yield Store(folder)


@pytest.fixture
def following() -> Iterator[Callable[[LiveModel], threading.Thread]]:
    """Lets models follow their alias until the test ends."""
    stop, threads = threading.Event(), []

    def start(live: LiveModel) -> threading.Thread:
        threads.append(threading.Thread(target=live.follow, args=(0.02, stop)))
        threads[-1].start()
        return threads[-1]

    yield start
    stop.set()
    for thread in threads:
        thread.join(30)


def test_the_champion_answers_under_its_registered_name_and_version(store: Store) -> None:
    store.crown("2")
    with served(f"models:/{NAME}@champion") as (client, _):
        assert client.get(f"/v2/models/{NAME}").json()["versions"] == ["2"]
        tensor = {"name": "images", "shape": [1, 24, 32, 3], "datatype": "UINT8", "data": [IMAGE.tolist()]}
        answer = client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]}).json()
        assert answer["model_version"] == "2"
        np.testing.assert_array_equal(np.reshape(answer["outputs"][0]["data"], (24, 32)), store.mask("2"))


def test_a_new_champion_takes_the_place_of_the_old_one(
    store: Store, following: Callable[[LiveModel], threading.Thread]
) -> None:
    store.crown("1")
    with served(f"models:/{NAME}@champion") as (client, live):
        following(live)
        before = live.current
        for number in ("2", "1"):
            store.crown(number)
            until(lambda number=number: live.current.version == number)
            assert client.get(f"/v2/models/{NAME}/versions/{number}/ready").status_code == 200
        assert client.get(f"/v2/models/{NAME}/versions/2/ready").status_code == 404
        assert before is not None
        np.testing.assert_array_equal(
            before.predictor.masks([IMAGE])[0], store.mask("1")
        )  # who still has it can use it


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_and_is_told_once(
    store: Store,
    following: Callable[[LiveModel], threading.Thread],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.crown("1")
    live = LiveModel(ModelSource(f"models:/{NAME}@champion"))
    live.update()
    loads: list[str] = []
    load = ModelSource.load
    monkeypatch.setattr(ModelSource, "load", lambda self, *given: loads.append(given[0]) or load(self, *given))
    following(live)
    store.crown("3")
    until(lambda: loads == ["3"])
    time.sleep(0.5)
    assert live.current is not None
    assert live.current.version == "1"
    store.crown("2")
    until(lambda: live.current is not None and live.current.version == "2")
    assert loads == ["3", "2"]  # trying again would not help
    said = [line for line in capsys.readouterr().out.splitlines() if "keeps serving" in line]
    assert len(said) == 1
    assert WEIGHTS in said[0]
    assert said[0].endswith(f"{NAME} version 1 keeps serving")


@pytest.mark.parametrize("away", ["", "bundle", f"bundle/{WEIGHTS}", f"bundle/{DESCRIPTION}"])
def test_a_champion_whose_files_are_away_is_served_once_they_are_back(
    store: Store,
    following: Callable[[LiveModel], threading.Thread],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    away: str,
) -> None:
    store.crown("1")
    source = ModelSource(f"models:/{NAME}@champion")
    live = LiveModel(source)
    live.update()
    looks: list[str] = []
    ask = source.version_now
    monkeypatch.setattr(source, "version_now", lambda: looks.append(ask()) or looks[-1])
    place = store.artifacts("2") / away
    place.rename(place.with_name("away"))
    try:
        following(live)
        store.crown("2")
        until(lambda: looks.count("2") > 3)
        assert live.current is not None
        assert live.current.version == "1"
    finally:
        place.with_name("away").rename(place)
    until(lambda: live.current is not None and live.current.version == "2")
    logged = [line for line in capsys.readouterr().out.splitlines() if "keeps serving" in line]
    assert len(logged) == 1
    assert f"models:/{NAME}/2" in logged[0]


def test_a_champion_with_damaged_files_is_downloaded_again_only_after_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.crown("1")
    source = ModelSource(f"models:/{NAME}@champion")
    live = LiveModel(source)
    live.update()
    now, downloads, files = [1000.0], [], source.files
    monkeypatch.setattr(live_model, "monotonic", lambda: now[0])
    monkeypatch.setattr(source, "files", lambda version: downloads.append(version) or files(version))
    store.crown("2")
    weights = store.artifacts("2") / "bundle" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(DamagedBundleError):
            live.update()
    finally:
        weights.write_bytes(whole)
    live.update()
    assert (live.current and live.current.version, downloads) == ("1", ["2"])
    now[0] += live_model.DAMAGED_SECONDS
    live.update()
    assert (live.current and live.current.version, downloads) == ("2", ["2", "2"])


def test_a_registry_that_goes_away_is_logged_once_and_asked_again(
    store: Store,
    following: Callable[[LiveModel], threading.Thread],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One outage has many faces: a refused connection, a time-out, 503."""
    store.crown("1")
    source = ModelSource(f"models:/{NAME}@champion")
    live = LiveModel(source)
    live.update()
    ask, faces = source.version_now, [None, TransientError("MLflow does not answer (503)"), OSError("reset"), None]
    asked: list[BaseException | None] = []

    def version_now() -> str:
        asked.append(faces[len(asked) % len(faces)])
        if error := asked[-1]:
            raise error
        return ask()

    monkeypatch.setattr(source, "version_now", version_now)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        following(live)
        until(lambda: len(asked) > 2 * len(faces))
    store.crown("2")
    until(lambda: live.current is not None and live.current.version == "2")
    logged = [line for line in capsys.readouterr().out.splitlines() if "keeps serving" in line]
    assert len(logged) == 1
    assert "does not answer" in logged[0]
    assert logged[0].endswith(f"{NAME} version 1 keeps serving")


@pytest.mark.parametrize("address", [f"models:/{NAME}/1", "folder"])
def test_a_fixed_version_and_a_folder_follow_nothing(
    store: Store, address: str, following: Callable[[LiveModel], threading.Thread]
) -> None:
    live = LiveModel(ModelSource(str(store.models["1"]) if address == "folder" else address))
    live.update()
    following(live).join(10)
    assert live.current is not None
    np.testing.assert_array_equal(live.current.predictor.masks([IMAGE])[0], store.mask("1"))


# --- what cannot be served


@pytest.fixture
def signals() -> Iterator[None]:
    """As they were before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("store", "signals")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (f"models:/{NAME}@nobody", f"model models:/{NAME}@nobody is not in MLflow"),
        (f"models:/{NAME}/17", f"model models:/{NAME}/17 is not in MLflow"),
        ("models:/nothing@champion", "model models:/nothing@champion is not in MLflow"),
        (f"models:/{NAME}/3", WEIGHTS),
        (
            f"models:/{NAME}",
            (
                f"model 'models:/{NAME}' is not an address in the registry, expected models:/NAME@ALIAS or"
                " models:/NAME/VERSION"
            ),
        ),
        ("no-folder", "model 'no-folder' is neither a folder nor an address in the registry"),
        (".", "model.json is not there, expected the folder of a trained model"),
    ],
)
def test_a_model_that_is_not_there_ends_the_server_with_code_2(
    model: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", model, "--port", "0"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("signals")
def test_a_registry_that_does_not_answer_ends_the_server_with_code_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["serve", "--model", f"models:/{NAME}@champion", "--port", "0"]) == 75
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.usefixtures("signals")
def test_options_out_of_range_and_a_taken_port_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in {
        "--port": "70000",
        "--batch-window": "-1",
        "--max-batch": "0",
        "--max-megapixels": "5000",
        "--poll": "0",
        "--threads": "0",
        "--log-share": "1.5",
        "--log-megabytes": "0",
    }.items():
        assert main(["serve", "--model", str(tmp_path), option, value]) == 2
        assert f"error: {option} is {value}" in capsys.readouterr().err.replace(".0,", ",")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--model", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port or --host" in capsys.readouterr().err


def test_answers_are_sent_at_once() -> None:
    """Nagle's algorithm would hold the second packet of an answer until the first is acknowledged, 40 ms later."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_addresses_in_the_registry_have_one_of_two_forms() -> None:
    for address in ("models:/", "models:/@champion", "models:/name@", "models:/name/"):
        with pytest.raises(InputError, match="is not an address in the registry"):
            ModelSource(address).version_now()
