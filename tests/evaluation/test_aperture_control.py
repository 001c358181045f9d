"""Scores of an aperture sweep: perfect for a lens, bad for constructed failures."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.evaluation.aperture_control import scene_change, score_apertures, score_whole
from bokeh_jax.evaluation.regions import find_regions
from bokeh_jax.evaluation.sharpness import lvcorr_genrefocus
from bokeh_jax.optics import Lens, linear_to_srgb, render_defocus, srgb_to_linear

# A near left half that is in focus, a far right half that is not.
DISPARITY = np.where(np.arange(48)[None] < 24, 0.8, 0.2) * np.ones((24, 1))
LENSES = [Lens(0.8, blur_px) for blur_px in (0.1, 2.0, 4.0, 6.0)]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0.1, 0.9, (24, 48, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def sweep(image):
    """What a lens makes of it."""
    linear = srgb_to_linear(jnp.asarray(image))
    depths = jnp.asarray(DISPARITY, jnp.float32)
    taken = [render_defocus(linear, depths, lens, max_radius_px=4.0) for lens in LENSES]
    return [np.asarray(linear_to_srgb(one)) for one in taken]


def test_a_lens_scores_as_a_lens(sweep):
    scores = score_apertures(sweep, LENSES, DISPARITY)
    assert scores.violations == 0.0
    assert scores.lvcorr_rank == pytest.approx(1.0)
    background = find_regions(DISPARITY, LENSES[-1]).background
    assert scores.lvcorr_genrefocus == pytest.approx(
        lvcorr_genrefocus(np.stack(sweep), np.array([0.1, 2.0, 4.0, 6.0]), background)
    )
    assert scores.focus_psnr_db > 50.0
    assert scores.whole_psnr_db < 30.0


def test_blur_that_comes_and_goes_is_a_violation(sweep):
    mixed = [sweep[0], sweep[2], sweep[1], sweep[3]]
    scores = score_apertures(mixed, LENSES, DISPARITY)
    assert scores.violations == pytest.approx(1 / 3)
    assert scores.lvcorr_rank < 1.0


def test_a_scene_that_changes_is_seen_in_what_is_in_focus(sweep, image):
    changed = [*sweep[:-1], np.clip(sweep[-1] + 0.1, 0, 1)]
    assert score_apertures(changed, LENSES, DISPARITY).focus_psnr_db == pytest.approx(20.0, abs=0.5)


def test_a_whole_picture_has_a_trend_without_a_lens(sweep, image):
    numbers = [22.0, 8.0, 4.0, 2.0]
    scores = score_whole(sweep, numbers)
    assert scores.whole_violations == 0.0
    assert scores.whole_lvcorr_rank == pytest.approx(1.0)
    assert scores.scene_change == scene_change(sweep[-1], sweep[0])
    mixed = score_whole([sweep[0], sweep[2], sweep[1], sweep[3]], numbers)
    assert mixed.whole_violations == pytest.approx(1 / 3)
    # What a lens does moves less light than half of a picture that is another one.
    other = [*sweep[:-1], np.where(np.arange(48)[None, :, None] < 24, sweep[-1], 0.9 - image)]
    assert score_whole(other, numbers).scene_change > 2 * scores.scene_change
    with pytest.raises(ValueError, match="falling f-numbers"):
        score_whole(sweep, numbers[::-1])


def test_the_change_of_a_scene_is_what_blur_does_not_explain():
    rng = np.random.default_rng(0)
    texture = rng.normal(0.0, 0.1, (32, 32, 3))
    flat = np.full((32, 32, 3), 0.5)
    half = flat + 0.4 * (np.arange(32) < 16)[None, :, None]
    assert scene_change(flat, flat) == 0.0
    np.testing.assert_allclose(scene_change(flat + 0.1, flat), 0.1, rtol=1e-6)
    assert scene_change(flat + texture, flat) < 0.02
    assert scene_change(half, flat) > 0.2


def test_nothing_that_changes_is_no_blur(image):
    scores = score_apertures([image] * 4, LENSES, DISPARITY)
    assert scores.violations == 0.0
    assert scores.lvcorr_rank == 0.0
    # Equal pictures: as far apart as 8 bits can tell.
    assert scores.whole_psnr_db == pytest.approx(-10 * math.log10((0.5 / 255) ** 2 / 3))


def test_where_there_is_nothing_to_see_nothing_is_said():
    flat = [np.full((24, 48, 3), 0.5)] * 4
    scores = score_apertures(flat, LENSES, DISPARITY)
    assert math.isnan(scores.violations)
    assert math.isnan(scores.lvcorr_rank)
    everywhere = score_apertures(flat, LENSES, np.full((24, 48), 0.2))
    assert math.isnan(everywhere.focus_psnr_db)


@pytest.mark.parametrize("lenses", [LENSES[:1], LENSES[::-1], LENSES[:2]])
def test_blurs_must_grow(sweep, lenses):
    count = 4 if len(lenses) == 2 else len(lenses)
    with pytest.raises(ValueError, match="allowed: 2 or more, growing blurs"):
        score_apertures(sweep[:count], lenses, DISPARITY)
