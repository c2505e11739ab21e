"""Distances of sets of features against known values, and the choice of edits."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.samplers.distance import frechet, kernel, kernel_subsets
from benchmarks.samplers.edits import spread
from jobs.evaluation.truth import CaptionedImage, ReferenceEdit


def gaussian(count: int, mean: list[float], covariance: np.ndarray) -> np.ndarray:
    """Return samples that have this mean and covariance, up to rounding."""
    samples = np.random.default_rng(0).standard_normal((count, len(mean)))
    samples -= samples.mean(0)
    white = samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples, rowvar=False)).T)
    return white @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    a, b = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])  # They do not commute.
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))  # trace of the root of a 2 x 2 matrix
    expected = 5.0 + np.trace(a) + np.trace(b) - 2 * root
    assert frechet(gaussian(40, [0.0, 0.0], a), gaussian(30, [1.0, 2.0], b)) == pytest.approx(expected)


def test_frechet_distance_to_itself_is_zero_with_fewer_samples_than_dimensions() -> None:
    features = np.random.default_rng(0).standard_normal((10, 30))
    assert frechet(features, features[::-1]) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_two_points() -> None:
    u, v = np.array([1.0, 2.0]), np.array([-1.0, 0.0])
    expected = (5 / 2 + 1) ** 3 + (1 / 2 + 1) ** 3 - 2 * (-1 / 2 + 1) ** 3
    assert kernel(np.tile(u, (3, 1)), np.tile(v, (5, 1))) == pytest.approx(expected)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    drawn = np.random.default_rng(0).standard_normal((400, 20, 8))
    found = [kernel(a, b) for a, b in drawn.reshape(200, 2, 20, 8)]
    assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5
    assert np.mean(np.array(found) < 0) > 0.3  # It is unbiased, so it is often negative.


def test_kernel_subsets_are_reproducible() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((30, 4)), draw.standard_normal((30, 4)) + 1
    found = kernel_subsets(a, b, subsets=50, size=10)
    assert found == pytest.approx(kernel_subsets(a, b, subsets=50, size=10))
    assert found.std() > 0
    assert found.mean() == pytest.approx(kernel(a, b), rel=0.2)
    assert kernel_subsets(a, b, subsets=1, size=30) == pytest.approx([kernel(a, b)])


def test_edits_are_spread_over_drawings() -> None:
    blank = CaptionedImage(Image.new("RGB", (1, 1)), "")
    edits = [
        ReferenceEdit(kind, blank, blank, name)
        for kind in ("colour", "style")
        for name in ("a", "a", "a", "b", "c", "b")
    ]
    chosen = spread(edits, 4)
    assert [(edit.kind, edit.drawings) for edit in chosen] == [(k, d) for k in ("colour", "style") for d in "abca"]
    assert chosen[3] is edits[1]
