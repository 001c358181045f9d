"""A head that knows what photographers do tells the transformer, without pairs and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.focus_transformer import FocusAnswer
from bokeh_jax.models.photo_head import HeadConfig, init_params, realness
from bokeh_jax.objectives.exif_defocus import lens_photographs
from bokeh_jax.objectives.focus_matching import (
    HEAD_NOISE,
    FocusMatchingConfig,
    Proposed,
    focus_loss,
    head_logits,
    head_loss,
    proposed,
)
from bokeh_jax.optics import Exif

CONFIG = FocusMatchingConfig(num_proposals=3, proposal_octaves=0.5)
DEPTHS = jnp.asarray([[0.0, 0.5, 1.0]])
SIDE_PX = 16


def answer_of(logits, octaves=0.0):
    attention = jax.nn.softmax(jnp.asarray([logits], jnp.float32), axis=-1)
    focus = jnp.sum(attention * DEPTHS, axis=-1)
    scale_m = jnp.exp2(jnp.full((1,), octaves, jnp.float32))
    return FocusAnswer(focus, focus, scale_m, attention, DEPTHS)


def proposals_of(answer, octaves=(0.0, 0.0, 0.0)):
    photographs = jnp.zeros((1, 3, 4, 4, 3))
    return Proposed(photographs, answer.attention, jnp.asarray([octaves]))


def test_the_focus_loss_is_least_where_shares_are_what_the_head_knows():
    """Photographers choose (.1, .2, .7); proposals are alike, so H is log of three times that."""
    chosen = jnp.asarray([[0.1, 0.2, 0.7]])
    known = jnp.log(3.0 * chosen)

    def loss(logits):
        answer = answer_of(logits)
        return focus_loss(answer, proposals_of(answer), known, CONFIG)

    slope = jax.grad(loss)
    np.testing.assert_allclose(slope(jnp.log(chosen[0])), 0.0, atol=1e-6)
    # Cross-entropy's slope by the logits: shares less the posterior, and no smaller where p is.
    np.testing.assert_allclose(slope(jnp.zeros(3)), 1 / 3 - chosen[0], atol=1e-6)
    away = slope(jnp.asarray([9.0, 0.0, 0.0]))
    np.testing.assert_allclose(away, [0.9, -0.2, -0.7], atol=1e-3)
    entropy = -float(jnp.sum(chosen * jnp.log(chosen)))
    np.testing.assert_allclose(loss(jnp.log(chosen[0])), entropy, rtol=1e-5)


def test_length_goes_to_the_mean_of_what_the_head_takes_for_real():
    """Slope of Σ r_k (o_k − o)² / 2 ρ² by o: (o − Σ r_k o_k) / ρ²."""
    octaves, known = (0.4, -0.8, 1.0), jnp.log(jnp.asarray([[0.5, 0.25, 0.25]]))

    def loss(own):
        answer = answer_of((0.0, 0.0, 0.0), own)
        return focus_loss(answer, proposals_of(answer, octaves), known, CONFIG)

    for own in (0.0, 0.25, 2.0):
        expected = (own - 0.25) / 0.25
        np.testing.assert_allclose(jax.grad(loss)(own), expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_cannot_tell_costs_two_bits_of_e():
    nothing = head_loss(jnp.zeros(4), jnp.zeros((4, 3)))
    np.testing.assert_allclose(nothing, 2 * np.log(2), rtol=1e-6)
    assert head_loss(jnp.ones(4), -jnp.ones((4, 3))) < nothing
    assert head_loss(-jnp.ones(4), jnp.ones((4, 3))) > nothing


def test_proposals_are_photographs_at_every_depth_and_lengths_around_the_answers():
    rng = np.random.default_rng(0)
    scene = jnp.asarray(rng.random((2, SIDE_PX, SIDE_PX, 3), dtype=np.float32))
    disparity = jnp.asarray(rng.random((2, SIDE_PX, SIDE_PX), dtype=np.float32))
    exif = Exif.from_fields(jnp.asarray([[50.0, 50.0, 1.4], [35.0, 35.0, 2.0]]))
    one = answer_of((0.0, 1.0, 2.0), -1.0)
    answer = jax.tree.map(lambda leaf: jnp.concatenate((leaf, leaf)), one)
    keys = jax.random.split(jax.random.key(0), 2)

    def of(answer, config):
        return proposed(answer, scene, disparity, exif, keys, config=config, max_blur_fraction=0.12)

    made = of(answer, CONFIG)
    np.testing.assert_allclose(made.share, answer.attention, atol=1e-6)
    expected = lens_photographs(
        scene,
        disparity,
        exif,
        jnp.repeat(DEPTHS, 2, axis=0),
        jnp.exp2(made.octaves),
        max_blur_fraction=0.12,
    )
    np.testing.assert_allclose(made.photograph, 2.0 * expected - 1.0, atol=1e-5)
    z = (made.octaves + 1.0) / CONFIG.proposal_octaves
    twice = of(answer, FocusMatchingConfig(num_proposals=3, proposal_octaves=1.0))
    np.testing.assert_allclose(twice.octaves, -1.0 + z, atol=1e-5)
    assert len(np.unique(np.asarray(z))) == 6
    slopes = jax.grad(
        lambda octaves: jnp.sum(of(answer._replace(scale_m=jnp.exp2(octaves)), CONFIG).photograph)
    )(jnp.zeros(2))
    np.testing.assert_array_equal(slopes, 0.0)


def test_the_head_learns_where_photographs_are_sharp():
    """Stripes of two heights, sharp above or below: real are sharp above. All else is alike."""
    config = HeadConfig(width=8, num_levels=2)
    rng = np.random.default_rng(0)
    sharp = np.repeat(rng.choice([-0.8, 0.8], (64, 1, SIDE_PX, 1)), SIDE_PX, axis=1)
    sharp = np.repeat(sharp, 3, axis=-1).astype(np.float32)
    soft = (sharp + np.roll(sharp, 1, axis=2) + np.roll(sharp, -1, axis=2)) / 3
    above = np.arange(SIDE_PX)[None, :, None, None] < SIDE_PX // 2
    real, made = (jnp.asarray(np.where(where, sharp, soft)) for where in (above, ~above))
    disparity = jnp.broadcast_to(jnp.float32(0.5), (64, 1, SIDE_PX, SIDE_PX))
    exif = Exif.from_fields(jnp.full((64, 3), 50.0))

    def logits(params, photographs, seed):
        keys = jax.random.split(jax.random.key(seed), 64)
        return head_logits(params, photographs[:, None], disparity, exif, keys, config)

    def loss(params, seed):
        return head_loss(logits(params, real, seed)[:, 0], logits(params, made, seed + 1000))

    @jax.jit
    def step(params, seed):
        slopes = jax.grad(loss)(params, seed)
        return jax.tree.map(lambda leaf, slope: leaf - 0.05 * slope, params, slopes)

    params = init_params(config, jax.random.key(0))
    np.testing.assert_allclose(loss(params, 0), 2 * np.log(2), rtol=1e-6)
    for seed in range(60):
        params = step(params, seed)
    # Rows swapped, which moves real ones to where made ones are: it judges by place.
    swapped = jnp.roll(real, SIDE_PX // 2, axis=1)
    assert float(jnp.mean(logits(params, real, 7) > 0)) > 0.9
    assert float(jnp.mean(logits(params, swapped, 8) < 0)) > 0.9


def test_each_photograph_is_judged_with_its_own_camera_under_its_own_noise():
    config = HeadConfig(width=4, num_levels=1)
    fresh = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.05, fresh)
    rng = np.random.default_rng(2)
    photographs = jnp.asarray(rng.uniform(-1, 1, (2, 3, 8, 8, 3)).astype(np.float32))
    disparity = jnp.asarray(rng.random((2, 3, 8, 8), dtype=np.float32))
    fields = jnp.asarray([[50.0, 50.0, 1.4], [24.0, 35.0, 8.0]])
    keys = jax.random.split(jax.random.key(1), 2)
    found = head_logits(params, photographs, disparity, Exif.from_fields(fields), keys, config)
    for row, key in enumerate(keys):
        noise = jax.random.normal(key, photographs.shape[1:])
        own = Exif.from_fields(jnp.repeat(fields[row : row + 1], 3, axis=0))
        seen = photographs[row] + HEAD_NOISE * noise
        expected = realness(config, params, seen, disparity[row], own)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)
    assert len(np.unique(np.round(np.asarray(found), 3))) == 6


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("num_proposals", 1, "num_proposals is 1"),
        ("weight", -1.0, "weight is -1.0; allowed: 0 to 10"),
        ("proposal_octaves", 0.0, "proposal_octaves is 0.0; allowed: 0.05 to 3"),
    ],
)
def test_settings_that_are_refused(field, value, line):
    with pytest.raises(InvalidInput, match=line):
        FocusMatchingConfig(**{field: value})
