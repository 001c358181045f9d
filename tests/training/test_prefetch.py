"""Batches are on the device before they are asked for; ends, errors and closing."""

import gc
import itertools
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from bokeh_jax.config import MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.prefetch import DevicePrefetch
from bokeh_jax.training.sharding import batch_sharding, make_mesh


@pytest.fixture(scope="module")
def sharding() -> NamedSharding:
    return batch_sharding(make_mesh(MeshConfig()))


class _Counting:
    """Batches 0, 1, 2, ... up to `end`, then an error; says how many were drawn."""

    def __init__(self, end: int | None = None, error: BaseException | None = None):
        self.drawn, self.end, self.error = 0, end, error

    def __iter__(self):
        return self

    def __next__(self):
        if self.drawn == self.end:
            raise self.error or StopIteration
        self.drawn += 1
        shape = (4, 2) if self.drawn % 2 else (4, 3)
        return {"a": np.full(shape, self.drawn - 1, np.int32), "b": np.arange(4, dtype=np.uint8)}


def _wait_until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batches_come_in_order_with_their_values_and_sharding(sharding):
    with DevicePrefetch(_Counting(end=7), sharding) as batches:
        found = list(batches)
    assert len(found) == 7
    for index, batch in enumerate(found):
        assert batch["a"].sharding == batch["b"].sharding == sharding
        np.testing.assert_array_equal(batch["a"], np.full((4, 3 if index % 2 else 2), index))
        np.testing.assert_array_equal(batch["b"], np.arange(4))


@pytest.mark.parametrize("depth", [1, 3])
def test_it_works_ahead_but_not_farther_than_its_depth(sharding, depth):
    source = _Counting()
    with DevicePrefetch(source, sharding, depth) as batches:
        for taken in range(4):
            _wait_until(lambda taken=taken: source.drawn == taken + depth + 1)
            # Long enough for a thread without a bound to draw one more.
            time.sleep(0.1)
            assert source.drawn == taken + depth + 1
            next(batches)


def test_an_error_comes_after_the_batches_before_it_and_stays(sharding):
    source = _Counting(end=3, error=InvalidInput("record 3 of shard s cannot be read"))
    with DevicePrefetch(source, sharding) as batches:
        assert len(list(itertools.islice(batches, 3))) == 3
        for _ in range(2):
            with pytest.raises(InvalidInput, match="record 3 of shard s"):
                next(batches)


def test_a_batch_that_does_not_fit_the_devices_is_an_error(sharding):
    ragged = iter([{"a": np.zeros((), np.float32)}])
    with (
        DevicePrefetch(ragged, sharding) as batches,
        pytest.raises(ValueError, match="a of a batch has shape"),
    ):
        next(batches)


def _threads() -> set[threading.Thread]:
    """Those that prefetch; the process has others that come and go."""
    return {thread for thread in threading.enumerate() if thread.name == "prefetch to device"}


def test_closing_ends_the_thread_and_the_iteration(sharding):
    before = _threads()
    source = _Counting()
    batches = DevicePrefetch(source, sharding)
    next(batches)
    (started,) = _threads() - before
    batches.close()
    assert not started.is_alive()
    drawn = source.drawn
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()
    time.sleep(0.1)
    assert source.drawn == drawn


def test_dropping_it_ends_the_thread(sharding):
    before = _threads()
    batches = DevicePrefetch(_Counting(), sharding)
    next(batches)
    (started,) = _threads() - before
    del batches
    gc.collect()
    _wait_until(lambda: not started.is_alive())


def test_implicit_transfers_may_be_forbidden_where_it_is_used(sharding):
    with DevicePrefetch(_Counting(), sharding) as batches, jax.transfer_guard("disallow"):
        assert next(batches)["a"].shape == (4, 2)


def test_a_depth_of_none_is_refused(sharding):
    with pytest.raises(InvalidInput, match="depth of prefetching is 0; allowed: at least 1"):
        DevicePrefetch(_Counting(), sharding, 0)
