"""Predictor: normalisation, averaging over views, sizes, types."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmodels.data import large_images
from segmodels.data.decoding import resize_image
from segmodels.data.large_images import ArrayRows
from segmodels.errors import InputError
from segmodels.inference.bundle import Bundle
from segmodels.inference.crf import DenseCRF, mean_field
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.outputs import PixelOutput
from segmodels.tasks.registry import create_task
from segmodels.tasks.semantic import SemanticSettings
from segmodels.windows import SlidingWindow


class Pointwise(nn.Module):
    """Logits of a class are a fixed mixture of the pixel's normalised channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images: Tensor) -> PixelOutput:
        return PixelOutput(self.head(images))


class LeftToRight(nn.Module):
    """Sees its left neighbour, so that mirroring shows; remembers the sizes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, (1, 3), padding=(0, 1))
        nn.init.zeros_(self.head.weight[:, :, :, 1:])
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> PixelOutput:
        self.sizes.append(tuple(images.shape))
        return PixelOutput(self.head(images))


def bundle(model: nn.Module, num_classes: int, longer_side: int | None = None) -> Bundle:
    labels = LabelMap(
        tuple(f"class {i}" for i in range(num_classes)),
        ((0, 0, 0),) * num_classes,
        {i: i for i in range(num_classes)},
        255 if num_classes <= 255 else -1,
    )
    task = create_task("semantic", labels)
    return Bundle(model, "test", {}, task, (120.0, 110.0, 100.0), (60.0, 50.0, 40.0), longer_side, {}, {})


@torch.inference_mode()
def probabilities_of(predictor: Predictor, batch: Tensor) -> Tensor:
    return predictor.task.probabilities(predictor.network, batch)


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def to_torch(batch: np.ndarray) -> Tensor:
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def reference(model: Pointwise, batch: np.ndarray) -> np.ndarray:
    """Softmax of the mixture in numpy, (N, C, H, W)."""
    x = (batch.astype(np.float64) - [120, 110, 100]) / [60, 50, 40]
    logits = x @ model.head.weight.detach().numpy()[:, :, 0, 0].T + model.head.bias.detach().numpy()
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.moveaxis(exponent / exponent.sum(axis=-1, keepdims=True), -1, 1)


@pytest.mark.parametrize("window", [None, SlidingWindow((8, 8), overlap=0.25)])
def test_probabilities_are_the_softmax_of_the_normalised_image(window: SlidingWindow | None) -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(5), images(2, 13, 21)
    probabilities = probabilities_of(
        Predictor(bundle(model, 5), settings=SemanticSettings(sliding_window=window)), to_torch(batch)
    )
    assert probabilities.dtype == torch.float32
    np.testing.assert_allclose(probabilities.numpy(), reference(model, batch), atol=1e-5)


def test_masks_are_the_most_probable_class_at_each_images_own_size() -> None:
    torch.manual_seed(0)
    model = Pointwise(5)
    several = [images(1, 9, 14)[0], images(1, 9, 14, 1)[0], images(1, 20, 3)[0]]
    masks = Predictor(bundle(model, 5)).masks(several)
    assert [(mask.shape, mask.dtype) for mask in masks] == [
        ((9, 14), np.uint8),
        ((9, 14), np.uint8),
        ((20, 3), np.uint8),
    ]
    for picture, mask in zip(several, masks, strict=True):
        np.testing.assert_array_equal(mask, reference(model, picture[None])[0].argmax(axis=0))


def test_an_array_of_images_is_predicted_batch_by_batch() -> None:
    model = LeftToRight()
    masks = Predictor(bundle(model, 2)).masks(images(5, 6, 7), batch_size=2)
    assert len(masks) == 5
    assert model.sizes == [(2, 3, 6, 7), (2, 3, 6, 7), (1, 3, 6, 7)]


def test_above_255_classes_masks_are_int16() -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(300), images(1, 40, 40)
    (mask,) = Predictor(bundle(model, 300)).masks(batch)
    assert mask.dtype == np.int16
    assert mask.max() > 255
    np.testing.assert_array_equal(mask, reference(model, batch)[0].argmax(axis=0))


def test_flip_averages_with_the_mirrored_image_mirrored_back() -> None:
    torch.manual_seed(0)
    model, batch = LeftToRight(), to_torch(images(2, 5, 8))
    plain, averaged = Predictor(bundle(model, 2)), Predictor(bundle(model, 2), settings=SemanticSettings(flip=True))
    expected = (probabilities_of(plain, batch) + probabilities_of(plain, batch.flip(-1)).flip(-1)) / 2
    torch.testing.assert_close(probabilities_of(averaged, batch), expected)
    assert not torch.allclose(expected, probabilities_of(plain, batch), atol=1e-3)


def test_scales_show_the_model_other_sizes_and_average_at_the_images_size() -> None:
    torch.manual_seed(0)
    model, batch = LeftToRight(), to_torch(images(1, 20, 30))
    averaged = probabilities_of(Predictor(bundle(model, 2), settings={"scales": [1.0, 0.5, 1.5]}), batch)
    assert model.sizes == [(1, 3, 20, 30), (1, 3, 10, 15), (1, 3, 30, 45)]
    assert averaged.shape == (1, 2, 20, 30)
    torch.testing.assert_close(averaged.sum(dim=1), torch.ones(1, 20, 30))
    uniform = torch.full(
        (1, 3, 20, 30), 77, dtype=torch.uint8
    )  # looks the same at every scale, away from the left border
    one, many = (
        probabilities_of(Predictor(bundle(model, 2), settings={"scales": scales}), uniform)
        for scales in ((1.0,), (1.0, 0.5, 1.5))
    )
    torch.testing.assert_close(one[..., 4:], many[..., 4:])


def test_masks_of_another_size_interpolate_probabilities_not_classes() -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(4), to_torch(images(2, 10, 12))
    predictor = Predictor(bundle(model, 4))
    masks = [result.classes for result in predictor.batch(batch, [(25, 31), (5, 40)])]
    for mask, probabilities in zip(masks, probabilities_of(predictor, batch), strict=True):
        whole = torch.nn.functional.interpolate(probabilities[None], mask.shape, mode="bilinear")[0]
        np.testing.assert_array_equal(mask, whole.argmax(dim=0).numpy())


def test_images_are_shown_to_the_model_at_the_size_it_was_trained_at() -> None:
    torch.manual_seed(0)
    model, batch = LeftToRight(), images(1, 20, 32)
    (mask,) = Predictor(bundle(model, 2, longer_side=16)).masks(batch)
    assert model.sizes == [(1, 3, 10, 16)]
    small = batch.reshape(1, 10, 2, 16, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)  # area averaging
    (expected,) = Predictor(bundle(model, 2)).batch(to_torch(small), [(20, 32)])
    assert (mask == expected.classes).mean() > 0.99
    Predictor(bundle(model, 2, longer_side=16)).masks(images(1, 4, 8))
    assert model.sizes[-1] == (1, 3, 8, 16)


def test_sliding_windows_give_the_same_mask_as_the_whole_image_for_a_pointwise_model() -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(6), images(1, 70, 45)
    whole, windows = (
        Predictor(bundle(model, 6), settings=SemanticSettings(sliding_window=window)).masks(batch)[0]
        for window in (None, SlidingWindow((32, 32)))
    )
    np.testing.assert_array_equal(whole, windows)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(height, width, 3\)"):
        Predictor(bundle(Pointwise(2), 2)).masks([wrong])


# encoder-decoder, dilated, pyramid of context, pyramid of features, attention by convolution, two branches, recurrent,
# two tasks
SMALL = {
    "unet": {"widths": [4, 8]},
    "fcn_resnet50": {"encoder": "resnet18"},
    "deeplab_v3_resnet50": {"encoder": "resnet18"},
    "semantic_fpn_resnet50": {"encoder": "resnet18"},
    "segnext_t": {},
    "bisenet_v2": {},
    "gruu_net": {},
    "ynet": {},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_window_as_large_as_the_image_is_the_whole_image_for_every_kind_of_model(name: str) -> None:
    torch.manual_seed(0)
    model, batch = create_model(name, 3, **SMALL[name]), to_torch(images(1, 64, 96))
    whole = probabilities_of(Predictor(bundle(model, 3)), batch)
    window = SemanticSettings(sliding_window=SlidingWindow((64, 96)))
    torch.testing.assert_close(
        probabilities_of(Predictor(bundle(model, 3), settings=window), batch),
        whole,
        rtol=0,
        atol=1e-5,
    )
    settings = SemanticSettings(flip=True, sliding_window=SlidingWindow((64, 64)))
    windows = probabilities_of(Predictor(bundle(model, 3), settings=settings), batch)
    assert windows.shape == whole.shape
    torch.testing.assert_close(windows.sum(dim=1), torch.ones(1, 64, 96))


@pytest.mark.parametrize("longer_side", [None, 40, 90])
@pytest.mark.parametrize("window", [None, SlidingWindow((16, 16))])
def test_the_mask_of_an_image_row_by_row_is_that_of_the_image(
    longer_side: int | None, window: SlidingWindow | None
) -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(6), images(1, 70, 45)
    predictor = Predictor(bundle(model, 6, longer_side), settings=SemanticSettings(sliding_window=window))
    mask = np.concatenate(list(predictor.rows(ArrayRows(batch[0]))))
    assert mask.dtype == np.uint8
    assert (mask == predictor.masks(batch)[0]).mean() > 0.999  # shrinking rounds ties another way


def test_an_image_too_large_to_be_predicted_whole_is_refused_without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_images, "LARGE", 1000)
    large = ArrayRows(images(1, 30, 40)[0])
    with pytest.raises(
        InputError, match=r"image has 30 x 40 pixels, expected at most 0.0 million without a sliding window: give one"
    ):
        list(Predictor(bundle(Pointwise(2), 2)).rows(large))
    assert len(list(Predictor(bundle(Pointwise(2), 2, longer_side=20)).rows(large))) > 0  # the model sees few pixels


def test_a_crf_refines_by_the_image_that_the_model_sees() -> None:
    torch.manual_seed(0)
    model, batch = Pointwise(3), images(2, 20, 30)
    crf = DenseCRF(iterations=2, color_sigma=20)
    plain, refined = (
        probabilities_of(Predictor(bundle(model, 3), settings=SemanticSettings(crf=value)), to_torch(batch))
        for value in (None, crf)
    )
    expected = np.stack(
        [mean_field(probabilities.numpy(), image, crf) for probabilities, image in zip(plain, batch, strict=True)]
    )
    np.testing.assert_allclose(refined.numpy(), expected, atol=1e-6)
    assert np.abs(expected - plain.numpy()).mean() > 0.05
    (mask,) = Predictor(bundle(model, 3), settings=SemanticSettings(crf=crf)).masks(batch[:1])
    np.testing.assert_array_equal(mask, expected[0].argmax(axis=0))


def test_a_crf_with_windows_is_refused() -> None:
    with pytest.raises(InputError, match="crf and sliding_window are both given, expected one"):
        Predictor(bundle(Pointwise(2), 2), settings={"sliding_window": {"size": [8, 8]}, "crf": {}})


class FirstOrLast(nn.Module):
    """Logits are the normalised first and last channel, of images and of volumes."""

    def forward(self, images: Tensor) -> PixelOutput:
        return PixelOutput(images[:, [0, -1]])


@pytest.mark.parametrize(
    ("settings", "form", "sentence"),
    [
        ({"crf": {}}, {"spatial_dims": 3}, "crf is given for volumes of 3 channels uint8, expected images of 3"),
        ({"crf": {}}, {"dtype": "uint16"}, "crf is given for images of 3 channels uint16"),
        ({"sliding_window": {"size": [8, 8]}}, {"spatial_dims": 3}, "but images have 3 axes, expected"),
    ],
)
def test_settings_that_do_not_suit_the_images_of_the_model_are_refused_before_an_image_comes(
    settings: dict, form: dict, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Predictor(replace(bundle(FirstOrLast(), 2), **form), settings=settings)


@pytest.mark.parametrize("settings", [{}, {"flip": True}])
@pytest.mark.parametrize(
    ("dtype", "low", "shape"),
    [
        ("uint8", 0, (9, 14, 1)),
        ("uint8", 0, (9, 14, 5)),
        ("uint16", 60_000, (9, 14, 4)),
        ("int16", -20_000, (9, 14, 3)),
        ("float32", -3, (3, 9, 14, 2)),
    ],
)
def test_images_of_any_channels_and_type_are_predicted_unharmed(
    dtype: str, low: int, shape: tuple[int, ...], settings: dict
) -> None:
    """The first and the last channel differ by 1 at values that a cast to 8 bits would lose."""
    channels, spatial = shape[-1], shape[:-1]
    image = np.repeat(np.random.default_rng(0).integers(low + 1, low + 200, (*spatial, 1)), channels, axis=-1)
    truth = np.zeros(spatial, np.uint8)
    if channels > 1:
        truth[..., 7:] = 1
        image[..., -1] += 2 * truth.astype(np.int64) - 1
    image = image.astype(dtype)
    task = create_task("semantic", LabelMap(("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1}))
    mean, std = (float(low),) * channels, (50.0,) * channels
    made = Bundle(FirstOrLast(), "test", {}, task, mean, std, None, {}, {}, dtype, len(spatial))
    (mask,) = Predictor(made, settings=settings).masks([image])
    np.testing.assert_array_equal(mask, truth)
    with pytest.raises(InputError, match=rf"expected {dtype} \(.*height, width, {channels}\)"):
        Predictor(made).masks([image.astype(np.int32)])


def test_images_of_one_channel_are_resized_as_those_of_three() -> None:
    image = images(1, 20, 32)[0]
    one = resize_image(image[:, :, :1], 16)
    assert one.shape == (10, 16, 1)
    np.testing.assert_array_equal(one[:, :, 0], resize_image(image, 16)[:, :, 0])
