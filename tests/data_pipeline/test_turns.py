"""Turns: shares, spread, counts."""

from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.turns import MAX_CYCLE, make_schedule

SMALL_WEIGHTS = st.lists(st.integers(1, 30), min_size=1, max_size=7)
ANY_WEIGHTS = st.lists(st.floats(1e-7, 1e7).map(Fraction), min_size=1, max_size=5)


@given(SMALL_WEIGHTS)
def test_small_weights_are_kept_exactly(weights):
    schedule = make_schedule([Fraction(weight) for weight in weights])
    cycle = sum(weights) // np.gcd.reduce(weights)
    assert len(schedule.items) == cycle
    taken = Counter(schedule.item(turn) for turn in range(cycle))
    assert [taken[item] * sum(weights) for item in range(len(weights))] == [
        weight * cycle for weight in weights
    ]


@given(ANY_WEIGHTS)
@settings(max_examples=15)
def test_any_weights_are_kept_to_one_slot(weights):
    """Largest remainders: nobody is a whole slot off, but for those who get their least slot."""
    schedule = make_schedule(weights)
    cycle = len(schedule.items)
    assert cycle <= MAX_CYCLE
    for item, weight in enumerate(weights):
        exact = float(weight / sum(weights)) * cycle
        quota = len(schedule.slots[item])
        assert quota >= 1
        assert quota == 1 or exact - len(weights) < quota < exact + 1


@given(SMALL_WEIGHTS, st.integers(0, 10**12))
@settings(max_examples=40)
def test_turns_are_spread_evenly_and_counted_at_once(weights, start):
    schedule = make_schedule([Fraction(weight) for weight in weights])
    count, total = len(weights), sum(weights)
    before = [schedule.turns_before(start, item) for item in range(count)]
    for turn in range(start, start + 60):
        for item, weight in enumerate(weights):
            assert schedule.turns_before(turn, item) == before[item]
            share = Fraction(weight, total)
            bound = Fraction(1, 2) + max(0, count - 2) * share / 2
            assert abs(before[item] - turn * share) <= bound
        before[schedule.item(turn)] += 1


def test_a_rare_shape_has_its_turn():
    schedule = make_schedule([Fraction(10**9), Fraction(1), Fraction(1)])
    assert [len(slots) for slots in schedule.slots] == [MAX_CYCLE - 2, 1, 1]
