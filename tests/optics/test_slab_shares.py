import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics import Disc
from bokeh_jax.optics.layer_plan import plan_layers
from bokeh_jax.optics.slab_shares import node_shares, shares, weight, with_kept_shares
from bokeh_jax.optics.slabs import slab_arrays


@functools.cache
def reaches(max_radius_px, dtype="float32"):
    """Every slab's radii, from far to near."""
    plan = plan_layers(max_radius_px)
    slabs = (*reversed(plan.far), plan.in_focus, *plan.near)
    rows = slab_arrays(slabs, 0, 22, Disc(), (8, 8), np.dtype(dtype)).reach
    return slabs, [
        jax.tree.map(lambda row, i=i: jnp.asarray(row[i]), rows) for i in range(len(slabs))
    ]


@given(st.sampled_from([0.4, 3.0, 6.0, 20.0]), st.integers(0, 100))
def test_every_surface_belongs_to_the_slabs_in_all_and_is_seen_by_them(max_radius_px, seed):
    _, rows = reaches(max_radius_px)
    signed_px = np.random.default_rng(seed).uniform(-max_radius_px, max_radius_px, 40)
    signed_px = jnp.float32([*signed_px, -max_radius_px, 0.0, max_radius_px])
    weights = jnp.stack([weight(row, signed_px) for row in rows])
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-5)
    assert (weights >= 0).all()
    # A surface that belongs to a slab or farther ones is what all slabs up to that one share.
    up_to = jnp.stack([shares(row, signed_px).up_to for row in rows])
    np.testing.assert_allclose(up_to, jnp.cumsum(weights, axis=0), atol=2e-5)


def test_between_two_slabs_a_surface_has_the_kernels_of_both_ends():
    slabs, rows = reaches(6.0)
    index = next(i for i, slab in enumerate(slabs) if slab.nodes_px[:1] == (2.5,))
    px = jnp.float32([2.0, 2.25, 2.5])
    np.testing.assert_allclose(weight(rows[index], px), [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(weight(rows[index - 1], px), [1, 0.5, 0], atol=1e-6)
    ends = [node_shares(rows[index], px), node_shares(rows[index - 1], px)]
    np.testing.assert_allclose(ends[0][0], [1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(ends[1][3], [1, 1, 1], atol=1e-6)


@given(st.sampled_from([1.0, 4.0, 6.5, 20.0]), st.integers(0, 100))
def test_shares_of_nodes_mix_the_two_nearest_radii_linearly(max_radius_px, seed):
    slabs, rows = reaches(max_radius_px)
    for slab, row in zip(slabs, rows, strict=True):
        within = np.random.default_rng(seed).uniform(slab.first_px, slab.last_px, 9)
        own = np.stack(node_shares(row, jnp.float32(within)))
        assert own.min() >= 0
        assert (np.count_nonzero(own, axis=0) <= 2).all()
        np.testing.assert_allclose(own.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(slab.nodes_px @ own[: len(slab.nodes_px)], within, atol=2e-5)


def test_a_slab_is_hidden_by_what_is_nearer_than_its_surface_going_on():
    slabs, rows = reaches(20.0)
    # 0.4 of the greatest radius and a pixel; in full a further distance of two slabs on.
    for slab, row in zip(slabs, rows, strict=True):
        begins = slab.last_px + 1 + 0.4 * slab.widest_px
        px = jnp.float32([slab.first_px, begins, begins + slab.after_px - slab.last_px])
        np.testing.assert_allclose(shares(row, px).hides, [0, 0, 1], atol=1e-5)


def mixture(shared, reach, signed_px, light):
    own = shared(reach, signed_px)
    mixed = sum(node * light**n for n, node in enumerate(own.nodes))
    return own.weight * mixed + own.hides * light + own.up_to * light**2


@pytest.mark.parametrize("index", [0, 2, 3, 5])
def test_kept_shares_change_neither_values_nor_slopes(index):
    with jax.enable_x64(True):
        _, rows = reaches(6.0, "float64")
        random = np.random.default_rng(index)
        signed_px, light = (
            jnp.asarray(random.uniform(-8, 8, 60)),
            jnp.asarray(random.normal(size=60)),
        )
        run = functools.partial(with_kept_shares(mixture), rows[index])
        plain = functools.partial(mixture, shares, rows[index])
        value, pull = jax.vjp(run, signed_px, light)
        expected, expected_pull = jax.vjp(plain, signed_px, light)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        gains = jnp.asarray(random.normal(size=60))
        for slope, wanted in zip(pull(gains), expected_pull(gains), strict=True):
            np.testing.assert_allclose(slope, wanted, rtol=1e-9, atol=1e-12)
        # Somewhere a share rises, or nothing was compared.
        assert jnp.abs(pull(gains)[0]).max() > 1e-3
