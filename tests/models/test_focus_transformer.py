"""The answer of the focus distance transformer lies among the scene's depths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import focus_transformer
from bokeh_jax.models.focus_transformer import (
    FocusAnswer,
    FocusConfig,
    detail,
    likeliest,
    token_disparity,
)
from bokeh_jax.optics import Exif

CONFIG = FocusConfig(
    patch_size=4, hidden_dim=16, num_heads=2, num_blocks=1, rope_axes_dim=(4, 2, 2)
)
RNG = np.random.default_rng(8)
IMAGE = jnp.asarray(RNG.uniform(-1, 1, (3, 12, 16, 3)), jnp.float32)
DISPARITY = jnp.asarray(RNG.uniform(0.2, 0.9, (3, 12, 16)), jnp.float32)
EXIF = Exif.from_fields(jnp.asarray([[50, 50, 1.8], [4.2, 26, 2.2], [85, 130, 5.6]], jnp.float32))
FRESH = focus_transformer.init_params(CONFIG, jax.random.key(0))
TRAINED = jax.tree.map(
    lambda leaf: leaf + 0.3 * jnp.asarray(RNG.standard_normal(leaf.shape), jnp.float32), FRESH
)
answer_of = jax.jit(functools.partial(focus_transformer.apply, CONFIG))


def test_the_focus_lies_among_the_scenes_depths_with_its_spread():
    answer = answer_of(TRAINED, IMAGE, DISPARITY, EXIF)
    attention, depths = np.asarray(answer.attention), np.asarray(answer.token_disparity)
    np.testing.assert_allclose(attention.sum(axis=1), 1.0, rtol=1e-5)
    assert attention.std() > 0.01
    mean = (attention * depths).sum(axis=1)
    spread = np.sqrt((attention * (depths - mean[:, None]) ** 2).sum(axis=1))
    np.testing.assert_allclose(answer.focus_disparity, mean, rtol=1e-5)
    np.testing.assert_allclose(answer.uncertainty, spread, rtol=1e-3)
    # Every token's depth is that of one of its own pixels.
    for index, (row, column) in enumerate(np.ndindex(3, 4)):
        patch = DISPARITY[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(3, -1)
        np.testing.assert_array_equal(depths[:, index], np.sort(patch, axis=1)[:, 7])


def test_a_fresh_network_looks_everywhere_alike_and_answers_the_start_scale():
    answer = answer_of(FRESH, IMAGE, DISPARITY, EXIF)
    np.testing.assert_allclose(answer.attention, 1 / 12, rtol=1e-5)
    np.testing.assert_allclose(answer.scale_m, CONFIG.scale_start_m, rtol=1e-6)


def test_the_scale_stays_within_its_octaves():
    extreme = TRAINED | {"scale": {"kernel": jnp.full((16, 1), 1e3), "bias": jnp.full(1, 1e5)}}
    scale_m = answer_of(extreme, IMAGE, DISPARITY, EXIF).scale_m
    np.testing.assert_allclose(scale_m, CONFIG.scale_start_m * 2**CONFIG.scale_octaves, rtol=1e-5)


def test_image_depth_and_camera_all_count():
    answer = answer_of(TRAINED, IMAGE, DISPARITY, EXIF)
    for changed in (
        (IMAGE[:, ::-1], DISPARITY, EXIF),
        (IMAGE, DISPARITY[:, ::-1], EXIF),
        (IMAGE, DISPARITY, EXIF._replace(f_number=2 * EXIF.f_number)),
    ):
        other = answer_of(TRAINED, *changed)
        assert (np.abs(other.attention - answer.attention).max(axis=1) > 1e-4).all()


def test_place_counts_beside_content():
    # The same two patches everywhere, but for where they are.
    same = jnp.ones_like(IMAGE), jnp.full_like(DISPARITY, 0.5), EXIF
    assert np.ptp(answer_of(TRAINED, *same).attention, axis=1).min() > 1e-4


def test_gradients_reach_image_disparity_and_all_parameters():
    def total(params, image, disparity):
        answer = focus_transformer.apply(CONFIG, params, image, disparity, EXIF)
        return jnp.sum(answer.focus_disparity + answer.uncertainty + jnp.log(answer.scale_m))

    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(TRAINED, IMAGE, DISPARITY)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_the_likeliest_depth_is_one_of_two_where_the_mean_is_neither():
    depths = jnp.asarray([[0.1, 0.12, 0.8, 0.82, 0.5, 0.3]], jnp.float32)
    attention = jnp.asarray([[0.2, 0.15, 0.3, 0.29, 0.03, 0.03]], jnp.float32)
    mean = jnp.sum(attention * depths, axis=1)
    nothing = jnp.zeros(1)
    found = likeliest(FocusAnswer(mean, nothing, nothing, attention, depths))
    assert abs(float(found[0]) - 0.81) < 0.011
    assert abs(float(mean[0]) - 0.5) < 0.06


def test_detail_is_the_slope_of_luminance():
    ramp = jnp.broadcast_to(0.1 * jnp.arange(6.0)[None, None, :, None], (1, 4, 6, 3))
    found = np.asarray(detail(ramp))
    np.testing.assert_allclose(found[:, :, :-1], 0.1, rtol=1e-3)
    np.testing.assert_allclose(found[:, :, -1], 0.0, atol=2e-3)


def test_a_patch_of_four_has_the_lower_middle():
    disparity = jnp.asarray([[[0.1, 0.4], [0.3, 0.2]]])
    np.testing.assert_allclose(token_disparity(disparity, 2), [[0.2]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_blocks": 0}, "num_blocks is 0; allowed: 1 or more"),
        ({"scale_start_m": 0.0}, "scale_start_m is 0.0; allowed: above 0, up to 100"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(InvalidInput) as found:
        FocusConfig(**changes)
    assert str(found.value) == said
