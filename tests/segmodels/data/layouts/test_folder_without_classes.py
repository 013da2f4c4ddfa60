"""The layout folder without a classes file: classes come from masks that leave no doubt."""

from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import halves, opened

from segmodels.data.layouts import find_layout, open_layout
from segmodels.errors import InputError


def with_masks(root: Path, *masks: np.ndarray, palette: np.ndarray | None = None, ending: str = "png") -> Path:
    for number, mask in enumerate(masks):
        trees.photo(root / "images" / f"{number}.png")
        trees.save(root / "masks" / f"{number}.{ending}", mask, palette)
    assert find_layout(root) == "folder"
    return root


def colored(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    return np.where(halves(0, 1)[:, :, None] == 1, np.uint8(right), np.uint8(left)).astype(np.uint8)


@pytest.mark.parametrize(
    "masks",
    [
        (halves(0, 255), halves(0, 0)),
        (halves(0, 1), halves(1, 1)),
        (colored((0, 0, 0), (255, 255, 255)), colored((0, 0, 0), (0, 0, 0))),
        (halves(0, 1).astype(bool),),
        (halves(0, 1).astype(np.uint16) * 65535,),
    ],
)
def test_binary_masks_are_background_and_foreground(masks, tmp_path: Path) -> None:
    layout, _, annotation = opened("folder", with_masks(tmp_path, *masks))
    assert layout.labels.classes == ("background", "foreground")
    np.testing.assert_array_equal(annotation.classes, halves(0, 1))


def test_palette_masks_have_the_colours_of_their_palette(tmp_path: Path) -> None:
    masks = halves(0, 3), halves(2, 255)
    layout, samples, annotation = opened("folder", with_masks(tmp_path, *masks, palette=trees.VOC_PALETTE))
    assert layout.labels.classes == ("class 0", "class 1", "class 2", "class 3")
    assert layout.labels.palette == tuple(map(tuple, trees.VOC_PALETTE[:4].tolist()))
    np.testing.assert_array_equal(annotation.classes, masks[0])
    np.testing.assert_array_equal(layout.annotation(samples[1]).classes, masks[1])  # 255 is void


def with_palettes(root: Path, *masks: tuple[np.ndarray, list[tuple[int, int, int]]]) -> Path:
    for number, (mask, palette) in enumerate(masks):
        trees.photo(root / "images" / f"{number}.png")
        trees.save(root / "masks" / f"{number}.png", mask, np.array(palette))
    return root


BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


@pytest.mark.parametrize("highest", [1, 255])
def test_white_is_the_foreground_whatever_its_index(highest: int, tmp_path: Path) -> None:
    root = with_palettes(tmp_path, (halves(0, 1), [BLACK, WHITE]), (halves(1, 0), [WHITE, BLACK]))
    trees.photo(root / "images" / "2.png")
    trees.save(root / "masks" / "2.png", halves(0, highest))
    layout, samples, _ = opened("folder", root)
    assert layout.labels.classes == ("background", "foreground")
    for sample in samples:
        np.testing.assert_array_equal(layout.annotation(sample).classes, halves(0, 1))


def test_palettes_of_several_lengths_are_one_where_they_agree(tmp_path: Path) -> None:
    root = with_palettes(tmp_path, (halves(0, 1), [BLACK, RED]), (halves(1, 2), [BLACK, RED, GREEN]))
    layout, samples, _ = opened("folder", root)
    assert layout.labels.palette == (BLACK, RED, GREEN)
    np.testing.assert_array_equal(layout.annotation(samples[1]).classes, halves(1, 2))


@pytest.mark.parametrize(
    ("palette", "mask"),
    [([BLACK, GREEN, RED], halves(0, 1)), ([BLACK, GREEN, RED], halves(0, 2)), ([BLACK, GREEN], halves(0, 1))],
)
def test_palettes_that_disagree_are_named(palette, mask, tmp_path: Path) -> None:
    root = with_palettes(tmp_path, (halves(0, 1), [BLACK, RED, GREEN]), (mask, palette))
    sentence = r"palettes of masks/0\.png and masks/1\.png disagree, \{0: \(0, 0, 0\), 1: \(255, 0, 0\)\} and \{0:"
    with pytest.raises(InputError, match=sentence):
        open_layout("folder", root)


def test_masks_that_were_not_looked_at_are_read_by_their_palette(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("segmodels.data.inferred_classes.LOOKED_AT", 2)
    whole = (halves(1, 2), [BLACK, RED, GREEN])
    layout, samples, _ = opened("folder", with_palettes(tmp_path, whole, (halves(1, 0), [GREEN, RED]), whole))
    np.testing.assert_array_equal(layout.annotation(samples[1]).classes, halves(1, 2))


def test_colours_become_classes_that_are_named_by_them(tmp_path: Path) -> None:
    masks = colored((0, 0, 0), (128, 64, 128)), colored((244, 35, 232), (128, 64, 128)), colored((0, 0, 0), (0, 0, 0))
    layout, samples, annotation = opened("folder", with_masks(tmp_path, *masks))
    assert layout.labels.classes == ("#000000", "#804080", "#f423e8")
    np.testing.assert_array_equal(annotation.classes, halves(0, 1))
    np.testing.assert_array_equal(layout.annotation(samples[1]).classes, halves(2, 1))


@pytest.mark.parametrize(
    ("masks", "ending", "sentence"),
    [
        ((halves(0, 2),), "png", r"its masks leave doubts: they hold the grey values \[0, 2\]; correct"),
        ((halves(3, 3),), "png", r"grey values \[3\]"),
        (
            (np.dstack([halves(0, 0)] * 3 + [halves(0, 255)]),),
            "png",
            r"values \[0\], and alpha, which is not read; correct",
        ),
        ((halves(0, 1), colored((0, 0, 0), (9, 8, 7))), "png", r"2 colours and grey values"),
        ((trees.RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8),), "png", r"holds 768 colours, expected at most 64"),
        ((colored((0, 0, 0), (200, 30, 90)),), "jpg", r"0\.jpg holds .*JPEG changes label values.*; correct the masks"),
        ((np.dstack([np.roll(halves(0, 255), 3, axis=1)] * 3),), "webp", r"\d+ values, and lossy WebP changes label v"),
        ((np.roll(halves(0, 255), 3, axis=1),), "jpg", r"0\.jpg holds \d+ values, and JPEG changes label values"),
    ],
)
def test_masks_that_leave_doubts_ask_for_a_classes_file(masks, ending: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        open_layout("folder", with_masks(tmp_path, *masks, ending=ending))


def test_black_and_white_in_jpeg_is_read_by_the_nearer_value_where_the_classes_file_says_so(tmp_path: Path) -> None:
    mask = np.roll(halves(0, 255), 3, axis=1)
    (tmp_path / "classes.txt").write_text("skin, 0\nmole, 255\n")
    _, _, annotation = opened("folder", with_masks(tmp_path, mask, ending="jpg"))
    np.testing.assert_array_equal(annotation.classes, mask // 255)
    (tmp_path / "classes.txt").write_text("skin, 0\nmole, 200\n")
    with pytest.raises(InputError, match="holds unknown labels"):
        opened("folder", tmp_path)
