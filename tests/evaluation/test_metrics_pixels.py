import numpy as np
import pytest
from skimage.metrics import mean_squared_error, structural_similarity

from bokeh_jax.evaluation.metrics import mae, psnr_db, ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(size=(2, 24, 31, 3)).astype(np.float32)
IMAGES = np.clip(TRUTH + RNG.normal(0.0, 0.15, TRUTH.shape), 0.0, 1.0).astype(np.float32)


def reference_ssim(image, truth, **more):
    return structural_similarity(
        image.astype(np.float64),
        truth.astype(np.float64),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        **more,
    )


def test_ssim_against_scikit_image():
    expected = [reference_ssim(a, b) for a, b in zip(IMAGES, TRUTH, strict=True)]
    np.testing.assert_allclose(ssim(IMAGES, TRUTH), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(TRUTH, TRUTH), 1.0, rtol=1e-12)


def test_ssim_of_a_region_is_the_mean_of_its_windows_in_scikit_images_map():
    mask = np.zeros(TRUTH.shape[:-1])
    # Reaches over the border, where there are no windows.
    mask[:, :15, 7:20] = RNG.uniform(size=(2, 15, 13))
    expected = []
    for image, truth, weights in zip(IMAGES, TRUTH, mask, strict=True):
        full = reference_ssim(image, truth, full=True)[1].mean(axis=-1)
        inner = np.s_[5:-5, 5:-5]
        expected.append(np.average(full[inner], weights=weights[inner]))
    np.testing.assert_allclose(ssim(IMAGES, TRUTH, mask), expected, rtol=1e-9)


def test_a_picture_smaller_than_a_window_has_no_ssim():
    with pytest.raises(ValueError, match=r"\(10, 31\); allowed: 11 x 11"):
        ssim(IMAGES[:, :10], TRUTH[:, :10])


def test_errors_of_a_region_are_those_of_its_pixels():
    mask = np.zeros(TRUTH.shape[:-1], bool)
    mask[:, 3:9, 4:11] = True
    cut = np.s_[3:9, 4:11]
    for image, truth, error, db in zip(
        IMAGES, TRUTH, mae(IMAGES, TRUTH, mask), psnr_db(IMAGES, TRUTH, mask), strict=True
    ):
        square = mean_squared_error(image[cut], truth[cut])
        assert db == pytest.approx(-10 * np.log10(square), rel=1e-6)
        assert error == pytest.approx(np.abs(image[cut].astype(float) - truth[cut]).mean())
    np.testing.assert_allclose(
        mae(IMAGES, TRUTH), np.abs(IMAGES.astype(float) - TRUTH).mean(axis=(1, 2, 3))
    )


def test_soft_masks_weigh():
    image = np.zeros((2, 1, 3))
    truth = np.array([[[0.5] * 3], [[1.0] * 3]])
    assert float(mae(image, truth, np.array([[3.0], [1.0]]))) == pytest.approx(0.625)


def test_an_empty_region_was_not_measured():
    nothing = np.zeros(TRUTH.shape[:-1], bool)
    for metric in (mae, psnr_db, ssim):
        assert np.isnan(metric(IMAGES, TRUTH, nothing)).all()
