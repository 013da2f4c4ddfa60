"""Dense CRF: the exact form against loops over pixels, the fast form against the exact one, and what both are for."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from segmodels.errors import InputError
from segmodels.inference.crf import DenseCRF, exact_mean_field, mean_field
from segmodels.inference.permutohedral import PermutohedralLattice
from segmodels.metrics import ConfusionMatrix, mean_iou

DEEPLAB_V1 = DenseCRF(appearance_weight=7, appearance_sigma=80, color_sigma=10, smoothness_sigma=3)


def softmax(scores: NDArray) -> NDArray:
    exponent = np.exp(scores - scores.max(axis=0))
    return (exponent / exponent.sum(axis=0)).astype(np.float32)


def blurry_probabilities(height: int, width: int, classes: int, seed: int = 0) -> NDArray[np.float32]:
    """Smooth random fields with some noise, as a network without a CRF gives them."""
    rng = np.random.default_rng(seed)
    fields = cv2.resize(2 * rng.normal(size=(6, 9, classes)), (width, height), interpolation=cv2.INTER_CUBIC)
    return softmax(np.moveaxis(fields + 0.5 * rng.normal(size=fields.shape), -1, 0))


def photograph(name: str, height: int = 48, width: int = 72) -> NDArray[np.uint8]:
    return cv2.resize(load_sample_image(name), (width, height), interpolation=cv2.INTER_AREA)


def loops(probabilities: NDArray, image: NDArray, crf: DenseCRF) -> NDArray:
    """The mean field as the paper writes it: the penalty of a label is what all pixels of other labels cost it."""
    classes, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]

    def appearance(a: tuple[int, int], b: tuple[int, int]) -> float:
        color = ((image[a].astype(float) - image[b].astype(float)) ** 2).sum()
        return math.exp(
            -((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * crf.appearance_sigma**2)
            - color / (2 * crf.color_sigma**2)
        )

    def smoothness(a: tuple[int, int], b: tuple[int, int]) -> float:
        return math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * crf.smoothness_sigma**2))

    total = np.zeros((len(pixels), len(pixels)))
    for weight, kernel in ((crf.appearance_weight, appearance), (crf.smoothness_weight, smoothness)):
        matrix = np.array([[kernel(a, b) for b in pixels] for a in pixels])
        degree = matrix.sum(axis=1)
        total += weight * matrix / np.sqrt(np.outer(degree, degree))
    unary = -np.log(probabilities.reshape(classes, -1).T.astype(float))
    q = np.exp(-unary)
    for _ in range(crf.iterations):
        updated = np.empty_like(q)
        for i in range(len(pixels)):
            for label in range(classes):
                others = sum(total[i] @ q[:, other] for other in range(classes) if other != label)
                updated[i, label] = math.exp(-unary[i, label] - others)
            updated[i] /= updated[i].sum()
        q = updated
    return q.T.reshape(classes, height, width)


@pytest.mark.parametrize(
    "crf",
    [DenseCRF(iterations=3), DenseCRF(2, appearance_weight=6, appearance_sigma=5, color_sigma=40, smoothness_sigma=3)],
)
def test_the_exact_form_is_the_mean_field_of_the_paper(crf: DenseCRF) -> None:
    image, probabilities = photograph("flower.jpg", 12, 12), blurry_probabilities(12, 12, 3)
    np.testing.assert_allclose(exact_mean_field(probabilities, image, crf), loops(probabilities, image, crf), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "crf"),
    [
        ("china.jpg", DenseCRF()),
        ("flower.jpg", DEEPLAB_V1),
        ("china.jpg", DenseCRF(appearance_sigma=20, color_sigma=5)),
    ],
)
def test_the_fast_form_is_close_to_the_exact_one(name: str, crf: DenseCRF) -> None:
    """Tolerances: 0.012 in the mean of |dQ|, 0.965 of the classes alike; the refinement itself is ten times as
    large.
    """
    image, probabilities = photograph(name), blurry_probabilities(48, 72, 5)
    exact, fast = exact_mean_field(probabilities, image, crf), mean_field(probabilities, image, crf)
    assert np.abs(fast - exact).mean() < 0.012
    assert (fast.argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.965
    assert np.abs(exact - probabilities).mean() > 0.12


def test_without_the_appearance_kernel_the_fast_form_is_exact() -> None:
    image, probabilities, crf = (
        photograph("china.jpg"),
        blurry_probabilities(48, 72, 5),
        DenseCRF(appearance_weight=0, smoothness_sigma=2.5),
    )
    np.testing.assert_allclose(
        mean_field(probabilities, image, crf), exact_mean_field(probabilities, image, crf), atol=1e-4
    )


@pytest.mark.parametrize("refine", [mean_field, exact_mean_field])
def test_weights_of_zero_change_nothing(refine) -> None:
    image, probabilities = photograph("china.jpg", 20, 30), blurry_probabilities(20, 30, 4)
    probabilities[:, 0, 0] = (1, 0, 0, 0)
    np.testing.assert_allclose(
        refine(probabilities, image, DenseCRF(appearance_weight=0, smoothness_weight=0)), probabilities, atol=1e-6
    )


@pytest.mark.parametrize("refine", [mean_field, exact_mean_field])
def test_probabilities_stay_probabilities(refine) -> None:
    image, probabilities = photograph("flower.jpg", 20, 30), blurry_probabilities(20, 30, 4)
    probabilities[:, 3] = np.array([1, 0, 0, 0])[:, None]
    refined = refine(probabilities, image, DenseCRF())
    assert refined.dtype == np.float32
    assert refined.shape == probabilities.shape
    assert refined.min() >= 0
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)
    assert (refined[:, 3].argmax(axis=0) == 0).all()  # a class of probability 0 stays impossible


def test_noisy_boundaries_move_to_the_edges_of_the_image() -> None:
    rng, size = np.random.default_rng(0), 96
    y, x = np.indices((size, size))
    truth = np.zeros((size, size), dtype=np.uint8)
    truth[(y - 40) ** 2 + (x - 35) ** 2 < 24**2] = 1
    truth[(y - 65) ** 2 + (x - 70) ** 2 < 18**2] = 2
    image = (
        (np.array([[60, 120, 60], [180, 70, 50], [50, 90, 200]])[truth] + rng.normal(0, 3, (size, size, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    wobble = cv2.resize(
        rng.normal(0, 5, (12, 12, 2)), (size, size), interpolation=cv2.INTER_CUBIC
    )  # boundaries are off by some pixels
    moved = truth[
        (y + wobble[..., 0]).round().astype(int).clip(0, size - 1),
        (x + wobble[..., 1]).round().astype(int).clip(0, size - 1),
    ]
    soft = np.stack([cv2.GaussianBlur((moved == label).astype(np.float32), None, 3) for label in range(3)]) + 0.05
    before = (soft / soft.sum(axis=0)).astype(np.float32)
    after = mean_field(before, image, DenseCRF())
    first, second = (mean_iou(ConfusionMatrix.from_maps(q.argmax(axis=0), truth, 3).counts) for q in (before, after))
    assert first < 0.85
    assert second > 0.97


def test_the_lattice_is_a_symmetric_filter_close_to_the_gaussian() -> None:
    features = np.random.default_rng(0).normal(0, 1.5, (300, 3))
    exact = np.exp(-((features[:, None] - features) ** 2).sum(axis=-1) / 2)
    approximate = PermutohedralLattice(features)(np.eye(300, dtype=np.float32))
    np.testing.assert_allclose(approximate, approximate.T, atol=1e-6)
    scale = (exact * approximate).sum() / (approximate**2).sum()
    assert np.abs(scale * approximate - exact).mean() < 0.02
    assert np.corrcoef(approximate.ravel(), exact.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations of the dense CRF is 0"),
        ({"appearance_weight": -1.0}, "appearance_weight of the dense CRF is -1"),
        ({"color_sigma": 0.0}, "color_sigma of the dense CRF is 0"),
        ({"smoothness_sigma": math.inf}, "smoothness_sigma of the dense CRF is inf"),
    ],
)
def test_impossible_parameters_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DenseCRF(**wrong)


def test_images_of_another_size_or_type_and_tiny_sigmas_are_refused() -> None:
    image, probabilities = photograph("china.jpg", 20, 30), blurry_probabilities(20, 30, 4)
    with pytest.raises(InputError, match="resize the image"):
        mean_field(probabilities[:, :10], image, DenseCRF())
    with pytest.raises(InputError, match="convert it to 8-bit RGB"):
        mean_field(probabilities, image / 255, DenseCRF())
    with pytest.raises(InputError, match="enlarge them"):
        mean_field(probabilities, image, DenseCRF(color_sigma=0.01))
