import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from bokeh_jax import simulation
from bokeh_jax.simulation import DepthNoiseConfig
from bokeh_jax.simulation.depth_noise import _soft, _with_holes, _wrong_curve, _wrong_outlines

damage_disparity = jax.jit(simulation.damage_disparity, static_argnums=2)
NOTHING = DepthNoiseConfig(
    rate=1.0,
    gamma=0.0,
    scale=0.0,
    shift=0.0,
    erosion_fraction=0.0,
    blur_fraction=0.0,
    hole_count=0,
)


def only(**fields) -> DepthNoiseConfig:
    return dataclasses.replace(NOTHING, **fields)


@pytest.fixture
def disparity():
    random = np.random.default_rng(0)
    step = np.where(np.arange(40) < 17, 0.8, 0.3)[None].repeat(24, axis=0)
    return jnp.asarray(step + 0.05 * random.random((24, 40)), jnp.float32)


def keys(count):
    return jax.random.split(jax.random.key(7), count)


def test_without_any_damage_disparity_is_the_truth(disparity):
    batch = jnp.stack([disparity] * 3)
    np.testing.assert_array_equal(damage_disparity(batch, keys(3), NOTHING), batch)
    never = DepthNoiseConfig(rate=0.0)
    assert simulation.damage_disparity(batch, keys(3), never) is batch


def test_a_share_of_the_scenes_is_damaged_and_stays_in_range(disparity):
    batch = jnp.stack([disparity] * 300)
    damaged = damage_disparity(batch, keys(300), DepthNoiseConfig(rate=0.3))
    changed = np.asarray(jnp.any(damaged != batch, axis=(1, 2)))
    assert abs(changed.mean() - 0.3) < 0.08
    assert float(damaged.min()) >= 0
    assert float(damaged.max()) <= 1
    # Every scene draws for itself.
    first, second = np.asarray(damaged)[changed][:2]
    assert np.abs(first - second).max() > 1e-3


def test_damage_depends_on_the_scenes_own_key_only(disparity):
    config = DepthNoiseConfig(rate=1.0)
    batch = jnp.stack([disparity] * 4)
    whole = damage_disparity(batch, keys(4), config)
    part = damage_disparity(batch[2:], keys(4)[2:], config)
    np.testing.assert_allclose(part, whole[2:], atol=1e-6)


def test_the_curve_keeps_the_order_of_depths_and_its_parameters_stay_in_bounds(disparity):
    line = jnp.linspace(0.0, 1.0, 11)[None]
    config = only(gamma=0.5, scale=0.2, shift=0.1)
    curves = jax.vmap(lambda key: _wrong_curve(line, key, config))(keys(200))[:, 0]
    assert np.all(np.diff(curves, axis=1) > 0)
    shift, end = curves[:, 0], curves[:, -1]
    assert np.abs(shift).max() <= 0.1
    assert np.abs(shift).max() > 0.08
    scale = end - shift
    assert scale.min() >= 0.8 - 1e-6
    assert scale.max() <= 1.2 + 1e-6
    assert np.ptp(scale) > 0.3
    gamma = np.log((curves[:, 5] - shift) / scale) / np.log(0.5)
    assert gamma.min() >= 1 / 1.5 - 1e-4
    assert gamma.max() <= 1.5 + 1e-4
    assert np.ptp(gamma) > 0.6


def test_things_get_fatter_or_thinner_by_the_window(disparity):
    config = only(erosion_fraction=0.05)
    found = [np.asarray(_wrong_outlines(disparity, key, config)) for key in keys(12)]
    expected = {
        "same": np.asarray(disparity),
        "fat": ndimage.maximum_filter(np.asarray(disparity), 5, mode="nearest"),
        "thin": ndimage.minimum_filter(np.asarray(disparity), 5, mode="nearest"),
    }
    names = [
        next(name for name, value in expected.items() if np.array_equal(value, one))
        for one in found
    ]
    assert set(names) == {"same", "fat", "thin"}


def test_softness_is_a_gaussian_that_takes_nothing_from_beyond_the_edge(disparity):
    key, config = keys(1)[0], only(blur_fraction=0.05)
    soft = np.asarray(_soft(disparity, key, config))
    sigma_px = 40 * float(jax.random.uniform(key, (), maxval=0.05))
    blurred = ndimage.gaussian_filter(
        np.asarray(disparity, np.float64), sigma_px, mode="constant", truncate=12
    )
    weight = ndimage.gaussian_filter(np.ones((24, 40)), sigma_px, mode="constant", truncate=12)
    np.testing.assert_allclose(soft, blurred / weight, atol=1e-4)
    assert sigma_px > 0.3


def test_holes_are_ellipses_of_one_value(disparity):
    config = only(hole_count=1, hole_fraction=0.3)
    holes = [np.asarray(_with_holes(disparity, key, config)) for key in keys(40)]
    changed = [one != np.asarray(disparity) for one in holes]
    values = [np.unique(one[hole]) for one, hole in zip(holes, changed, strict=True) if hole.any()]
    assert 8 < len(values) < 36, "about half of the holes are there"
    assert all(len(value) == 1 for value in values)
    assert 0.2 < np.mean([value[0] == 0 for value in values]) < 0.8
    assert max(hole.sum() for hole in changed) <= np.pi * 12 * 12 + 40


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", -0.1), ("gamma", 9.0), ("blur_fraction", 0.5), ("hole_count", 99)],
)
def test_numbers_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; allowed"):
        DepthNoiseConfig(**{field: value})
