"""How long a compiled step takes on chips that are not there: the compiler's estimate, completed.

XLA's estimate, `cost_analysis()["optimal_seconds"]`, is a roofline of every kernel; it takes the
body of each loop once, does not see into Pallas kernels and gives collectives no time. The TPU's
compiler also writes its own estimate, in cycles, beside every kernel that it makes. Over the
kernels i, with m_i the times that one runs in a step and f the clock,

    (1) cycles      Σ m_i cycles_i / f
    (2) roofline    optimal_seconds · (Σ m_i cycles_i) / (Σ cycles_i)
                                                      cycles say what share of it the loops have
    (3) unpriced    Σ m_i bytes_i / HBM bandwidth     what moves data and carries no estimate
    (4) attention   Σ m_i max(flops_i / (E · peak), bytes_i / HBM bandwidth)     Pallas kernels;
                                                      E = 0.5
    (5) links       Σ m_i seconds_i                   `plan_collectives`

With (2) or, for the worse, (1) in place of `estimate`, the step is predicted between

    exposed   estimate + (3) + (4) + (5)            no collective runs beside the work
    hidden    max(estimate + (3) + (4), (5))        all do

Some programs have no `optimal_seconds` (a negative number: two slices, a v5e): then (2) is (1).
The roofline holds vector units for infinitely fast; cycles count them, and take every kernel for
alone. What both leave out: copies that the compiler starts ahead (they run beside kernels), delays
to start kernels and collectives, links that several collectives share, and the input.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from bokeh_jax.chips import Chip
from bokeh_jax.commands.hlo_text import Executed, array_bytes, arrays
from bokeh_jax.commands.plan_collectives import KINDS, Collective

# Share of the peak that a fused attention kernel is taken to reach.
ATTENTION_EFFICIENCY = 0.5

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL_TARGET = 'custom_call_target="tpu_custom_call"'
_NOT_WORK = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "fusion",
    "after-all",
    "partition-id",
    "replica-id",
    "custom-call",
    "iota",
    "opt-barrier",
    "send",
    "recv",
)
_AHEAD = ("-start", "-done", "-update")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A Pallas kernel of the step.

    Attributes:
        name: as the compiler writes it.
        times: how often a step runs it.
        flops: of its products, each time.
        bytes_accessed: operands and results, each time.
    """

    name: str
    times: int
    flops: float
    bytes_accessed: float


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of one step on one chip, numbered as in the module's header.

    Attributes:
        cycles_seconds: (1).
        roofline_seconds: (2).
        optimal_seconds: of (2), as XLA gives it.
        unpriced_seconds: (3).
        attention_seconds: (4).
        links_seconds: (5).
        asynchronous_links_seconds: of those, what the compiler has started ahead.
    """

    cycles_seconds: float
    roofline_seconds: float
    optimal_seconds: float
    unpriced_seconds: float
    attention_seconds: float
    links_seconds: float
    asynchronous_links_seconds: float

    def predicted(self, estimate: str, *, hidden: bool) -> float:
        """A step by `roofline` or `cycles`, with all collectives hidden or none."""
        work = {"roofline": self.roofline_seconds, "cycles": self.cycles_seconds}[estimate]
        work += self.unpriced_seconds + self.attention_seconds
        return max(work, self.links_seconds) if hidden else work + self.links_seconds


def step_time(
    found: Sequence[Executed],
    collectives: Sequence[Collective],
    kernels: Sequence[Kernel],
    optimal_seconds: float,
    chip: Chip,
) -> StepTime:
    """Equations (1) to (5).

    Args:
        found: every instruction that a step executes.
        collectives: of them.
        kernels: Pallas kernels of them.
        optimal_seconds: XLA's summary, which takes loops once.
        chip: whose peaks and clock.
    """
    cycles = once = unpriced_bytes = 0.0
    for one in found:
        if one.fused:
            continue
        estimate = _CYCLES.search(one.instruction.rest)
        if estimate is not None:
            cycles += one.times * int(estimate[1])
            once += int(estimate[1])
        elif _moves_data(one):
            unpriced_bytes += one.times * _bytes(one)
    attention = math.fsum(
        kernel.times
        * max(
            kernel.flops / (ATTENTION_EFFICIENCY * chip.flops_per_s),
            kernel.bytes_accessed / chip.bytes_per_s,
        )
        for kernel in kernels
    )
    return StepTime(
        cycles_seconds=cycles / chip.clock_hz,
        roofline_seconds=_roofline(optimal_seconds, cycles, once, chip),
        optimal_seconds=optimal_seconds,
        unpriced_seconds=unpriced_bytes / chip.bytes_per_s,
        attention_seconds=attention,
        links_seconds=math.fsum(one.times * one.seconds for one in collectives),
        asynchronous_links_seconds=math.fsum(
            one.times * one.seconds for one in collectives if one.asynchronous
        ),
    )


def _roofline(optimal_seconds: float, cycles: float, once: float, chip: Chip) -> float:
    """Equation (2); (1) where XLA has no summary, and the summary where nothing has cycles."""
    if optimal_seconds < 0:
        return cycles / chip.clock_hz
    return optimal_seconds * cycles / once if once else optimal_seconds


def _moves_data(one: Executed) -> bool:
    opcode = one.instruction.opcode
    return not (
        opcode in _NOT_WORK
        or opcode.endswith(_AHEAD)
        or opcode.removesuffix("-start").removesuffix("-done") in KINDS
    )


def _bytes(one: Executed) -> int:
    """Written, and as much read."""
    return 2 * sum(array_bytes(*array) for array in one.instruction.arrays())


def pallas_kernels(found: Sequence[Executed]) -> list[Kernel]:
    """The splash attention kernels, their products counted from the shapes of their operands.

    With h heads (times examples), n queries, s keys and d channels, forward is two products of
    2 h n s d operations, and the fused backward pass is five.
    """
    shapes = {one.instruction.name: one.instruction.arrays() for one in found}
    kernels = []
    for one in found:
        instruction = one.instruction
        if instruction.opcode != "custom-call" or _KERNEL_TARGET not in instruction.rest:
            continue
        operands = [array for name in instruction.operands() for array in shapes.get(name, [])]
        name = re.sub(r"\.\d+$", "", instruction.name)
        kernels.append(
            Kernel(
                name=name,
                times=one.times,
                flops=_attention_flops(name, operands),
                bytes_accessed=float(
                    sum(array_bytes(*array) for array in operands + arrays(instruction.result))
                ),
            )
        )
    return kernels


def _attention_flops(name: str, operands: list[tuple[str, tuple[int, ...]]]) -> float:
    """0 for a kernel that is not the attention."""
    floats = [lengths for kind, lengths in operands if kind in ("bf16", "f32") and len(lengths) > 2]
    if "splash" not in name or len(floats) < 3:
        return 0.0
    query, key = floats[0], floats[1]
    products = 5 if "dkv" in name or "bwd" in name else 2
    batch = 1
    for length in query[:-2]:
        batch *= length
    return float(products * 2 * batch * query[-2] * key[-2] * query[-1])
