"""Augmentation of other images than 8-bit RGB: channels, types, objects, further maps, volumes; what is not read."""

import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from test_augment import Augment, augmented, picture

from segmodels.annotations import Annotation, Segment
from segmodels.data.augment import Outside
from segmodels.errors import InputError

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
