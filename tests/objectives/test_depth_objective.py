"""The depth objective: scale and zero do not count, order and outlines do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import depth_anything
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.objectives.depth import (
    DEPTH,
    DepthObjectiveConfig,
    correlation,
    depth_loss,
    normalized,
)
from bokeh_jax.simulation import AugmentConfig, CameraConfig, SimulationConfig

TINY = DepthConfig(
    hidden_dim=16,
    num_heads=2,
    num_blocks=2,
    mlp_ratio=2,
    patch_px=4,
    position_grid=4,
    out_blocks=(1, 2),
    neck_dims=(8, 8),
    resize_factors=(1.0, 0.5),
    fusion_dim=8,
    last_dim=4,
    working_size_px=16,
    compute_dtype="float32",
)
SIMULATION = SimulationConfig(
    size_px=16,
    augment=AugmentConfig(flip_rate=0.0),
    cameras=CameraConfig(blur_fraction_min=0.01, blur_fraction_max=0.02),
)
KEYS = jax.random.split(jax.random.key(1), 2)


def scenes():
    """Photographs of near discs before a far plane, brighter where they are near."""
    draw = np.random.default_rng(2)
    y, x = np.mgrid[:16, :16]
    near = np.stack([np.hypot(x - a, y - b) < 5 for a, b in draw.uniform(4, 12, (2, 2))])
    image = np.where(near[..., None], 200, 60) + draw.integers(0, 40, (2, 16, 16, 3))
    return {
        "image": jnp.asarray(image, jnp.uint8),
        "disparity": jnp.asarray(np.where(near, 50_000, 10_000) + 500 * x[None], jnp.uint16),
        "scene_id": jnp.arange(2, dtype=jnp.int32),
    }


def loss_of(params, **settings):
    return depth_loss(
        params,
        scenes(),
        KEYS,
        model=TINY,
        simulation=SIMULATION,
        objective=DepthObjectiveConfig(gradient_scales=2, **settings),
    )


def test_scale_and_zero_do_not_count():
    disparity = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 8, 8)), jnp.float32)
    np.testing.assert_allclose(normalized(7.0 * disparity - 3.0), normalized(disparity), atol=1e-4)
    centred = normalized(disparity)
    np.testing.assert_allclose(np.median(centred, axis=(1, 2)), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.abs(centred).mean(axis=(1, 2)), 1.0, atol=1e-5)
    # The other way round is another answer.
    assert np.abs(normalized(1.0 - disparity) - centred).mean() > 1.0


def test_an_image_of_one_depth_is_no_number_that_is_not_finite():
    flat = jnp.full((1, 8, 8), 0.4)
    np.testing.assert_array_equal(normalized(flat), 0.0)
    slope = jax.grad(lambda x: jnp.sum(normalized(x) ** 2))(flat)
    assert np.isfinite(slope).all()
    answered = jax.grad(lambda x: jnp.sum(correlation(x, flat)))(flat)
    assert np.isfinite(answered).all()


def test_correlation_is_pearsons():
    draw = np.random.default_rng(4)
    first, second = draw.normal(size=(2, 3, 5, 6)).astype(np.float32)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(
        correlation(jnp.asarray(first), jnp.asarray(second)), expected, atol=1e-5
    )


def test_both_terms_reach_the_network_and_add_up():
    params = {DEPTH: depth_anything.init_params(TINY, jax.random.key(0))}
    gradient, parts = jax.jit(jax.grad(lambda p: loss_of(p, gradient_weight=2.0), has_aux=True))(
        params
    )
    np.testing.assert_allclose(
        parts["loss"], parts["disparity_loss"] + 2.0 * parts["gradient_loss"], rtol=1e-6
    )
    head = gradient[DEPTH]["head"]["conv3"]["kernel"]
    patches = gradient[DEPTH]["backbone"]["patches"]["kernel"]
    assert np.abs(head).max() > 0
    assert np.abs(patches).max() > 0


def test_alignment_forgives_scale_and_zero_and_nothing_else_does():
    params = {DEPTH: depth_anything.init_params(TINY, jax.random.key(0))}
    doubled = jax.tree.map(lambda leaf: leaf, params)
    doubled[DEPTH]["head"]["conv3"] = jax.tree.map(
        lambda leaf: 2.0 * leaf, params[DEPTH]["head"]["conv3"]
    )
    for alignment, same in (("scale_and_shift", True), ("none", False)):
        run = jax.jit(lambda p, a=alignment: loss_of(p, alignment=a)[0])
        assert (abs(run(doubled) - run(params)) < 1e-4) == same


def test_a_tiny_network_learns_which_is_near():
    import optax

    params = {DEPTH: depth_anything.init_params(TINY, jax.random.key(0))}
    optimizer = optax.adam(3e-3)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, moments = carry
            gradient, parts = jax.grad(loss_of, has_aux=True)(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, moments = optimizer.update(gradient, moments)
                params = optax.apply_updates(params, updates)
            return (params, moments), parts["correlation"]

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=60)[1]

    found = run(params)
    assert found[0] < 0.8
    assert found[-1] > 0.9


def test_bad_settings_are_named():
    with pytest.raises(InvalidInput, match=r"gradient_weight is -1\.0; allowed: 0 or more"):
        DepthObjectiveConfig(gradient_weight=-1.0)
    with pytest.raises(InvalidInput, match="gradient_scales is 0; allowed: 1 or more"):
        DepthObjectiveConfig(gradient_scales=0)
