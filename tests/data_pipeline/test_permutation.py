"""Permutations by index: bijections, independent, equally likely."""

from collections import Counter

import numpy as np
import pytest

from data_pipeline import permutation
from data_pipeline.permutation import MAX_TABLE, permuted


def _epoch(count: int, epoch: int, key: tuple[int, ...] = (0,)) -> tuple[int, ...]:
    return tuple(permuted(epoch * count + index, count, key) for index in range(count))


def test_every_small_permutation_is_as_likely():
    found = Counter(_epoch(3, epoch) for epoch in range(600))
    # Six permutations, 100 each on average; 9.1 is the standard deviation.
    assert len(found) == 6
    assert 60 < min(found.values()) <= max(found.values()) < 140


@pytest.mark.parametrize("count", [101, 31**2 - 1, 31**2, 31**2 + 1])
def test_permutations_by_index_hold_every_number_once(monkeypatch, count):
    monkeypatch.setattr(permutation, "MAX_TABLE", 100)
    keys = ((0, 0), (1, 0), (0, 1))
    drawn = [_epoch(count, epoch, key) for key in keys for epoch in (0, 1, 10**12)]
    assert all(sorted(numbers) == list(range(count)) for numbers in drawn)
    assert len(set(drawn)) == len(drawn)
    for numbers in drawn:
        # Neither the place nor the number before tells anything; four standard deviations.
        bound = 4 / count**0.5
        assert abs(np.corrcoef(numbers, np.arange(count))[0, 1]) < bound
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < bound


def test_places_of_a_permutation_by_index_are_equally_likely(monkeypatch):
    monkeypatch.setattr(permutation, "MAX_TABLE", 4)
    count, epochs = 10, 500
    places = np.zeros((count, count))
    for epoch in range(epochs):
        places[np.arange(count), _epoch(count, epoch)] += 1
    chi_squared = ((places - epochs / count) ** 2).sum() / (epochs / count)
    # 81 degrees of freedom; their standard deviation is 12.7.
    assert chi_squared < 81 + 5 * 12.7


@pytest.mark.parametrize("count", [MAX_TABLE, MAX_TABLE + 1, 10**9])
def test_large_permutations(count):
    found = [permuted(7 * count + index, count, (5, 0)) for index in range(2000)]
    assert len(set(found)) == 2000
    assert 0 <= min(found) < 0.01 * count < 0.99 * count < max(found) < count
