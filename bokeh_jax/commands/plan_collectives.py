"""Collectives of a compiled program: kind, bytes, mesh axes, and how long links need for them.

With B the bytes of the result on one chip and n the chips of a group, a chip sends at least

    all-gather           B (n − 1) / n          all-reduce    2 B (n − 1) / n
    reduce-scatter       B (n − 1)              all-to-all      B (n − 1) / n
    collective-permute   B

(rings and tori reach this; Thakur et al. 2005, Chan et al. 2007). A group that reaches over slices
does it in two stages: k chips of one slice over the links, then a k-th of the bytes among slices
over the hosts' network; the compiler writes the second stage as a `send` to the runtime that joins
slices. The links that serve a group are those along the dimensions of the torus
in which its chips differ; where a dimension is a line and not a ring, half of them.

XLA writes the groups in three ways, all read here: `{{0,1},{2,3}}`, `[2,2]<=[4]` with an optional
transposition `T(1,0)`, and `mesh['a'=2,'b'=2], device_ids=([4]) {'b'}`. Numbers are places in the
mesh's order of devices.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bokeh_jax.chips import Chip
from bokeh_jax.commands.hlo_text import Executed, Instruction, array_bytes

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_EXPLICIT = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=(?:@\w+|mesh)\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}"
)
_MESH_DEVICES = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="([A-Z_]+)"')
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """What a program was compiled for.

    Attributes:
        axes: sizes of the mesh's axes by name, in their order.
        coordinates: of every chip in its slice's torus, in the mesh's order of devices.
        slices: of which slice each is.
    """

    axes: dict[str, int]
    coordinates: tuple[tuple[int, ...], ...]
    slices: tuple[int, ...]

    @classmethod
    def of(cls, mesh: Any) -> "Mesh":
        """From a `jax.sharding.Mesh`; devices that know no place stand in a row."""
        devices = list(mesh.devices.flat)
        return cls(
            dict(mesh.shape),
            tuple(tuple(getattr(d, "coords", (i,))) for i, d in enumerate(devices)),
            tuple(getattr(d, "slice_index", 0) for d in devices),
        )

    @property
    def num_devices(self) -> int:
        """Chips of the mesh."""
        return math.prod(self.axes.values())


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, group and size.

    Attributes:
        kind: one of `KINDS`.
        axes: the mesh axes that the group runs along, such as `fsdp` or `data+fsdp`.
        group_size: chips that take part with each other.
        result_bytes: of one result on one chip.
        times: how often a step does it.
        asynchronous: whether the compiler lets other work run meanwhile.
        sent_bytes: by a chip, each time.
        seconds: that the links need, each time.
        where: the operation of the program that asked for it.
    """

    kind: str
    axes: str
    group_size: int
    result_bytes: int
    times: int
    asynchronous: bool
    sent_bytes: float
    seconds: float
    where: str


def collectives(found: Sequence[Executed], mesh: Mesh, chip: Chip) -> list[Collective]:
    """Every collective among the executed instructions."""
    result = []
    for one in found:
        opcode = one.instruction.opcode
        between = _BETWEEN_SLICES.search(one.instruction.rest) if opcode == "send" else None
        kind = between[1].lower().replace("_", "-") if between else opcode.removesuffix("-start")
        if kind not in KINDS or one.times == 0:
            continue
        group = _counterparts(mesh) if between else group_of(one.instruction, mesh)
        if len(group) < 2:
            continue
        asynchronous = opcode.endswith("-start") or one.fused or between is not None
        size = result_bytes(one.instruction)
        sent, seconds = _cost(kind, float(size), group, mesh, chip)
        where = re.search(r'op_name="([^"]*)"', one.instruction.rest)
        result.append(
            Collective(
                kind=kind,
                axes=axes_of(group, mesh),
                group_size=len(group),
                result_bytes=size,
                times=one.times,
                asynchronous=asynchronous,
                sent_bytes=sent,
                seconds=seconds,
                where=where[1] if where else one.instruction.name,
            )
        )
    return result


def _counterparts(mesh: Mesh) -> list[int]:
    """One chip of every slice."""
    return [mesh.slices.index(number) for number in sorted(set(mesh.slices))]


def result_bytes(instruction: Instruction) -> int:
    """Bytes of a collective's result on one chip.

    What starts an asynchronous one returns a pair of operands and results, and counters.
    """
    found = instruction.arrays()
    if instruction.opcode == "send":
        return array_bytes(*found[0])
    if instruction.opcode.endswith("-start") and not instruction.opcode.startswith("all-reduce"):
        found = [one for one in found if one[1] or one[0] not in ("u32", "s32")]
        found = found[len(found) // 2 :]
    return sum(array_bytes(*one) for one in found)


def group_of(instruction: Instruction, mesh: Mesh) -> list[int]:
    """The first group of chips that take part with each other, by place in the mesh.

    Raises:
        ValueError: groups written in a way that is not known here.
    """
    rest = instruction.rest
    if instruction.opcode.startswith("collective-permute"):
        pair = _PAIRS.search(rest)
        return [] if pair is None else [int(pair[1]), int(pair[2])]
    if (found := _EXPLICIT.search(rest)) is not None:
        first = found[1][1 : found[1].index("}")]
        return [int(number) for number in first.split(",")]
    if (found := _IOTA.search(rest)) is not None:
        shape, sizes, order = (_numbers(text) for text in found.groups())
        return _iota(sizes, order).reshape(shape)[0].tolist()
    if (found := _MESH.search(rest)) is not None:
        return _mesh_group(*found.groups())
    if "replica_groups={}" in rest or "replica_groups" not in rest:
        return list(range(mesh.num_devices))
    raise ValueError(f"groups of {instruction.name} are written in an unknown way: {rest[:200]}")


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


def _iota(sizes: list[int], order: list[int]) -> np.ndarray:
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose(order) if order else numbers


def _mesh_group(axes_text: str, devices_text: str | None, along_text: str) -> list[int]:
    """The first group along the named axes (or parts `:(before)size` of them) of XLA's own mesh."""
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes_text)}
    devices = np.arange(math.prod(axes.values()))
    if devices_text and (found := _MESH_DEVICES.search(devices_text)) is not None:
        devices = _iota(_numbers(found[1]), _numbers(found[2])).reshape(-1)
    grid = devices.reshape(list(axes.values()))
    index: list[Any] = [0] * grid.ndim
    for name, before, size in _MESH_AXIS.findall(along_text):
        place = list(axes).index(name)
        if not size:
            index[place] = slice(None)
            continue
        after = axes[name] // (int(before) * int(size))
        index[place] = slice(0, int(size) * after, after)
    return grid[tuple(index)].reshape(-1).tolist()


def axes_of(group: Sequence[int], mesh: Mesh) -> str:
    """Names of the mesh axes along which the chips of a group differ, joined by `+`."""
    places = np.stack(np.unravel_index(list(group), list(mesh.axes.values())), axis=-1)
    varies = np.any(places != places[:1], axis=0)
    return "+".join(name for name, one in zip(mesh.axes, varies, strict=True) if one)


def _sent(kind: str, size: float, count: int) -> float:
    """Bytes that one of `count` chips sends."""
    if count < 2:
        return 0.0
    share = (count - 1) / count
    return {
        "all-gather": share * size,
        "reduce-scatter": (count - 1) * size,
        "all-reduce": 2 * share * size,
        "all-to-all": share * size,
        "collective-permute": size,
    }[kind]


def _cost(
    kind: str, size: float, group: Sequence[int], mesh: Mesh, chip: Chip
) -> tuple[float, float]:
    """Bytes that a chip sends, and the seconds that the links need."""
    num_slices = len({mesh.slices[place] for place in group})
    in_slice = [place for place in group if mesh.slices[place] == mesh.slices[group[0]]]
    if kind == "collective-permute":
        rate = chip.slice_bytes_per_s if num_slices > 1 else link_rate(group, mesh, chip)
        return size, size / rate
    # The whole of what the group holds in the end is the same for all stages.
    inside = _sent(kind, size, len(in_slice))
    seconds = inside / link_rate(in_slice, mesh, chip) if len(in_slice) > 1 else 0.0
    if num_slices == 1:
        return inside, seconds
    if kind == "reduce-scatter":
        inside *= num_slices
        seconds *= num_slices
        across = _sent(kind, size, num_slices)
    else:
        across = _sent(kind, size / len(in_slice), num_slices)
    return inside + across, seconds + across / chip.slice_bytes_per_s


def link_rate(group: Sequence[int], mesh: Mesh, chip: Chip) -> float:
    """Bytes a second that a chip of the group can send to the others over its links."""
    places = np.array([mesh.coordinates[place] for place in group])
    sides = np.array(mesh.coordinates).max(axis=0) + 1
    varies = np.any(places != places[:1], axis=0)
    rate = 0.0
    for side in sides[varies]:
        # Tori close their rings at these lengths: a cube of v4 and v5p, a pod of v5e and v6e.
        ring = side % 4 == 0 if chip.link_dimensions == 3 else side == 16
        rate += chip.link_bytes_per_s / chip.link_dimensions * (1.0 if ring else 0.5)
    return rate or chip.link_bytes_per_s


def largest_gather_bytes(found: Sequence[Collective]) -> int:
    """Bytes of the largest result of an all-gather or all-reduce: what is whole on a chip at once.

    The TPU's compiler writes gathers of parts that its tiles do not fit as sums of parts padded
    with zeros.
    """
    kinds = ("all-gather", "all-reduce")
    return max((one.result_bytes for one in found if one.kind in kinds), default=0)
