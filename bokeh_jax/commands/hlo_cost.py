"""Operations and bytes of a compiled program, with every loop counted as often as it runs.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, however often it runs,
and of a condition the dearer branch. Here the body of each loop is counted apart, as the entry of a
program of its own, and multiplied. With `once` XLA's count of a computation, and the loops w that
it holds outside of other loops::

    own(c) = once(c) - sum over w of once(body_w),      full = sum over c of times_c own(c)
"""

import dataclasses
import functools
import re

# Private, and without stubs: nothing public counts a program that is given as text.
from jaxlib import _hlo, _jax  # pyright: ignore[reportAttributeAccessIssue]

from bokeh_jax.commands.hlo_text import computations, first_computation, loops


@dataclasses.dataclass(frozen=True)
class Count:
    """What one run of a program does.

    Attributes:
        flops: floating-point operations.
        bytes_accessed: read and written by its kernels, at every level of memory.
    """

    flops: float
    bytes_accessed: float

    def plus(self, other: "Count", times: int = 1) -> "Count":
        """This and `times` the other."""
        return Count(
            self.flops + times * other.flops,
            self.bytes_accessed + times * other.bytes_accessed,
        )


def count_program(text: str, client: object) -> Count:
    """Counts an optimised program; arguments and errors as `count_parts`."""
    total = Count(0.0, 0.0)
    for times, count in count_parts(text, client):
        total = total.plus(count, times)
    return total


def count_parts(text: str, client: object) -> list[tuple[int, Count]]:
    """What the entry and the body of every loop do by themselves, each with how often it runs.

    Args:
        text: of the compiled program (`compiled.as_text()`).
        client: of any backend; it only counts (`jax.devices()[0].client`).

    Raises:
        ValueError: a loop whose number of turns the text does not tell.
    """
    bodies, entry = computations(text)

    # The header tells the shapes of the entry, which changes here, and a table of sources.
    program = re.sub(r" ?stack_frame_id=\d+", "", text[first_computation(text) :])
    program = program.replace("ENTRY %", "%", 1)

    @functools.cache
    def once(name: str) -> Count:
        entered = f"\n{program}".replace(f"\n%{name} (", f"\nENTRY %{name} (", 1)
        module = _hlo.hlo_module_from_text(f"HloModule counted\n{entered}")
        found = _jax.hlo_module_cost_analysis(client, module)
        return Count(found.get("flops", 0.0), found.get("bytes accessed", 0.0))

    parts = []

    def visit(name: str, times: int) -> None:
        own = once(name)
        inside = loops(bodies, name)
        for body, _ in inside:
            own = own.plus(once(body), -1)
        parts.append((times, own))
        for body, turns in inside:
            visit(body, times * turns)

    visit(entry, 1)
    return parts
