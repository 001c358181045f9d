"""Metrics of blur on two planes: what is right scores perfect, and each failure is caught."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from two_planes import (
    ASKED_BLUR_PX,
    ASKED_RADIUS_PX,
    FAR,
    NEAR,
    all_in_focus,
    disparity,
    photograph,
)

from bokeh_jax.evaluation.blur_level import BlurLevels, blur_ruler, measure_blur
from bokeh_jax.evaluation.consistency import (
    clipped_share,
    highlight_stops,
    stacking_rms,
    unchanged_mae,
)
from bokeh_jax.evaluation.regions import (
    asked_planes,
    find_regions,
    focus_choice_error_px,
    unchanged_pixels,
)
from bokeh_jax.evaluation.scores import ANSWER_METRICS, METRICS, prepare, score_answer
from bokeh_jax.evaluation.sharpness import (
    blur_range_stops,
    laplacian_variance,
    lvcorr_genphoto,
    lvcorr_genrefocus,
    lvcorr_rank,
    sharpest_plane_error_px,
)
from bokeh_jax.optics import Lens, in_focus_weights, linear_to_srgb, srgb_to_linear

TARGET = Lens(NEAR, ASKED_BLUR_PX)
SHARP = Lens(NEAR, 0.0)


@pytest.fixture(scope="module")
def answers():
    """Right and wrong answers to: focus on the square in front."""
    truth = photograph()
    everywhere = photograph(0.5 * (NEAR + FAR), 2 * ASKED_BLUR_PX)
    return {
        "truth": truth,
        "no_blur": all_in_focus(),
        "wrong_plane": photograph(focus=FAR),
        "blur_everywhere": everywhere,
        "half": photograph(blur_px=0.5 * ASKED_BLUR_PX),
        "double": photograph(blur_px=2 * ASKED_BLUR_PX),
        "eight_bits": np.rint(truth * 255).astype(np.float32) / np.float32(255),
    }


def test_every_pixel_is_in_one_region():
    masks = find_regions(disparity(), TARGET, SHARP).by_name()
    assert list(masks) == ["focus", "background", "occlusion"]
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    # Far from the silhouette the square is in focus and the wall is not.
    assert masks["focus"][29, 33]
    assert masks["background"][3, 3]


def test_the_occlusion_band_is_as_wide_as_the_blur():
    columns = np.flatnonzero(find_regions(disparity(), TARGET).occlusion[29, :32])
    # The silhouette lies between the columns 15 and 16; 3.6 px round up to 4 on either side.
    assert list(columns) == [*range(16 - 5, 16 + 5)]
    wider = find_regions(disparity(), TARGET, Lens(NEAR, 2 * ASKED_BLUR_PX))
    assert list(np.flatnonzero(wider.occlusion[29, :32])) == [*range(16 - 9, 16 + 9)]
    assert not find_regions(disparity(), SHARP).occlusion.any()


def test_unchanged_pixels_are_those_of_equal_radius():
    other = Lens(0.5, 2 * ASKED_BLUR_PX)
    # Radii 3.6 and 3.6 px in front, 0 and 3.6 behind.
    found = unchanged_pixels(disparity(), Lens(FAR, ASKED_BLUR_PX), other)
    assert found[29, 33]
    assert not found[3, 3]
    assert not found[29, 16]


def test_planes_lie_at_whole_radii():
    far, near = asked_planes(disparity(), TARGET)
    assert far[3, 3]
    assert near[29, 33]
    assert len(asked_planes(disparity(), SHARP)) == 1


def test_a_handful_of_pixels_is_no_plane():
    values = np.full((20, 20), 0.45, np.float32)
    # A tenth of a pixel apart, so no step, but on either side of half a pixel.
    values[5:10, 5:11] = 0.55
    lens = Lens(0.0, 1.0)
    assert len(asked_planes(values, lens)) == 1
    values[5:11, 5:11] = 0.55
    assert [plane.sum() for plane in asked_planes(values, lens)] == [364, 36]


@pytest.mark.parametrize("known", ["all_in_focus", "truth"])
@pytest.mark.parametrize(
    ("name", "far_px", "near_px"),
    [
        ("truth", ASKED_RADIUS_PX, 0.0),
        ("eight_bits", ASKED_RADIUS_PX, 0.0),
        ("no_blur", 0.0, 0.0),
        ("wrong_plane", 0.0, ASKED_RADIUS_PX),
        ("blur_everywhere", ASKED_RADIUS_PX, ASKED_RADIUS_PX),
        ("half", 0.5 * ASKED_RADIUS_PX, 0.0),
        ("double", 2 * ASKED_RADIUS_PX, 0.0),
    ],
)
def test_radii_are_read_from_the_result(answers, known, name, far_px, near_px):
    given = {known: all_in_focus() if known == "all_in_focus" else answers["truth"]}
    levels = measure_blur(answers[name], blur_ruler(disparity(), TARGET, **given))
    # From the truth alone, differences of squared radii are measured: less exact away from it.
    allowed_px = 0.1 if known == "all_in_focus" or name in ("truth", "eight_bits") else 0.5
    np.testing.assert_allclose(levels.measured_px, [far_px, near_px], atol=allowed_px)
    np.testing.assert_allclose(levels.asked_px, [ASKED_RADIUS_PX, 0.0], atol=1e-6)
    expected = np.average(np.abs([far_px - ASKED_RADIUS_PX, near_px]), weights=levels.pixels)
    assert levels.error_px() == pytest.approx(expected, abs=allowed_px)
    relative = np.average([abs(far_px / ASKED_RADIUS_PX - 1), near_px], weights=levels.pixels)
    assert levels.relative_error() == pytest.approx(relative, abs=allowed_px)
    assert levels.focus_error_px() == (ASKED_RADIUS_PX if name == "wrong_plane" else 0.0) or (
        levels.focus_error_px() == pytest.approx(ASKED_RADIUS_PX)
    )
    assert not levels.censored.any()


def test_radii_beyond_the_search_are_censored(answers):
    ruler = blur_ruler(disparity(), TARGET, all_in_focus=all_in_focus(), max_radius_px=3.0)
    levels = measure_blur(answers["double"], ruler)
    assert list(levels.censored) == [True, False]
    assert levels.censored_share() == pytest.approx(levels.pixels[0] / levels.pixels.sum())


def test_sharper_by_more_than_the_search_is_censored_too(answers):
    ruler = blur_ruler(disparity(), TARGET, truth=answers["truth"], max_radius_px=2.0)
    levels = measure_blur(answers["no_blur"], ruler)
    assert list(levels.censored) == [True, False]


def test_planes_about_as_sharp_share_the_focus():
    def error_px(far_px, near_px):
        measured_px, ones = np.array([far_px, near_px]), np.ones(2)
        return BlurLevels(
            np.array([3.6, 0.0]), measured_px, ones, np.zeros(2, bool), 1.0
        ).focus_error_px()

    assert error_px(0.0, 0.2) == 0.0
    assert error_px(0.0, 0.3) == 3.6


def test_planes_without_texture_say_nothing(answers):
    plain = all_in_focus().copy()
    plain[:, 8:] = 0.4
    levels = measure_blur(answers["truth"], blur_ruler(disparity(), TARGET, all_in_focus=plain))
    assert len(levels.asked_px) == 1
    empty = np.full_like(plain, 0.4)
    levels = measure_blur(answers["truth"], blur_ruler(disparity(), TARGET, all_in_focus=empty))
    assert levels.share == 0.0
    assert math.isnan(levels.error_px())
    assert math.isnan(levels.focus_error_px())
    with pytest.raises(ValueError, match="all_in_focus and truth are None"):
        blur_ruler(disparity(), TARGET)


def test_the_sharpest_plane_is_found_without_a_model_of_blur(answers):
    def error_px(name, lens=TARGET):
        return sharpest_plane_error_px(answers[name], all_in_focus(), disparity(), lens)

    for name in ("truth", "eight_bits", "half", "double", "no_blur"):
        assert error_px(name) == 0.0
    assert error_px("wrong_plane") == pytest.approx(ASKED_RADIUS_PX)
    assert error_px("truth", Lens(FAR, ASKED_BLUR_PX)) == pytest.approx(ASKED_RADIUS_PX)
    # Nothing to focus where nothing is to be blurred.
    assert math.isnan(error_px("truth", SHARP))


def test_focus_is_judged_among_planes_with_texture(answers):
    plain = all_in_focus().copy()
    plain[:, 8:] = 0.4
    noisy = plain + np.random.default_rng(0).normal(0, 0.02, plain.shape).astype(np.float32)
    # Noise makes a smooth plane no sharper, and one plane alone leaves nothing to choose.
    assert math.isnan(sharpest_plane_error_px(noisy, plain, disparity(), TARGET))


def test_the_right_plane_is_the_least_blurred_of_those_that_can_be_measured():
    asked_px = np.array([4.8, 3.0])
    assert focus_choice_error_px(asked_px, np.array([False, True])) == 0.0
    assert focus_choice_error_px(asked_px, np.array([True, True])) == 0.0
    assert focus_choice_error_px(asked_px, np.array([True, False])) == pytest.approx(1.8)
    assert math.isnan(focus_choice_error_px(asked_px[:1], np.array([True])))
    assert math.isnan(focus_choice_error_px(np.array([3.0, 3.9]), np.array([True, False])))


def test_lvcorr_variants_follow_their_definitions():
    blurs = np.array([0.0, 2.0, 4.0, 6.0, 9.0])
    truths = np.stack([photograph(blur_px=blur) for blur in blurs])
    rng = np.random.default_rng(0)
    answers = truths[[0, 2, 1, 3, 4]] + rng.normal(0, 0.01, truths.shape).astype(np.float32)
    values = np.array([laplacian_variance(picture) for picture in answers])
    true_values = np.array([laplacian_variance(picture) for picture in truths])
    assert lvcorr_genphoto(answers, truths) == pytest.approx(
        pearsonr(np.diff(values), np.diff(true_values)).statistic
    )
    assert lvcorr_genrefocus(answers, blurs) == pytest.approx(-pearsonr(blurs, values).statistic)
    assert lvcorr_rank(answers, blurs) == pytest.approx(-spearmanr(blurs, values).statistic)
    # Ties share their rank.
    tied = np.array([0.0, 2.0, 2.0, 6.0, 9.0])
    assert lvcorr_rank(answers, tied) == pytest.approx(-spearmanr(tied, values).statistic)


def test_lvcorr_of_the_truth_and_of_failures():
    blurs = np.array([0.0, 2.0, 4.0, 6.0, 9.0])
    truths = np.stack([photograph(blur_px=blur) for blur in blurs])
    background = find_regions(disparity(), TARGET).background
    assert lvcorr_genphoto(truths, truths, background) == pytest.approx(1.0)
    assert lvcorr_rank(truths, blurs, background) == pytest.approx(1.0)
    assert 0.6 < lvcorr_genrefocus(truths, blurs, background) < 1.0
    assert blur_range_stops(truths, truths, background) == 0.0
    unchanged = np.stack([all_in_focus()] * 5)
    assert lvcorr_genphoto(unchanged, truths) == lvcorr_genrefocus(unchanged, blurs) == 0.0
    assert lvcorr_rank(unchanged, blurs) == 0.0
    assert blur_range_stops(unchanged, truths, background) < -3.0
    turned = truths[::-1]
    assert lvcorr_rank(turned, blurs, background) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="0 pixels"):
        laplacian_variance(truths[0], np.zeros_like(background))


def test_laplacian_variance_by_hand():
    image = np.zeros((5, 7, 3), np.float32)
    image[2, 3] = 1.0
    # −4, and 1 four times, in units of 255, over 35 pixels of mean 0.
    assert laplacian_variance(image) == pytest.approx(255**2 * 20 / 35)


def test_the_blend_of_answers_is_the_answer_to_the_blend():
    lenses = Lens(jnp.asarray([NEAR, FAR]), ASKED_BLUR_PX)
    weights = np.asarray(in_focus_weights(jnp.asarray(disparity()), lenses))
    truths = np.stack([photograph(NEAR), photograph(FAR)])
    blend = (truths * weights[..., None]).sum(axis=0)
    assert stacking_rms(truths, weights, blend) == pytest.approx(0.0, abs=1e-6)
    shifted = truths + np.float32(0.1) * np.array([1, -1], np.float32)[:, None, None, None]
    assert stacking_rms(shifted, weights, blend) == pytest.approx(
        0.1 * np.sqrt(np.mean((weights[0] - weights[1]) ** 2)), rel=1e-5
    )
    assert stacking_rms(truths[::-1], weights, blend) > 0.1


def test_pixels_that_stay_are_to_stay(answers):
    unchanged = unchanged_pixels(disparity(), TARGET, SHARP)
    assert unchanged_mae(answers["truth"], all_in_focus(), unchanged) < 1e-6
    assert unchanged_mae(answers["blur_everywhere"], all_in_focus(), unchanged) > 0.1
    nothing = np.zeros_like(unchanged)
    assert math.isnan(unchanged_mae(answers["truth"], all_in_focus(), nothing))


def test_dulled_and_blown_highlights_are_caught():
    truth = np.full((40, 50, 3), 0.2, np.float32)
    truth[20:24, 20:24] = 0.9
    assert highlight_stops(truth, truth) == clipped_share(truth, truth) == 0.0
    dulled = np.asarray(linear_to_srgb(0.25 * srgb_to_linear(jnp.asarray(truth))))
    assert highlight_stops(dulled, truth) == pytest.approx(-2.0, abs=1e-4)
    blown = np.where(truth > 0.5, 1.0, truth).astype(np.float32)
    assert highlight_stops(blown, truth) > 0.2
    assert clipped_share(blown, truth) == pytest.approx(16 / 2000)
    assert clipped_share(truth, blown) == pytest.approx(-16 / 2000)
    assert math.isfinite(highlight_stops(np.zeros_like(truth), truth))


def test_all_scores_of_the_truth_are_perfect_and_failures_are_not(answers):
    truth = prepare(
        answers["truth"],
        reference=all_in_focus(),
        all_in_focus=all_in_focus(),
        disparity=disparity(),
        target=TARGET,
        reference_lens=SHARP,
    )
    scores = {name: score_answer(picture, truth) for name, picture in answers.items()}
    assert all(tuple(found) == ANSWER_METRICS for found in scores.values())
    tolerance = {"blur_error_px": 0.1, "blur_relative_error": 0.1}
    for name, value in scores["truth"].items():
        info = METRICS[name.split("/")[0]]
        perfect = 0.0 if info.perfect is None else info.perfect
        assert value == pytest.approx(perfect, abs=tolerance.get(name, 1e-6)), name
    for failure in ("no_blur", "wrong_plane", "blur_everywhere"):
        found = scores[failure]
        assert found["psnr_db"] < 30.0
        assert found["blur_error_px"] > 0.5
        assert found["ssim"] < 0.9
        assert found["mae"] > 0.01
    assert scores["wrong_plane"]["focus_error_px"] == pytest.approx(ASKED_RADIUS_PX)
    assert (
        scores["no_blur"]["psnr_db/focus"] > 50.0 > 30.0 > scores["no_blur"]["psnr_db/background"]
    )
    assert scores["blur_everywhere"]["unchanged_mae"] > 0.1


def test_what_is_not_known_is_not_scored(answers):
    scores = score_answer(answers["half"], prepare(answers["truth"]))
    assert tuple(scores) == ANSWER_METRICS
    found = {name for name, value in scores.items() if math.isfinite(value)}
    assert found == {"psnr_db", "mae", "ssim", "highlight_stops", "clipped_share"}
    # A reference that is left blurred is within the search of a target without blur.
    deblur = prepare(all_in_focus(), disparity=disparity(), target=SHARP, reference_lens=TARGET)
    scores = score_answer(answers["truth"], deblur)
    assert scores["blur_censored_share"] == 0.0
    assert scores["blur_error_px"] > 0.5
    assert math.isnan(scores["focus_error_px"])
