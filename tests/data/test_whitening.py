"""ZCA whitening: closed forms, dead pixels, half precision, and where it is refused."""

import math

import pytest
import torch

from dd_plugin.data.whitening import Whitening
from tests.data.tables import correlated_images, real_data


def test_whitening_makes_the_covariance_what_it_should_be():
    x = correlated_images(500)
    transform = Whitening.fit(x, eps=0.1)
    y = transform(x).flatten(1)
    # With C = U diag(s) Uᵀ the covariance of the scaled pixels, that of y is s / (s + eps) in the
    # same basis, which is C (C + eps)⁻¹.
    std = x.std((0, 2, 3), correction=0).view(3, 1, 1)
    covariance = (x / std).flatten(1).T.cov()
    eye = torch.eye(60, dtype=torch.float64)
    expected = covariance @ torch.linalg.inv(covariance + 0.1 * eye)
    torch.testing.assert_close(y.T.cov(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(y.mean(0), torch.zeros(60).double(), atol=1e-6, rtol=0)


def test_whitening_matrix_is_the_inverse_square_root():
    # Normalising first, as is customary, changes the mean alone, which whitening takes out again.
    x = correlated_images(300, (1, 3, 3))
    normalized = (x - x.mean()) / x.std(correction=0)
    values, vectors = torch.linalg.eigh(normalized.flatten(1).T.cov())
    expected = vectors @ torch.diag((values + 0.05) ** -0.5) @ vectors.T
    transform = Whitening.fit(x, eps=0.05)
    torch.testing.assert_close(transform.matrix.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(transform.matrix, transform.matrix.T)
    y = (normalized - normalized.mean(0)).flatten(1) @ expected
    torch.testing.assert_close(transform(x).flatten(1), y, atol=1e-5, rtol=0)


def test_whitening_of_real_data():
    pixels = (correlated_images() * 255).round() / 255
    transform = Whitening.fit(real_data(pixels))
    torch.testing.assert_close(transform.matrix, Whitening.fit(pixels).matrix, atol=1e-5, rtol=1e-5)


def test_whitening_with_fewer_images_than_pixels_and_dead_pixels():
    x = correlated_images(5)
    x[:, :, 0, 0] = 0.5
    x[:, 2] = 0.0
    transform = Whitening.fit(x)
    assert transform(x).isfinite().all()
    torch.testing.assert_close(transform.inverse(transform(x)), x, atol=1e-5, rtol=0)


def test_whitening_is_refused_where_it_cannot_be():
    with pytest.raises(ValueError, match=r"3 x 224 x 224 have 150528 values.*Normalization"):
        Whitening.fit(torch.zeros(2, 3, 224, 224))
    with pytest.raises(ValueError, match="at least two images, got 1"):
        Whitening.fit(torch.zeros(1, 1, 2, 2))
    for eps in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`eps` must be positive"):
            Whitening.fit(correlated_images(3), eps=eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_reach_the_matrix(dtype):
    x = correlated_images()
    transform = Whitening.fit(x)
    y = transform(x.to(dtype))
    assert y.dtype == dtype
    expected = transform(x.to(dtype).double())
    torch.testing.assert_close(y.double(), expected, atol=2e-2, rtol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(transform(x.float()).double(), transform(x), atol=1e-4, rtol=0)
