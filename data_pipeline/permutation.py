"""Permutations by index: a new one for every epoch, of any size.

A small permutation is a table, drawn once an epoch. A large one is computed by index, in constant
memory: with a = ceil(sqrt N) and x = a l + r, a round

    (l, r) -> (r, l + F(r) mod a),   F drawn from the key, the epoch and the round,

is a bijection of 0 ... a² − 1, whatever F is (a Feistel network; Luby and Rackoff 1988), and so are
several. Applied again as long as the result is not below N, they are one of 0 ... N − 1; as
a² < N + 2 sqrt(N) + 1, hardly ever a second time.
"""

import functools
import math

import numpy as np
from jaxtyping import UInt16

# Up to this size a permutation is a table.
MAX_TABLE = 2**16
NUM_ROUNDS = 6


def permuted(row: int, count: int, key: tuple[int, ...]) -> int:
    """Return π_e(row mod count), e = row div count.

    Args:
        row: from 0 on.
        count: how many numbers are permuted.
        key: with the epoch e, decides the permutation; keys of one length differ in what they draw.
    """
    epoch, within = divmod(row, count)
    if count <= MAX_TABLE:
        return int(_table(count, (*key, epoch))[within])
    side = math.isqrt(count - 1) + 1
    round_keys, number = _round_keys((*key, epoch)), within
    while True:
        left, right = divmod(number, side)
        for round_key in round_keys:
            left, right = right, (left + _scramble(right ^ round_key)) % side
        number = left * side + right
        if number < count:
            return number


@functools.lru_cache(maxsize=64)
def _table(count: int, key: tuple[int, ...]) -> UInt16[np.ndarray, " count"]:
    return np.random.default_rng(key).permutation(count).astype(np.uint16)


@functools.lru_cache(maxsize=1024)
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    drawn = np.random.SeedSequence(key).generate_state(NUM_ROUNDS, np.uint64)
    return tuple(drawn.tolist())


def _scramble(value: int) -> int:
    """Spread 64 bits: twice an odd multiplier and the upper half onto the lower one."""
    for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
        value = value * factor % 2**64
        value ^= value >> 32
    return value
