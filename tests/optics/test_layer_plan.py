import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics.layer_plan import NODES_A_SLAB, Slab, level_of_stage, plan_layers


def test_slabs_move_apart_as_kernels_grow():
    plan = plan_layers(70.0)
    ends = [(slab.first_px, slab.last_px) for slab in plan.near]
    expected = [(0.5, 2), (2.5, 4.5), (5.5, 8.5), (9.5, 14), (16, 24), (28, 42), (49, 70)]
    np.testing.assert_allclose(ends, expected)
    assert plan.stages == (0, 1, 2, 2, 2, 3, 3)
    assert [level_of_stage(stage) for stage in (0, 1, 2, 3)] == [0, 0, 1, 2]
    assert plan_layers(300.0).stages[7:] == (4, 4, 5)
    assert plan.near[2].nodes_px == pytest.approx((5.5, 7.0, 8.5))


@given(st.floats(0, 300))
def test_slabs_reach_the_greatest_radius_and_end_there(max_radius_px):
    plan = plan_layers(max_radius_px)
    assert plan.widest_px == max_radius_px
    for slab in plan.near:
        assert list(slab.nodes_px) == sorted(set(slab.nodes_px))
        assert 1 <= len(slab.nodes_px) <= NODES_A_SLAB


@given(st.floats(0.01, 300))
def test_slabs_follow_each_other_from_far_to_near_without_a_gap(max_radius_px):
    plan = plan_layers(max_radius_px)
    stages = range(plan.last_stage, -1, -1)
    slabs = [slab for stage in stages for slab in plan.far_slabs(stage)]
    slabs.append(plan.in_focus)
    slabs += [slab for stage in reversed(stages) for slab in plan.near_slabs(stage)]
    assert slabs.index(plan.in_focus) == len(plan.near)
    for farther, nearer in itertools.pairwise(slabs):
        assert farther.after_px == nearer.first_px
        assert nearer.before_px == farther.last_px
        assert farther.last_px < nearer.first_px
    assert slabs[0].first_px == -max_radius_px
    assert slabs[-1].last_px == max_radius_px


@pytest.mark.parametrize(
    ("max_radius_px", "nodes_px"),
    [(5.0, (5.0,)), (5.52, (5.52,)), (6.0, (5.5, 6.0)), (6.5, (5.5, 6.0, 6.5))],
)
def test_a_slab_that_is_cut_short_has_fewer_nodes(max_radius_px, nodes_px):
    assert plan_layers(max_radius_px).near[-1].nodes_px == pytest.approx(nodes_px)


@given(st.floats(0, 300), st.integers(0, 1000))
def test_polynomials_are_one_at_their_own_node_and_reproduce_squares(max_radius_px, seed):
    slab = plan_layers(max_radius_px).far[-1] if max_radius_px > 0 else Slab((0.0,), -1.0, 1.0)
    polynomials, count = slab.polynomials(NODES_A_SLAB), len(slab.nodes_px)
    assert not polynomials[count:].any()
    # Nodes run outwards from the focus, and the place from far to near.
    place = np.linspace(1, -1, count) if count > 1 else np.zeros(1)
    values = polynomials[:count] @ np.vander(place, NODES_A_SLAB, increasing=True).T
    np.testing.assert_allclose(values, np.eye(count), atol=1e-12)
    if count < 3:
        return
    # Three nodes: exact for polynomials of the second degree, in between too.
    within = np.random.default_rng(seed).uniform(-1, 1, 5)
    middle, half = (slab.nodes_px[0] + slab.nodes_px[-1]) / 2, np.ptp(slab.nodes_px) / 2
    shares = polynomials @ np.vander(within, NODES_A_SLAB, increasing=True).T
    squares = np.array(slab.nodes_px) ** 2 @ shares
    np.testing.assert_allclose(squares, (middle + half * within) ** 2, rtol=1e-9)


@pytest.mark.parametrize("max_radius_px", [-1.0, math.inf, math.nan])
def test_a_bad_radius_is_named(max_radius_px):
    with pytest.raises(ValueError, match="max_radius_px must be finite and >= 0, got"):
        plan_layers(max_radius_px)
