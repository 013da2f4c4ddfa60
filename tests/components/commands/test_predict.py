"""predict: masks and overlays of a folder of images, and images that cannot be read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pipeline import LABELS, use_local_store, write_model, write_run, write_shards

from components.__main__ import main
from components.commands.predict import predict
from components.params.schema import EvaluateParams, RegisterParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from segmodels.errors import InputError
from segmodels.inference.bundle import copy_bundle, load_bundle
from segmodels.inference.crf import DenseCRF
from segmodels.inference.predictor import Predictor
from segmodels.tasks.semantic import SemanticSettings
from segmodels.windows import SlidingWindow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("predict") / "model", steps=20)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, np.ndarray]:
    """Images of several sizes, formats and modes in ``tmp_path/images``; each as the model should see it."""
    rng = np.random.default_rng(0)
    sizes = {
        "a.png": (20, 30),
        "b.png": (20, 30),
        "deep/c.bmp": (33, 17),
        "d.TIF": (8, 8),
        "grey.png": (16, 16),
        "palette.gif": (12, 14),
    }
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    expected = {}
    for name, size in sizes.items():
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        if name == "grey.png":
            picture = picture.convert("L")
        if name == "palette.gif":
            picture = picture.convert("P")
        picture.save(folder / name)
        expected[name] = np.asarray(Image.open(folder / name).convert("RGB"))
    (folder / "notes.txt").write_text("not an image")
    return expected


def mask_name(name: str) -> str:
    return str(Path(name).with_suffix(".png"))


def test_every_image_gets_its_mask_and_overlay(model: Path, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(str(model), tmp_path / "images", out)
    predictor = Predictor(load_bundle(model))
    for name, pixels in images.items():
        picture = Image.open(out / "masks" / mask_name(name))
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), predictor.masks([pixels])[0])
        assert picture.getpalette()[: 3 * len(LABELS.palette)] == [value for color in LABELS.palette for value in color]
        overlay = Image.open(out / "overlays" / Path(name).with_suffix(".jpg"))
        assert overlay.size == picture.size
    assert len(list((out / "masks").rglob("*.*"))) == len(list((out / "overlays").rglob("*.*"))) == len(images)
    with (out / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["class"]) for row in rows] == [(str(i), name) for i, name in enumerate(LABELS.classes)]


def test_overlays_show_the_image_under_the_colours_of_the_mask(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), LABELS.palette[2]).save(tmp_path / "images" / "pond.png")
    predict(str(model), tmp_path / "images", tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "pond.png"))
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "pond.jpg")).astype(int)
    expected = (np.array(LABELS.palette)[mask] + LABELS.palette[2]) / 2
    assert np.abs(overlay - expected).mean() < 4  # what JPEG costs


def test_more_images_than_are_held_at_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(45):
        Image.new("RGB", (10 + index % 3, 12), (index, 0, 0)).save(tmp_path / "images" / f"{index:02d}.png")
    predict(str(model), tmp_path / "images", tmp_path / "out")
    assert [Image.open(path).size[0] for path in sorted((tmp_path / "out" / "masks").iterdir())] == [
        10 + index % 3 for index in range(45)
    ]


def test_windows_and_flip_are_those_of_the_predictor(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    predict(str(model), tmp_path / "images", tmp_path / "out", window=16, flip=True)
    predictor = Predictor(
        load_bundle(model), settings=SemanticSettings(flip=True, sliding_window=SlidingWindow((16, 16)))
    )
    for name, pixels in images.items():
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "out" / "masks" / mask_name(name))), predictor.masks([pixels])[0]
        )


@pytest.mark.parametrize(
    ("options", "predictor"),
    [
        (["--scales", "0.5", "1"], {"scales": (0.5, 1.0)}),
        (["--crf"], {"crf": DenseCRF()}),
        (
            ["--window", "16", "--overlap", "0.25", "--weighting", "uniform"],
            {"sliding_window": SlidingWindow((16, 16), 0.25, "uniform")},
        ),
    ],
)
def test_options_of_the_command_line_reach_the_predictor(
    options: list[str], predictor: dict, model: Path, images: dict, tmp_path: Path
) -> None:
    assert (
        main(
            [
                "predict",
                "--model",
                str(model),
                "--images",
                str(tmp_path / "images" / "a.png"),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 0
    )
    bundle = load_bundle(model)
    expected, plain = (
        Predictor(bundle, settings=SemanticSettings(**predictor)).masks([images["a.png"]])[0],
        Predictor(bundle).masks([images["a.png"]])[0],
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")), expected)
    assert (expected != plain).any()
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 1  # --images names one file, not its folder


@pytest.fixture
def measured(model: Path, tmp_path: Path) -> Path:
    """The model with settings that it was measured with."""
    copy_bundle(model, tmp_path / "measured", SemanticSettings(flip=True, scales=(0.5, 1.0)))
    return tmp_path / "measured"


def test_a_model_predicts_with_the_settings_that_it_was_measured_with(
    measured: Path, model: Path, images: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(str(measured), tmp_path / "images" / "a.png", tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
    bundle = load_bundle(model)
    as_measured, plain = (
        Predictor(bundle, settings=one).masks([images["a.png"]])[0]
        for one in ({"flip": True, "scales": [0.5, 1.0]}, SemanticSettings())
    )
    np.testing.assert_array_equal(mask, as_measured)
    assert (mask != plain).any()
    assert "predicting with" not in capsys.readouterr().out


def test_options_override_what_was_measured_and_say_so(
    measured: Path, model: Path, images: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(str(measured), tmp_path / "images" / "a.png", tmp_path / "out", flip=False, scales=(1.0,))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")),
        Predictor(load_bundle(model)).masks([images["a.png"]])[0],
    )
    assert (
        "measured with flip=True, scales=[0.5, 1.0], sliding_window=None, crf=None;"
        " predicting with flip=False, scales=[1.0]," in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crf", "--window", "16"], "expected one"),
        (["--scales", "1", "0"], "scales.1 is 0.0, expected a number greater than 0"),
        (["--overlap", "0.5"], "--overlap needs a sliding window: give --window too"),
        (["--window", "16", "--weighting", "cosine"], "expected one of gaussian, uniform"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    options: list[str], said: str, model: Path, images: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert images
    assert (
        main(
            [
                "predict",
                "--model",
                str(model),
                "--images",
                str(tmp_path / "images"),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 2
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_images_are_named_at_the_end_and_the_others_are_done(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "images" / "b.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (tmp_path / "images" / "deep" / "empty.jpg").write_bytes(b"")
    options = ["predict", "--model", str(model), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main(options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "2 of 7 images could not be predicted, the other 5 are in" in message
    assert "b.png" in message
    assert "empty.jpg" in message
    done = {str(path.relative_to(tmp_path / "out" / "masks")) for path in (tmp_path / "out" / "masks").rglob("*.png")}
    assert done == {mask_name(name) for name in images} - {"b.png"}


def test_images_of_twelve_bits_in_sixteen_are_named_and_turned_photos_have_masks_as_viewers_show_them(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (24, 40), dtype=np.uint16)
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "dark.png")
    Image.fromarray(values * 16).save(tmp_path / "images" / "full.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((values // 16).astype(np.uint8)).save(tmp_path / "images" / "turned.jpg", exif=exif)
    predict(str(model), tmp_path / "images", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "saw 1 images of 16 bits nearly black, as their values are below 8192 of 65535 (dark.png)" in printed
    assert Image.open(tmp_path / "out" / "masks" / "turned.png").size == (24, 40)
    assert Image.open(tmp_path / "out" / "overlays" / "turned.jpg").size == (24, 40)


def test_an_earlier_result_below_the_images_is_not_predicted_again(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for _ in range(2):
        predict(str(model), tmp_path / "images", tmp_path / "images" / "out")
    assert len(list((tmp_path / "images" / "out" / "masks").rglob("*.png"))) == len(images)


def test_masks_that_are_not_of_predict_are_not_replaced(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    drawn = tmp_path / "masks" / "a.png"
    Image.fromarray(images["a.png"]).save(drawn)
    before = drawn.read_bytes()
    for given, out, said in (
        ("images", tmp_path, "images lies in .*, where the results go"),
        ("images/a.png", tmp_path, "masks holds files but .* no classes.csv"),
        ("images", tmp_path / "images", "images lies in .*images, where the results go"),
    ):
        with pytest.raises(InputError, match=said):
            predict(str(model), tmp_path / given, out)
    predict(str(model), drawn, tmp_path / "out")
    with pytest.raises(InputError, match="where the results go"):
        predict(str(model), tmp_path / "out" / "masks" / "a.png", tmp_path / "out")
    assert drawn.read_bytes() == before


def test_a_name_without_an_ending_is_predicted(model: Path, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(images["a.png"]).save(tmp_path / "scan", "PNG")
    predict(str(model), tmp_path / "scan", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "scan.png").is_file()


def test_two_images_of_one_name_are_refused_before_any_work(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    Image.fromarray(images["a.png"]).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg and a.png in .* would both become a.png: rename one"):
        predict(str(model), tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_an_empty_one_and_a_missing_model_are_named(
    model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert images
    with pytest.raises(InputError, match=r"folder of images .*nowhere does not exist"):
        predict(str(model), tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        predict(str(model), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match=r"model.json is not there"):
        predict(str(tmp_path / "empty"), tmp_path / "images", tmp_path / "out")
    for address in (str(tmp_path / "no-model"), "scenes/1"):
        with pytest.raises(InputError, match=rf"model '{address}' is neither a folder nor .*models:/NAME/VERSION"):
            predict(address, tmp_path / "images", tmp_path / "out")


def test_a_file_that_is_no_image_is_refused_without_a_word_on_others(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"1 of 1 images could not be predicted: file .*notes.txt"):
        predict(str(model), tmp_path / "notes.txt", tmp_path / "out")


def test_the_champion_of_the_registry_predicts(
    images: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    shards, model = write_shards(tmp_path / "shards"), write_model(tmp_path / "model", steps=20)
    write_run(model, tmp_path / "state")
    evaluate(EvaluateParams(overlays=0), shards, model, tmp_path / "evaluation")
    register(RegisterParams(name="scenes"), shards, model, tmp_path / "evaluation", tmp_path / "registration")
    for name in ("models:/scenes@champion", "models:/scenes/1"):
        out = tmp_path / name[-1]
        predict(name, tmp_path / "images", out)
        (mask,) = Predictor(load_bundle(model)).masks([images["a.png"]])
        np.testing.assert_array_equal(np.asarray(Image.open(out / "masks" / "a.png")), mask)
    for name in ("models:/scenes@challenger", "models:/scenes/7", "models:/other@champion"):
        with pytest.raises(InputError, match=f"model {name} is not in MLflow"):
            predict(name, tmp_path / "images", tmp_path / "out")
