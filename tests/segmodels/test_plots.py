"""Pictures: what is drawn, and that it can be read from 2 to 150 classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from segmodels import plots
from segmodels.labels import LabelMap

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = LabelMap(("sky", "road", "tree"), ((70, 130, 180), (128, 64, 128), (107, 142, 35)), {0: 0, 1: 1, 2: 2, 9: 255})
COUNTS = np.array([[1_250_000, 3, 0], [120, 880, 0], [0, 0, 0]])


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def labels_of(count: int) -> LabelMap:
    return LabelMap(
        tuple(f"some class {i}" for i in range(count)),
        tuple((i, 255 - i, 7 * i % 256) for i in range(count)),
        {i: i for i in range(count)},
    )


def test_dollar_signs_in_names_are_no_formula(tmp_path: Path) -> None:
    figure = plots.confusion_matrix(np.eye(2, dtype=np.int64), ["$x_{$", "road"])
    plots.save(figure, tmp_path / "matrix.png", dpi=20)
    assert Image.open(tmp_path / "matrix.png").width > 100


def test_letters_of_east_asia_come_from_a_font_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = font_manager.FontEntry(name="DejaVu Sans")
    fonts = [own, font_manager.FontEntry(name="SimHei"), font_manager.FontEntry(name="WenQuanYi Zen Hei")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    plots._families.cache_clear()
    figure = plots.confusion_matrix(np.eye(2, dtype=np.int64), ["道路", "Straße"])
    plots.as_plain_text(figure)
    plots._families.cache_clear()
    families = {text.get_text(): text.get_fontfamily() for text in figure.axes[0].get_yticklabels()}
    assert families["道路"] == ["DejaVu Sans", "WenQuanYi Zen Hei", "SimHei"]
    assert families["Straße"] == ["sans-serif"]


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class() -> None:
    left, right = plots.confusion_matrix(COUNTS, LABELS.classes).axes
    assert texts(left) == ["1.2M", "3", "0", "120", "880", "0", "0", "0", "0"]
    assert texts(right) == ["100", "<1", "0", "12", "88", "0", "", "", ""]
    shares = right.images[0].get_array()
    np.testing.assert_allclose(shares[:2], COUNTS[:2] / COUNTS[:2].sum(axis=1, keepdims=True))
    assert np.ma.getmaskarray(shares)[2].all()
    assert not np.ma.getmaskarray(shares)[:2].any()
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(LABELS.classes)
    assert (left.get_ylabel(), left.get_xlabel()) == ("truth", "prediction")


def test_a_matrix_without_any_pixel_is_drawn(tmp_path: Path) -> None:
    plots.save(plots.confusion_matrix(np.zeros((3, 3), dtype=np.int64), LABELS.classes), tmp_path / "confusion.png")
    assert Image.open(tmp_path / "confusion.png").size[0] > 300


def test_the_most_confused_pairs_take_the_place_of_numbers_that_would_be_too_small() -> None:
    counts = np.diag(np.full(31, 90))
    counts[4, 7], counts[2, 0] = 30, 10
    figure = plots.confusion_matrix(counts, labels_of(31).classes)
    assert texts(figure.axes[0]) == []
    assert texts(figure)[0].splitlines() == [
        "most confused",
        "some class 4 → some class 7  25 %",
        "some class 2 → some class 0  10 %",
    ]


@pytest.mark.parametrize("count", [2, 11, pytest.param(150, marks=pytest.mark.slow)])
def test_confusion_matrix_gives_every_class_room(tmp_path: Path, count: int) -> None:
    counts = np.random.default_rng(0).integers(0, 10**6, (count, count))
    figure = plots.confusion_matrix(counts, labels_of(count).classes)
    assert len(texts(figure.axes[1])) == (count**2 if count <= 30 else 0)
    plots.save(figure, tmp_path / "confusion.png")
    width, height = Image.open(tmp_path / "confusion.png").size
    pixels_per_class = figure.axes[0].get_window_extent().height * 110 / figure.dpi / count
    assert pixels_per_class >= (30 if count <= 30 else 14)
    assert width > height > 14 * count


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        plots.save(plots.confusion_matrix(COUNTS, LABELS.classes), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_class_bars_are_sorted_and_name_absent_classes(tmp_path: Path) -> None:
    figure = plots.class_bars([0.25, np.nan, 0.75], LABELS, "IoU", 0.5)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["tree", "sky", "road"]
    assert texts(axes) == ["0.750", "0.250", "does not occur"]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0]
    assert axes.lines[0].get_xdata()[0] == 0.5
    plots.save(figure, tmp_path / "bars.png")


def test_blend_mixes_the_class_colour_and_leaves_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    mixed = plots.blend(image, np.array([[0, 2, 255]], dtype=np.uint8), LABELS, alpha=0.5)
    np.testing.assert_array_equal(mixed, [[(85, 115, 140), (104, 121, 68), (100, 100, 100)]])
    np.testing.assert_array_equal(image, 100)


def test_the_error_picture_marks_wrong_pixels_only_where_there_is_a_truth() -> None:
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    picture = plots.error_picture(image, np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 2]], np.uint8), LABELS)
    assert len(set(picture[0, 0])) == 1
    assert tuple(picture[0, 1]) == plots.WRONG
    assert tuple(picture[0, 2]) not in (plots.WRONG, tuple(picture[0, 0]))


def test_comparisons_show_each_image_at_its_labels_size_with_its_error(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    prediction = truth.copy()
    prediction[:10] = 1
    truth[20:] = 255
    rows = [
        plots.class_maps(np.zeros((20, 30, 3), np.uint8), truth, prediction, LABELS, "best 0.9 · a"),
        plots.class_maps(np.ones((9, 9, 3), np.uint8), truth, truth, LABELS, "0" * 64 + " · AP 0.703"),
    ]
    figure = plots.comparisons(rows, LABELS)
    assert not any(len(axis.get_xticks()) + len(axis.get_yticks()) for axis in figure.axes), "each costs time"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "best 0.9 · a",
        "truth",
        "prediction",
        "error: 50.0% of pixels",
        f"{'0' * 17}…{'0' * 13} · AP 0.703",
        "truth",
        "prediction",
        "error: 0.0% of pixels",
    ]
    assert all(axes.images[0].get_array().shape == (40, 60, 3) for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "road", "wrong"]
    plots.save(figure, tmp_path / "best.png")
    assert Image.open(tmp_path / "best.png").size[0] > 1000


def test_the_dvc_template_for_counts_is_valid_and_keeps_the_order_of_the_classes() -> None:
    altair = pytest.importorskip("altair", reason="altair validates Vega-Lite")
    from dvc_render.vega import VegaRenderer

    rows = [
        {"actual": actual, "predicted": predicted, "count": str(COUNTS[i, j]), "share": "", "rev": "workspace"}
        for i, actual in enumerate(LABELS.classes)
        for j, predicted in enumerate(LABELS.classes)
    ]
    renderer = VegaRenderer(
        rows,
        "confusion",
        template="confusion_counts",
        template_dir=str(REPOSITORY / ".dvc" / "plots"),
        x="predicted",
        y="actual",
    )
    filled = renderer.get_filled_template()
    altair.Chart.from_dict(filled)  # raises on anything that the Vega-Lite schema does not know
    assert filled["data"]["values"] == rows
    assert "DVC_METRIC" not in json.dumps(filled)
    assert (filled["spec"]["encoding"]["x"]["field"], filled["spec"]["encoding"]["y"]["field"]) == (
        "predicted",
        "actual",
    )
    assert filled["spec"]["encoding"]["x"]["sort"] is None
