import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics.layer_plan import level_of_stage, plan_layers


def test_slabs_move_apart_as_kernels_grow():
    plan = plan_layers(70.0)
    ends = [(slab.first_px, slab.last_px) for slab in plan.near]
    expected = [(0.5, 2), (2.5, 4.5), (5.5, 8.5), (9.5, 14), (16, 24), (28, 42), (49, 70)]
    np.testing.assert_allclose(ends, expected)
    assert plan.stages == (0, 1, 2, 3, 3, 4, 4)
    assert [level_of_stage(stage) for stage in range(7)] == [0, 0, 1, 1, 2, 3, 4]
    assert plan_layers(300.0).stages[7:] == (5, 5, 6)
    assert [len(slab.nodes_px) for slab in plan.near] == [4, 4, 4, 3, 3, 3, 3]
    assert plan.near[2].nodes_px == pytest.approx((5.5, 6.5, 7.5, 8.5))
    assert plan.near[2].step_px == pytest.approx(1)
    assert plan.near[2].mirrored().step_px == pytest.approx(-1)


@given(st.floats(0, 300))
def test_slabs_reach_the_greatest_radius_and_end_there(max_radius_px):
    plan = plan_layers(max_radius_px)
    assert plan.widest_px == max_radius_px
    for slab in plan.near:
        assert list(slab.nodes_px) == sorted(set(slab.nodes_px))
        assert 1 <= len(slab.nodes_px) <= 4


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
    [(5.0, (5.0,)), (5.52, (5.52,)), (6.0, (5.5, 6.0)), (6.5, (5.5, 6.5)), (7.0, (5.5, 6.25, 7.0))],
)
def test_a_slab_that_is_cut_short_has_fewer_nodes(max_radius_px, nodes_px):
    assert plan_layers(max_radius_px).near[-1].nodes_px == pytest.approx(nodes_px)


@pytest.mark.parametrize("max_radius_px", [-1.0, math.inf, math.nan])
def test_a_bad_radius_is_named(max_radius_px):
    with pytest.raises(ValueError, match="max_radius_px must be finite and >= 0, got"):
        plan_layers(max_radius_px)
