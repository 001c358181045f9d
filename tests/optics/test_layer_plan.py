import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics.layer_plan import Slab, level_of_stage, plan_layers


def test_layers_move_apart_as_kernels_grow():
    plan = plan_layers(70.0)
    spaces = np.diff(plan.radii_px)
    up_to = [np.unique(spaces[np.array(plan.radii_px[1:]) <= r])[-1] for r in (4, 12, 20, 64, 72)]
    assert up_to == [0.5, 1, 2, 4, 8]
    stages = dict(zip(plan.radii_px, plan.stages, strict=True))
    assert [stages[r] for r in (0.5, 2.0, 2.5, 6.0, 7.0, 32.0, 36.0, 64.0, 72.0)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 4)
    ]
    assert [level_of_stage(stage) for stage in (0, 1, 2, 3)] == [0, 0, 1, 2]


@given(st.floats(0, 300))
def test_the_last_layer_reaches_the_greatest_radius_and_not_much_farther(max_radius_px):
    radii_px = plan_layers(max_radius_px).radii_px
    assert radii_px[-1] >= max_radius_px
    assert len(radii_px) == 1 or radii_px[-2] < max_radius_px


@given(st.floats(0.3, 150))
def test_every_layer_is_in_one_slab_and_slabs_run_from_far_to_near(max_radius_px):
    plan = plan_layers(max_radius_px)
    stages = range(plan.stages[-1], 0, -1)
    slabs = [slab for stage in stages for slab in plan.far_slabs(stage)]
    slabs += plan.focus_slabs()
    slabs += [slab for stage in reversed(stages) for slab in plan.near_slabs(stage)]
    assert Slab(0, 0) in slabs
    positions = [i for slab in slabs for i in range(slab.first, slab.last + 1)]
    count = len(plan.radii_px)
    assert positions == list(range(1 - count, count))


@given(st.floats(0, 100), st.integers(0, 1000))
def test_positions_are_linear_between_the_layers(max_radius_px, seed):
    plan = plan_layers(max_radius_px)
    count = len(plan.radii_px)
    layers_px = [plan.signed_radius_px(i) for i in range(1 - count, count)]
    signed_px = np.random.default_rng(seed).uniform(-max_radius_px, max_radius_px, 20)
    expected = np.interp(signed_px, layers_px, np.arange(1 - count, count))
    np.testing.assert_allclose(plan.position(jnp.float32(signed_px)), expected, atol=2e-4)


def test_the_slope_in_focus_is_that_of_its_neighbourhood():
    slope = jax.grad(lambda s: plan_layers(20.0).position(s[None])[0])
    for signed_px in (-0.3, 0.0, 0.3):
        assert slope(jnp.float32(signed_px)) == 2.0
    assert slope(jnp.float32(-13.0)) == 0.5


@pytest.mark.parametrize("max_radius_px", [-1.0, math.inf, math.nan])
def test_a_bad_radius_is_named(max_radius_px):
    with pytest.raises(ValueError, match="max_radius_px must be finite and >= 0, got"):
        plan_layers(max_radius_px)
