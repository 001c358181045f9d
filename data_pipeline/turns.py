"""Turns that are dealt out in proportion to weights, evenly spread and counted without replay.

Shares p_1 ... p_G become whole numbers q_1 ... q_G by largest remainders, each at least
1, in a cycle of T slots: T is the least that makes every p_g T whole, or 4096 where that is more.
Turn j of g stands at the time (j + 1/2) / q_g, and the slots are all turns in order of their times.
Before slot n, g has had c_g(n) turns:

    c_g(n) = q_g (n div T) + |{slots of g in the cycle before n mod T}|,
    |c_g(n) - n q_g / T| <= 1/2 + max(0, G - 2) / 2 · q_g / T,

the bound because up to a time t each item h has had q_h t turns, rounded by at most 1/2.
"""

import bisect
import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from bokeh_jax.errors import InvalidInput

MAX_CYCLE = 4096


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Evenly spread turns; see the module's header.

    Attributes:
        items: which item has each slot of the cycle.
        slots: every item's slots, ascending.
    """

    items: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]

    def item(self, turn: int) -> int:
        """The item that has this turn."""
        return self.items[turn % len(self.items)]

    def turns_before(self, turn: int, item: int) -> int:
        """How many turns `item` has had before this turn."""
        cycles, slot = divmod(turn, len(self.items))
        return cycles * len(self.slots[item]) + bisect.bisect_left(self.slots[item], slot)


def make_schedule(weights: Sequence[Fraction]) -> Schedule:
    """Deal turns out in proportion to weights above 0; see the module's header.

    Raises:
        InvalidInput: more items than a cycle has slots.
    """
    if len(weights) > MAX_CYCLE:
        raise InvalidInput(f"number of shapes is {len(weights)}; allowed: up to {MAX_CYCLE}")
    quotas = _quotas([weight / sum(weights) for weight in weights])
    turns = sorted(
        (Fraction(2 * turn + 1, 2 * quota), item)
        for item, quota in enumerate(quotas)
        for turn in range(quota)
    )
    items = tuple(item for _, item in turns)
    slots: list[list[int]] = [[] for _ in quotas]
    for slot, item in enumerate(items):
        slots[item].append(slot)
    return Schedule(items, tuple(map(tuple, slots)))


def _quotas(shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers of turns in proportion to `shares`, each at least 1."""
    cycle = min(MAX_CYCLE, math.lcm(*(share.denominator for share in shares)))
    quotas = [max(1, math.floor(share * cycle)) for share in shares]

    def excess(item: int) -> Fraction:
        return quotas[item] - shares[item] * cycle

    while sum(quotas) < cycle:
        quotas[min(range(len(quotas)), key=excess)] += 1
    while sum(quotas) > cycle:
        quotas[max((i for i, quota in enumerate(quotas) if quota > 1), key=excess)] -= 1
    return quotas
