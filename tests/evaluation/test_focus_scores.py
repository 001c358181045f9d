"""How answers on focus are scored, and what needs no training answers."""

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.evaluation.focus import MODEL, NAMES, FocusResult, baselines, gain, summary_of

RNG = np.random.default_rng(3)


def result(ours, nearest, truth, uncertainty=None) -> FocusResult:
    """Answers of the transformer and of one baseline; metric disparity is 0.5 + 2 d."""
    count = len(truth)
    focus = {name: np.asarray(nearest, np.float64) for name in NAMES}
    focus[MODEL] = np.asarray(ours, np.float64)
    return FocusResult(
        split="held_out",
        focus=focus,
        truth=np.asarray(truth, np.float64),
        range_per_m=np.tile([0.5, 2.5], (count, 1)),
        octaves=np.full(count, -0.5),
        uncertainty=np.asarray(range(count) if uncertainty is None else uncertainty, np.float64),
        pictures=np.zeros((1, 5, 4, 4, 3), np.float32),
    )


def test_shares_are_of_the_distance_in_metres():
    # 1 / (0.5 + 2 · 0.25) = 1 m; answers at 0.75, 0.8, 1.05, 1.25 and 1.3 m.
    answers = [(1 / metres - 0.5) / 2 for metres in (0.7501, 0.8, 1.05, 1.2499, 1.3)]
    found = result(answers, answers, [0.25] * 5)
    np.testing.assert_allclose(found.distance_m(found.truth), 1.0)
    np.testing.assert_array_equal(found.within(MODEL, 0.25), [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(found.within(MODEL, 0.1), [0, 0, 1, 0, 0])
    np.testing.assert_allclose(found.disparity_error(MODEL), np.abs(np.array(answers) - 0.25))


def test_summary_has_gains_and_halves_by_uncertainty():
    truth = [0.3] * 8
    ours = [0.3] * 6 + [0.9] * 2
    scores = summary_of(result(ours, [0.9] * 4 + [0.3] * 4, truth))
    assert scores["within"]["0.25"][MODEL]["mean"] == 0.75
    assert scores["within"]["0.25"]["nearest"]["mean"] == 0.5
    np.testing.assert_allclose(scores["gain_within"]["0.25"]["nearest"]["mean"], 0.25)
    # The four that it is surest of are right, of the others half.
    assert scores["surer_half_within"]["mean"] == 1.0
    assert scores["other_half_within"]["mean"] == 0.5
    assert scores["blur_octaves_error"]["mean"] == 0.5
    assert summary_of(result(ours, ours, truth, [1] * 8))["other_half_within"] is None


def test_a_gain_is_paired():
    ours, theirs = [0.3] * 10 + [0.9] * 10, [0.9] * 2 + [0.3] * 8 + [0.9] * 10
    found = gain(result(ours, theirs, [0.3] * 20), "nearest", 0.25)
    np.testing.assert_allclose(found.mean, 0.1)
    # Of shares that are drawn apart it would be 0.3.
    assert found.half_width < 0.2


@pytest.mark.parametrize(("height", "width"), [(24, 24), (12, 30)])
def test_answers_that_need_no_training(height, width):
    disparity = RNG.uniform(0, 1, (2, height, width)).astype(np.float32)
    found = {name: np.asarray(value) for name, value in baselines(jnp.asarray(disparity)).items()}
    flat = disparity.reshape(2, -1)
    np.testing.assert_array_equal(found["nearest"], flat.max(axis=1))
    np.testing.assert_allclose(found["median"], np.median(flat, axis=1), rtol=1e-6)
    middle = disparity[:, height // 2 - height // 12 : height // 2 + height // 12]
    middle = middle[:, :, 5 * width // 12 : -(-7 * width // 12)].reshape(2, -1)
    np.testing.assert_allclose(found["centre"], np.median(middle, axis=1), rtol=1e-6)
    # A thing in the middle counts for more than one at the rim.
    ring = np.ones((1, height, width), np.float32)
    ring[:, height // 3 : 2 * height // 3, width // 2 - 3 : width // 2 + 3] = 0.0
    weighted = float(baselines(jnp.asarray(ring))["centre_weighted"][0])
    assert weighted < float(ring.mean()) - 0.1
    even = float(baselines(jnp.full((1, height, width), 0.7))["centre_weighted"][0])
    np.testing.assert_allclose(even, 0.7, rtol=1e-5)
