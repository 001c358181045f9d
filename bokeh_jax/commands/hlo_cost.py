"""Operations and bytes of a compiled program, with every loop counted as often as it runs.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, however often it runs,
and of a condition the dearer branch. Here the body of each loop is counted apart, as the entry of a
program of its own, and multiplied. With `once` XLA's count of a computation, and the loops w that
it holds outside of other loops::

    full(c) = once(c) + sum over w of (trips_w full(body_w) - once(body_w))

Loops are those of `jax.lax.scan`: they count from 0 in steps of 1 up to a constant.
"""

import dataclasses
import functools
import re

# Private, and without stubs: nothing public counts a program that is given as text.
from jaxlib import _hlo, _jax  # pyright: ignore[reportAttributeAccessIssue]

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$", re.MULTILINE)
_LOOP = re.compile(r" while\(.*?condition=%([\w.\-]+), body=%([\w.\-]+)(.*)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r"ROOT .* compare\([^)]*%([\w.\-]+)\), direction=LT")


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
    """Counts an optimised program.

    Args:
        text: of the compiled program (`compiled.as_text()`).
        client: of any backend; it only counts (`jax.devices()[0].client`).

    Raises:
        ValueError: a loop whose number of turns the text does not tell.
    """
    bodies, entry = _computations(text)

    # The header tells the shapes of the entry, which changes here, and a table of sources.
    program = re.sub(r" ?stack_frame_id=\d+", "", text[_first_computation(text) :])
    program = program.replace("ENTRY %", "%", 1)

    @functools.cache
    def once(name: str) -> Count:
        entered = f"\n{program}".replace(f"\n%{name} (", f"\nENTRY %{name} (", 1)
        module = _hlo.hlo_module_from_text(f"HloModule counted\n{entered}")
        found = _jax.hlo_module_cost_analysis(client, module)
        return Count(found.get("flops", 0.0), found.get("bytes accessed", 0.0))

    @functools.cache
    def full(name: str) -> Count:
        total = once(name)
        for body, trips in _loops(bodies, name):
            total = total.plus(full(body), trips).plus(once(body), -1)
        return total

    return full(entry)


def _computations(text: str) -> tuple[dict[str, str], str]:
    """Text of every computation by name, and the entry's name."""
    bodies, entry = {}, None
    for found in _COMPUTATION.finditer(text):
        is_entry, name = found.groups()
        bodies[name] = text[found.end() : text.index("\n}", found.end())]
        entry = name if is_entry else entry
    if entry is None:
        raise ValueError("the program's text has no entry")
    return bodies, entry


def _first_computation(text: str) -> int:
    found = _COMPUTATION.search(text)
    assert found is not None
    return found.start()


def _loops(bodies: dict[str, str], name: str) -> list[tuple[str, int]]:
    """(body, turns) of every loop of a computation and of what it calls, outside other loops."""
    found = []
    for line in bodies[name].splitlines():
        loop = _LOOP.search(line)
        if loop is not None:
            condition, body, rest = loop.groups()
            found.append((body, _trips(bodies[condition], rest)))
            continue
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += re.findall(r"%([\w.\-]+)", branches)
        for other in called:
            found += _loops(bodies, other)
    return found


def _trips(condition: str, attributes: str) -> int:
    """How often a loop turns: told with it, or the constant that its counter is compared with."""
    known = _KNOWN_TRIPS.search(attributes)
    if known is not None:
        return int(known[1])
    limit = _LIMIT.search(condition)
    if limit is not None:
        constant = re.search(rf"%{re.escape(limit[1])} = s32\[\]\S* constant\((\d+)\)", condition)
        if constant is not None:
            return int(constant[1])
    raise ValueError(f"a loop's number of turns is not in its condition: {condition.strip()}")
