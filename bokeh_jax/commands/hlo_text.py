"""The text of an optimised XLA program: computations, instructions, and how often each runs.

The text is the only public form in which a compiled program shows its collectives and, for TPUs,
the compiler's own estimate of every kernel. Loops are those of `jax.lax.scan`: they count from 0 in
steps of 1 up to a constant.
"""

import dataclasses
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_LOOP = re.compile(r" while\(.*?condition=%([\w.\-]+), body=%([\w.\-]+)(.*)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r"ROOT .* compare\([^)]*%([\w.\-]+)\), direction=LT")
# What kernels carry along is written over several lines, and ends as a computation does.
_WRAPPED = re.compile(r"\{\n([^\n]*)\n\}(?=\})")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_BITS = {
    "pred": 8,
    "bf16": 16,
    "c64": 64,
    "c128": 128,
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: without the per cent sign.
        opcode: such as `fusion` or `all-gather-start`.
        result: its shape, as written.
        rest: operands and attributes, as written.
    """

    name: str
    opcode: str
    result: str
    rest: str

    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """(type, lengths) of the arrays of its result, a tuple's in their order."""
        return arrays(self.result)

    def called(self) -> list[str]:
        """Computations that it names: of a fusion, call, reduction, condition; not of a loop."""
        found = _CALLED.findall(self.rest)
        for branches in _BRANCHES.findall(self.rest):
            found += re.findall(r"%([\w.\-]+)", branches)
        return found

    def operands(self) -> list[str]:
        """Names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest)])


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, lengths) of every array in a shape as the text writes it."""
    without_layout = re.sub(r"\{[^}]*\}", "", shape)
    return [
        (kind, tuple(int(length) for length in lengths.split(",") if length))
        for kind, lengths in _ARRAY.findall(without_layout)
    ]


def array_bytes(kind: str, lengths: tuple[int, ...]) -> int:
    """Bytes of an array, without what the device's tiles fill up."""
    bits = _BITS.get(kind)
    if bits is None:
        digits = re.search(r"\d+", kind)
        bits = int(digits[0]) if digits else 0
    count = 1
    for length in lengths:
        count *= length
    return count * bits // 8


def computations(text: str) -> tuple[dict[str, str], str]:
    """Text of every computation by name, and the entry's name.

    Raises:
        ValueError: it has no entry.
    """
    text = _WRAPPED.sub(r"{\1}", text)
    bodies, entry = {}, None
    for found in _COMPUTATION.finditer(text):
        is_entry, name = found.groups()
        bodies[name] = text[found.end() : text.index("\n}", found.end())]
        entry = name if is_entry else entry
    if entry is None:
        raise ValueError("the program's text has no entry")
    return bodies, entry


def first_computation(text: str) -> int:
    """Where the computations begin, after the header and its tables."""
    found = _COMPUTATION.search(text)
    assert found is not None
    return found.start()


def instructions(body: str) -> list[Instruction]:
    """The instructions of a computation's text."""
    found = []
    for line in body.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, right = match.groups()
        opcode = _OPCODE.search(_masked(right))
        if opcode is not None:
            found.append(
                Instruction(
                    name, opcode[1], right[: opcode.start(1)].strip(), right[opcode.end() :]
                )
            )
    return found


def _masked(right: str) -> str:
    """The same with the result's layouts blanked out: `T(8,128)` looks like an operation."""
    return re.sub(r"\{[^{}]*\}", lambda found: " " * len(found[0]), right, count=0)


def _closing(rest: str) -> int:
    depth = 1
    for place, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    return len(rest)


def loops(bodies: dict[str, str], name: str) -> list[tuple[str, int]]:
    """(body, turns) of every loop of a computation and of what it calls, outside other loops.

    Raises:
        ValueError: a loop whose number of turns the text does not tell.
    """
    found = []
    for line in bodies[name].splitlines():
        loop = _LOOP.search(line)
        if loop is not None:
            condition, body, rest = loop.groups()
            found.append((body, trips(bodies[condition], rest)))
            continue
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += re.findall(r"%([\w.\-]+)", branches)
        for other in called:
            found += loops(bodies, other)
    return found


def trips(condition: str, attributes: str) -> int:
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


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction, how often one run of the program executes it, and whether in a fusion."""

    instruction: Instruction
    times: int
    fused: bool


def executed(text: str) -> list[Executed]:
    """Every instruction that a run executes; of a condition all branches.

    What reductions and sorts apply to every element is not listed.

    Raises:
        ValueError: a loop whose number of turns the text does not tell.
    """
    bodies, entry = computations(text)
    parsed = {name: instructions(body) for name, body in bodies.items()}
    found: list[Executed] = []

    def visit(name: str, times: int, fused: bool) -> None:
        for one in parsed[name]:
            found.append(Executed(one, times, fused))
            if one.opcode == "while":
                loop = _LOOP.search(f" while({one.rest}")
                assert loop is not None
                condition, body, rest = loop.groups()
                visit(body, times * trips(bodies[condition], rest), fused)
            elif one.opcode in ("fusion", "call", "conditional") or one.opcode.startswith("async-"):
                inside = fused or one.opcode == "fusion"
                # The three parts of an asynchronous operation name the same computation.
                called = [] if one.opcode in ("async-update", "async-done") else one.called()
                for other in called:
                    visit(other, times, inside)

    visit(entry, 1, False)
    return found
