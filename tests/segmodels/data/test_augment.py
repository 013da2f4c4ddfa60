"""Augmentation: geometry against independent resampling, colour against float arithmetic, and what is not read."""

import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from scipy import ndimage

from segmodels.annotations import Annotation, Segment
from segmodels.data import augment as augmentation
from segmodels.data.augment import ZEROS, Outside
from segmodels.errors import InputError

Augment = partial(augmentation.Augment, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0)
"""Nothing but what a test asks for."""


class Fixed:
    """A generator whose eight draws are given: scale, row, column, flip, brightness, contrast, saturation, hue."""

    def __init__(self, *draws: float) -> None:
        self.draws = np.array([*draws, *[0.5] * (8 - len(draws))])

    def random(self, count: int) -> np.ndarray:
        assert count == 8
        return self.draws


def augmented(
    augment: augmentation.Augment, image: np.ndarray, mask: np.ndarray, rng: object, outside: Outside = ZEROS
) -> tuple[np.ndarray, np.ndarray]:
    """The crop's image and class map."""
    crop, annotation = augment(image, Annotation.of_classes(mask), rng, outside)
    assert annotation.layers.shape == (0, *crop.shape[:-1])
    return crop, annotation.classes


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def labels_of(image: np.ndarray) -> np.ndarray:
    """A mask that follows the image: 1 where red is above 127."""
    return (image[:, :, 0] > 127).astype(np.uint8)


def test_without_any_option_nothing_changes():
    image = picture(30, 40)
    crop, labels = augmented(Augment(), image, labels_of(image), np.random.default_rng(0))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(labels, labels_of(image))


def test_a_plain_crop_is_a_part_of_the_image_and_every_place_is_drawn():
    image = np.zeros((7, 9, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(7)[:, None], np.arange(9)
    corners = set()
    for seed in range(300):
        crop, labels = augmented(Augment(crop=(4, 5)), image, image[:, :, 1], np.random.default_rng(seed))
        y, x = crop[0, 0, :2].tolist()
        np.testing.assert_array_equal(crop, image[y : y + 4, x : x + 5])
        np.testing.assert_array_equal(labels, image[y : y + 4, x : x + 5, 1])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0])
def test_a_scaled_crop_equals_resampling_at_half_pixel_centres(scale):
    """Bilinear and nearest sampling written out in numpy, for the window that the draws choose."""
    image = picture(160, 200)
    size = 60
    crop, labels = augmented(
        Augment(crop=(size, size), scale=(scale, scale)), image, labels_of(image), Fixed(0, 0.3, 0.7)
    )
    window = round(size / scale)
    y0, x0 = int(0.3 * (160 - window + 1)), int(0.7 * (200 - window + 1))
    part = image[y0 : y0 + window, x0 : x0 + window].astype(float)
    at = ((np.arange(size) + 0.5) * window / size - 0.5).clip(0, window - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, window - 1), at - low
    rows = part[low] * (1 - share)[:, None, None] + part[high] * share[:, None, None]
    expected = rows[:, low] * (1 - share)[None, :, None] + rows[:, high] * share[None, :, None]
    assert np.abs(crop - expected).max() <= 1.01
    nearest = np.floor((np.arange(size) + 0.5) * window / size).astype(int)
    np.testing.assert_array_equal(
        labels, labels_of(image)[y0 : y0 + window, x0 : x0 + window][np.ix_(nearest, nearest)]
    )


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_stay_aligned(seed):
    """The mask follows the image's red channel: after scaling, cropping and flipping it still does, but for pixels at
    edges.
    """
    image = picture(120, 150, seed)
    augment = Augment(crop=(64, 80), scale=(0.5, 2.0), flip=0.5)
    crop, labels = augmented(augment, image, labels_of(image), np.random.default_rng(seed))
    inside = labels != 255
    assert inside.mean() > 0.5
    clear = np.abs(crop[:, :, 0].astype(int) - 127) > 60
    assert (labels_of(crop)[inside & clear] == labels[inside & clear]).all()


def test_scales_are_uniform_in_their_range():
    """Seen from the width of a bar of 100 pixels."""
    image = np.zeros((40, 400, 3), np.uint8)
    image[:, 150:250] = 255
    widths = [
        (
            augmented(Augment(crop=(40, 900), scale=(0.5, 2.0)), image, image[:, :, 0], np.random.default_rng(seed))[0][
                20, :, 0
            ]
            > 127
        ).sum()
        for seed in range(400)
    ]
    assert 50 <= min(widths) < 55
    assert 195 < max(widths) <= 201
    assert abs(np.mean(widths) - 125) < 7


def test_a_crop_larger_than_the_image_is_padded():
    image = picture(20, 30)
    augment, outside = Augment(crop=(50, 60)), Outside((1, 2, 3), 255)
    places = set()
    for seed in range(60):
        crop, labels = augmented(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        assert crop.shape == (50, 60, 3)
        rows, columns = np.nonzero(labels != 255)
        y, x = int(rows.min()), int(columns.min())
        assert len(rows) == 20 * 30
        np.testing.assert_array_equal(crop[y : y + 20, x : x + 30], image)
        np.testing.assert_array_equal(labels[y : y + 20, x : x + 30], labels_of(image))
        assert (crop[labels == 255] == (1, 2, 3)).all()
        places.add((y, x))
    assert len(places) > 40


def test_without_a_crop_the_image_keeps_its_size_under_any_scale():
    image = picture(33, 47)
    for seed in range(20):
        crop, labels = augmented(Augment(scale=(0.4, 2.5)), image, labels_of(image), np.random.default_rng(seed))
        assert crop.shape == (33, 47, 3)
        assert labels.shape == (33, 47)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_are_taken(height, width):
    image = np.full((height, width, 3), 9, np.uint8)
    for seed in range(20):
        crop, labels = augmented(
            Augment(crop=(32, 32), scale=(0.5, 2.0)),
            image,
            np.zeros((height, width), np.uint8),
            np.random.default_rng(seed),
        )
        assert crop.shape == (32, 32, 3)
        assert (labels == 0).any()


def test_masks_of_16_bits_keep_their_ids():
    mask = np.random.default_rng(0).integers(-1, 300, (40, 50)).astype(np.int16)
    _, labels = augmented(
        Augment(crop=(64, 30), scale=(1.3, 1.3)),
        np.zeros((40, 50, 3), np.uint8),
        mask,
        np.random.default_rng(0),
        Outside(classes=-1),
    )
    assert labels.dtype == np.int16
    assert set(np.unique(labels)) <= {*np.unique(mask), -1}
    assert labels.max() > 255


def test_flips_come_with_their_probability_and_flip_both():
    image = picture(20, 30)
    flipped = 0
    for seed in range(400):
        crop, labels = augmented(Augment(flip=0.3), image, labels_of(image), np.random.default_rng(seed))
        turned = not np.array_equal(crop, image)
        expected = image[:, ::-1] if turned else image
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(labels, labels_of(expected))
        flipped += turned
    assert 0.22 < flipped / 400 < 0.38


LUMA = np.array([0.299, 0.587, 0.114])


def test_brightness_multiplies():
    image = picture(40, 40) // 2
    crop, _ = augmented(Augment(brightness=0.4), image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert np.abs(crop - image * 1.4).max() <= 1.01


def test_contrast_stretches_about_the_mean_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = augmented(Augment(contrast=0.4), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.0))
    grey = (image @ LUMA).mean()
    assert np.abs(crop - ((image - grey) * 0.6 + grey)).max() <= 1.01


def test_saturation_moves_colours_from_or_to_their_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = augmented(Augment(saturation=0.9), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.0))
    grey = (image @ LUMA)[:, :, None]
    assert np.abs(crop - (grey + 0.1 * (image - grey))).max() <= 1.5


def test_hue_turns_colours_and_keeps_luma():
    image = picture(40, 40) // 4 + 90
    whole, _ = augmented(Augment(hue=0.5), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 1.0))
    assert np.abs(whole @ LUMA - image @ LUMA).max() < 1.5
    chroma = image - (image @ LUMA)[:, :, None]
    assert np.abs((whole - (whole @ LUMA)[:, :, None]) + chroma).max() < 3  # half a turn is the opposite colour
    third = augmented(
        Augment(hue=0.5),
        np.full((4, 4, 3), (150, 90, 90), np.uint8),
        np.zeros((4, 4), np.uint8),
        Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 5 / 6),
    )[0][0, 0]
    assert np.argmax(third) != 0  # a third of a turn makes red another colour


def test_colour_saturates_instead_of_wrapping():
    image = np.full((4, 4, 3), 200, np.uint8)
    crop, _ = augmented(Augment(brightness=0.9), image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert (crop == 255).all()


def test_switching_one_option_off_leaves_the_others_as_they_are():
    image = picture(60, 60)
    full = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3)
    for seed in range(10):
        _, labels = augmented(full, image, labels_of(image), np.random.default_rng(seed))
        _, without = augmented(replace(full, brightness=0.0), image, labels_of(image), np.random.default_rng(seed))
        np.testing.assert_array_equal(labels, without)


def test_the_same_generator_gives_the_same_crop():
    image = picture(60, 60)
    augment = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    first, again, other = (
        augmented(augment, image, labels_of(image), np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def reference(augment: augmentation.Augment, image, mask, rng, outside: Outside) -> tuple[np.ndarray, np.ndarray]:
    """Semantic 8-bit RGB samples as release 0.1.0 made them: these calls of OpenCV, in this order."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    draws = rng.random(8)
    height, width = augment.crop or image.shape[:2]
    scale = augment.scale[0] + draws[0] * (augment.scale[1] - augment.scale[0])
    axes = []
    for length, crop, draw in ((image.shape[0], height, draws[1]), (image.shape[1], width, draws[2])):
        window = max(1, round(crop / scale))
        low, high = min(0, length - window), max(0, length - window)
        start = low + int(draw * (high - low + 1))
        first, last = max(start, 0), min(start + window, length)
        begin = min(round((first - start) * crop / window), crop - 1)
        axes.append((first, last, begin, max(round((last - start) * crop / window), begin + 1)))
    (y0, y1, top, bottom), (x0, x1, left, right) = axes
    method = cv2.INTER_AREA if 2 * (bottom - top) < y1 - y0 else cv2.INTER_LINEAR
    part = cv2.resize(image[y0:y1, x0:x1], (right - left, bottom - top), interpolation=method)
    labels = cv2.resize(mask[y0:y1, x0:x1], (right - left, bottom - top), interpolation=cv2.INTER_NEAREST_EXACT)
    brightness, contrast, saturation, hue = 2 * draws[4:] - 1
    gain, slope = 1 + brightness * augment.brightness, 1 + contrast * augment.contrast
    chroma, turn = 1 + saturation * augment.saturation, 2 * np.pi * hue * augment.hue
    cos, sin = chroma * np.cos(turn), chroma * np.sin(turn)
    matrix = np.empty((3, 4))
    matrix[:, :3] = gain * slope * (np.linalg.inv(yiq) @ [[1, 0, 0], [0, cos, -sin], [0, sin, cos]] @ yiq)
    matrix[:, 3] = (1 - slope) * gain * (yiq[0] @ cv2.mean(part)[:3])
    part = cv2.transform(part, matrix)
    margins = top, height - bottom, left, width - right
    part = cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=outside.image)
    labels = cv2.copyMakeBorder(labels, *margins, cv2.BORDER_CONSTANT, value=outside.classes)
    return (cv2.flip(part, 1), cv2.flip(labels, 1)) if draws[3] < augment.flip else (part, labels)


@pytest.mark.parametrize("crop", [None, (48, 64), (200, 90)])
def test_8_bit_rgb_samples_are_bit_for_bit_those_of_earlier_releases(crop):
    image, outside = picture(120, 110), Outside((124, 116, 104), 255)
    augment = Augment(crop=crop, scale=(0.3, 2.0), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    for seed in range(60):
        made = augmented(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        expected = reference(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        np.testing.assert_array_equal(made[0], expected[0])
        np.testing.assert_array_equal(made[1], expected[1])


# Channels and types


def many_channels(channels: int, dtype: type, *spatial: int) -> np.ndarray:
    """Smooth, and over the whole range of the type; floats from -1500 to 1500."""
    base = np.stack([picture(spatial[-2], spatial[-1], seed)[..., 0] for seed in range(channels)], axis=-1) / 255.0
    if len(spatial) == 3:
        base = base[None] * np.linspace(0.2, 1, spatial[0])[:, None, None, None]
    low, high = (-1500, 1500) if dtype is np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return (low + base * (high - low)).astype(dtype)


TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.float32]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_images_of_any_channels_and_type_go_through_unharmed(channels, dtype):
    """Each channel as if it were alone, none clipped, wrapped or mixed with another; the mean colour around."""
    image = many_channels(channels, dtype, 60, 70)
    mask = (image[..., 0] > np.median(image[..., 0])).astype(np.uint8)
    fill = tuple(float(round(value)) for value in image.mean(axis=(0, 1), dtype=np.float64))
    tolerance = 3000 / 255 if dtype is np.float32 else max(np.iinfo(dtype).max / 2**15, 1)
    for seed, scale in enumerate([(0.3, 0.3), (0.8, 0.8), (1.0, 1.0), (1.7, 1.7)]):
        augment = Augment(crop=(64, 48), scale=scale, flip=0.5)
        crop, labels = augmented(augment, image, mask, np.random.default_rng(seed), Outside(fill))
        assert crop.dtype == dtype
        assert crop.shape == (64, 48, channels)
        for channel in range(channels):
            only = np.ascontiguousarray(image[..., channel : channel + 1])
            alone, _ = augmented(augment, only, mask, np.random.default_rng(seed), Outside(fill[channel : channel + 1]))
            assert np.abs(crop[..., channel].astype(float) - alone[..., 0]).max() <= tolerance
        outside = labels == 255
        assert (crop[outside] == np.array(fill, dtype)).all()
        if outside.any():
            assert (crop[~outside].max() > np.float64(fill).max()) or channels == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("spatial", [(20, 30), (6, 20, 30)])
def test_brightness_and_contrast_of_any_type_stay_in_its_range(dtype, spatial):
    image = many_channels(4, dtype, *spatial)
    draws = 5 + len(spatial) + (3 if len(spatial) == 3 else 1)

    class Drawn:
        def random(self, count: int) -> np.ndarray:
            assert count == draws
            return np.array([*[0.999] * (count - 4), 1.0, 0.0, 0.0, 0.0])

    annotation = Annotation.of_classes(np.zeros(spatial, np.uint8))
    made, _ = Augment(brightness=0.4, contrast=0.3)(image, annotation, Drawn())
    mean = image.reshape(-1, 4).mean(axis=0, dtype=np.float64)
    expected = 1.4 * (0.7 * (image.astype(np.float64) - mean) + mean)
    if dtype is not np.float32:
        expected = np.rint(expected).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert made.dtype == dtype
    assert np.abs(made - expected).max() <= (1e-3 if dtype is np.float32 else 1)


@pytest.mark.parametrize(
    ("channels", "dtype", "dims", "kind"),
    [
        (4, "uint8", 2, "the images have 4 channels of uint8"),
        (3, "uint16", 2, "the images have 3 channels of uint16"),
        (1, "uint8", 2, "the images have 1 channel of uint8"),
        (3, "uint8", 3, "the volumes have 3 channels of uint8"),
    ],
)
@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_saturation_and_hue_are_for_8_bit_rgb_alone(channels, dtype, dims, kind, name):
    augment = Augment(brightness=0.2, contrast=0.2)
    augment.check(channels, np.dtype(dtype), dims)
    replace(augment, **{name: 0.2}).check(3, np.dtype("uint8"), 2)
    message = (
        rf"^train\.augment\.{name} is 0\.2 but {kind}, expected 3 channels of uint8 \(RGB\): set"
        r" train\.augment\.saturation and train\.augment\.hue to 0$"
    )
    with pytest.raises(InputError, match=message):
        replace(augment, **{name: 0.2}).check(channels, np.dtype(dtype), dims)


def test_a_crop_of_another_number_of_axes_is_refused():
    Augment(crop=(8, 8)).check(3, np.dtype("uint8"), 2)
    with pytest.raises(InputError, match=r"crop is \[8, 8\] but the images have 3 axes, expected \[depth, height"):
        Augment(crop=(8, 8)).check(1, np.dtype("float32"), 3)
    with pytest.raises(InputError, match=r"crop is \[4, 8, 8\] but the images have 2 axes, expected \[height, width\]"):
        Augment(crop=(4, 8, 8)).check(1, np.dtype("float32"), 2)


# Objects, further maps, volumes


def test_layers_and_further_maps_follow_the_classes_and_rows_follow_the_layers():
    """Two overlapping objects in two layers, a third far away; parts with an ignore index of their own."""
    classes = np.zeros((60, 60), np.uint8)
    layers = np.zeros((2, 60, 60), np.uint16)
    layers[0, 5:25, 5:25], layers[1, 15:35, 15:35], layers[0, 50:, 50:] = 300, 301, 7
    classes[layers[0] > 0], classes[layers[1] > 0] = 1, 2
    part = layers[0].astype(np.int16)
    segments = (Segment(300, 1, False, (1, 2, 3, 4), 9.0), Segment(301, 2, True), Segment(7, 1))
    annotation = Annotation(classes, layers, segments, {"part": part}, image_label=4, spacing=(2.0, 2.0))
    augment, outside = Augment(crop=(40, 40), scale=(2.0, 2.0), flip=0.5), Outside(further={"part": -1})
    dropped = set()
    for seed in range(40):
        _, made = augment(picture(60, 60), annotation, np.random.default_rng(seed), outside)
        ids = set(np.unique(made.layers).tolist()) - {0}
        assert {segment.id for segment in made.segments} == ids
        for segment in made.segments:
            rows, columns = np.nonzero((made.layers == segment.id).any(axis=0))
            assert segment.area == len(rows)
            assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert {segment.crowd for segment in made.segments if segment.id == 301} <= {True}
        np.testing.assert_array_equal(made.classes[made.layers[1] > 0], 2)
        np.testing.assert_array_equal(made.further["part"], made.layers[0].astype(np.int16))
        assert (made.layers.dtype, made.further["part"].dtype) == (np.uint16, np.int16)
        assert made.image_label == 4
        assert made.spacing == (1.0, 1.0)
        dropped |= {300, 301, 7} - ids
    assert dropped == {300, 301, 7}
    _, made = Augment(crop=(80, 80))(picture(60, 60), annotation, np.random.default_rng(0), outside)
    assert len(made.segments) == 3
    around = made.classes == 255
    assert around.sum() == 80 * 80 - 60 * 60
    assert (made.layers[:, around] == 0).all()
    assert (made.further["part"][around] == -1).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_patch_of_a_volume_is_a_part_of_it_and_turns_about_every_axis(dtype):
    rng = np.random.default_rng(0)
    volume = many_channels(2, dtype, 9, 12, 15)
    classes = rng.integers(0, 3, (9, 12, 15), dtype=np.uint8)
    annotation = Annotation.of_classes(classes)
    turns = set()
    for seed in range(120):
        patch, made = Augment(crop=(9, 12, 15), flip=0.5)(volume, annotation, np.random.default_rng(seed))
        fits = [
            axes
            for count in range(4)
            for axes in itertools.combinations(range(3), count)
            if np.array_equal(np.flip(classes, axes), made.classes)
        ]
        assert len(fits) == 1
        np.testing.assert_array_equal(np.flip(volume, fits[0]), patch)
        turns.add(fits[0])
        patch, made = Augment(crop=(4, 5, 6))(volume, annotation, np.random.default_rng(seed))
        windows = np.lib.stride_tricks.sliding_window_view(classes, (4, 5, 6))
        corner = np.argwhere((windows == made.classes).all(axis=(3, 4, 5)))[0]
        np.testing.assert_array_equal(
            volume[corner[0] : corner[0] + 4, corner[1] : corner[1] + 5, corner[2] : corner[2] + 6], patch
        )
    assert len(turns) == 8


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.6])
def test_a_scaled_patch_equals_scipys_trilinear_interpolation_at_voxel_centres(scale):
    volume, size = many_channels(1, np.float32, 40, 44, 48), 12
    classes = (volume[..., 0] > 0).astype(np.uint8)

    class Middle:
        def random(self, count: int) -> np.ndarray:
            return np.array([0, 0.5, 0.5, 0.5, *[1.0] * (count - 4)])

    patch, made = Augment(crop=(size,) * 3, scale=(scale, scale))(volume, Annotation.of_classes(classes), Middle())
    window = round(size / scale)
    starts = [int(0.5 * (length - window + 1)) for length in classes.shape]
    if scale < 0.5:  # the mean over each voxel's volume; the window is 30 wide, a voxel covers parts of the source
        assert window == 30
        part = volume[tuple(slice(start, start + window) for start in starts)][..., 0]
        assert abs(patch.mean() - part.mean()) < 20
        return
    inner = ((np.arange(size) + 0.5) * window / size - 0.5).clip(0, window - 1)
    places = np.meshgrid(*[start + inner for start in starts], indexing="ij")
    expected = ndimage.map_coordinates(volume[..., 0].astype(np.float64), places, order=1)
    assert np.abs(patch[..., 0] - expected).max() < 0.01
    nearest = [start + np.floor((np.arange(size) + 0.5) * window / size).astype(int) for start in starts]
    np.testing.assert_array_equal(made.classes, classes[np.ix_(*nearest)])


def test_a_patch_larger_than_the_volume_is_padded_and_millimetres_follow_the_scale():
    volume = many_channels(3, np.float32, 6, 7, 8)
    annotation = replace(Annotation.of_classes(np.ones((6, 7, 8), np.uint8)), spacing=(5.0, 1.0, 1.0))
    patch, made = Augment(crop=(8, 8, 8))(volume, annotation, np.random.default_rng(0), Outside((-1000.5, 0.25, 3.0)))
    inside = made.classes == 1
    assert inside.sum() == 6 * 7 * 8
    np.testing.assert_array_equal(patch[inside], volume.reshape(-1, 3))
    assert (patch[~inside] == np.float32([-1000.5, 0.25, 3.0])).all()
    assert made.spacing == (5.0, 1.0, 1.0)
    _, made = Augment(crop=(4, 4, 4), scale=(2.0, 2.0))(volume, annotation, np.random.default_rng(0))
    assert made.spacing == (2.5, 0.5, 0.5)


POISONED = """
    import ctypes, mmap, sys
    import numpy as np
    from segmodels.annotations import Annotation
    from segmodels.data.augment import Augment

    PAGE, HEIGHT, WIDTH = mmap.PAGESIZE, 300, 4 * mmap.PAGESIZE  # a row of the mask is 4 pages, of the image 12

    def poisoned(channels, rows, columns):
        # Memory in which every page that holds no pixel of the window is inaccessible: touching it kills the process.
        memory = mmap.mmap(-1, HEIGHT * WIDTH * channels)
        array = np.frombuffer(memory, np.uint8).reshape(HEIGHT, WIDTH, channels)
        array[rows, columns] = 7
        pages = np.zeros((HEIGHT, WIDTH * channels // PAGE), bool)
        pages[rows, columns.start * channels // PAGE : -(-columns.stop * channels // PAGE)] = True
        for page in np.flatnonzero(~pages.ravel()):
            address = ctypes.c_void_p(array.ctypes.data + int(page) * PAGE)
            assert ctypes.CDLL(None, use_errno=True).mprotect(address, ctypes.c_size_t(PAGE), 0) == 0
        return array if channels > 1 else array[:, :, 0]

    class Fixed:
        def random(self, count):
            return np.array([0.0, 0.5, 0.5, 0.0, 0.9, 0.9, 0.9, 0.9])

    scale = float(sys.argv[1])
    window = round(64 / scale)
    top, left = int(0.5 * (HEIGHT - window + 1)), int(0.5 * (WIDTH - window + 1))
    rows, columns = slice(top, top + window), slice(left, left + window)
    image, mask = poisoned(3, rows, columns), poisoned(1, rows, columns)
    augment = Augment(
    crop=(64, 64), scale=(scale, scale), flip=1.0, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)
    crop, annotation = augment(image, Annotation.of_classes(mask), Fixed())
    assert (annotation.classes == 7).all() and crop.shape == (64, 64, 3)
    print("crop made", flush=True)
    if sys.argv[2] == "touch":
        int(image[0, 0, 0])
    print("alive", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory pages through Linux's libc")
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_only_the_crops_part_of_the_image_is_read(scale):
    """In a process of its own, with all other pages of image and mask made inaccessible."""
    run = [sys.executable, "-c", textwrap.dedent(POISONED), str(scale)]
    good = subprocess.run([*run, "leave"], capture_output=True, text=True, check=False)
    assert good.stdout.split("\n")[:2] == ["crop made", "alive"], good.stderr
    touched = subprocess.run([*run, "touch"], capture_output=True, text=True, check=False)
    assert touched.returncode < 0  # the poison works
    assert "alive" not in touched.stdout
