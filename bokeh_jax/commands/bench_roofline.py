"""What compiled programs ask of a chip: the bound that its published peaks set, table and JSON.

The bound is the longer of two times: the operations at the chip's peak, and the bytes accessed at
the bandwidth of its main memory. Both are counted in the compiled program (`hlo_cost`). Neither is
what a run takes: the peak is that of products of bfloat16 and the lens blur is in float32, and the
bytes hold what stays in on-chip memory, which is faster.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from bokeh_jax.chips import CHIPS, Chip

# A pipe has no width; rich would take 80 columns and cut the table.
_PIPE_COLUMNS = 140


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled computation on one device.

    Attributes:
        compile_s: how long compiling took on this machine, in seconds.
        flops: floating-point operations.
        bytes_accessed: by its kernels, at every level of memory.
        argument_bytes, output_bytes: in main memory, as the device lays them out.
        temp_bytes: of main memory that is needed besides, at the highest.
    """

    compile_s: float
    flops: float
    bytes_accessed: float
    argument_bytes: int
    output_bytes: int
    temp_bytes: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One size and largest radius; `forward_backward` is None where it was not asked for."""

    size_px: int
    radius_px: float
    forward: Program
    forward_backward: Program | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run; `devices` share the batch evenly."""

    topology: str
    devices: int
    dtype: str
    batch: int
    rows: list[Row]


def _chip(plan: Plan) -> Chip:
    return CHIPS[plan.topology.partition(":")[0]]


def bound_ms(program: Program, chip: Chip) -> tuple[float, str]:
    """The longer of computing and moving bytes at the chip's peaks, and which of the two it is."""
    compute_ms = 1e3 * program.flops / chip.flops_per_s
    memory_ms = 1e3 * program.bytes_accessed / chip.bytes_per_s
    return (compute_ms, "compute") if compute_ms > memory_ms else (memory_ms, "memory")


def print_plan(plan: Plan) -> None:
    """Prints what was compiled for what, what the figures mean, and the table."""
    chip = _chip(plan)
    print(
        f"lens blur compiled for {plan.topology}, {plan.devices} device(s) used: {plan.batch} "
        f"{plan.dtype} image(s) a call, shared out evenly; figures are those of one device"
    )
    print(
        f"peaks of a chip: {chip.flops_per_s / 1e12:g} TFLOP/s in bfloat16 (the lens blur computes "
        f"in float32, which is slower), {chip.bytes_per_s / 1e9:g} GB/s, "
        f"{chip.memory_bytes / 2**30:g} GiB"
    )
    print(
        "GFLOP, MB accessed: XLA's count, each loop as often as it runs, every layer drawn; bytes "
        "in on-chip memory included; in+out, temp MB: in main memory; bound: the longer at peak"
    )
    _print_table(plan, chip)


def _print_table(plan: Plan, chip: Chip) -> None:
    # Only here: the command line's --help imports this module.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns.add_column("what", no_wrap=True)
    for name in ("size px", "r px", "compile s", "GFLOP", "MB accessed", "in+out MB", "temp MB"):
        columns.add_column(name, justify="right", no_wrap=True)
    columns.add_column("bound ms", justify="right", no_wrap=True)
    columns.add_column("binds", no_wrap=True)
    for row in plan.rows:
        for what, program in _programs(row):
            if program is not None:
                place = (what.replace("_", "+"), str(row.size_px), f"{row.radius_px:g}")
                columns.add_row(*place, *_cells(program, chip))
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width, highlight=False).print(columns)


def _programs(row: Row) -> Sequence[tuple[str, Program | None]]:
    return ("forward", row.forward), ("forward_backward", row.forward_backward)


def _cells(program: Program, chip: Chip) -> tuple[str, ...]:
    milliseconds, binds = bound_ms(program, chip)
    return (
        f"{program.compile_s:.1f}",
        f"{program.flops / 1e9:.2f}",
        f"{program.bytes_accessed / 1e6:.0f}",
        f"{(program.argument_bytes + program.output_bytes) / 1e6:.2f}",
        f"{program.temp_bytes / 1e6:.1f}",
        f"{milliseconds:.2f}",
        binds,
    )


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Everything that the table says, for programs."""
    chip = _chip(plan)
    rows = []
    for row in plan.rows:
        programs: dict[str, Any] = {}
        for what, program in _programs(row):
            if program is not None:
                milliseconds, binds = bound_ms(program, chip)
                figures = {"bound_ms": milliseconds, "binds": binds}
                programs[what] = dataclasses.asdict(program) | figures
        rows.append(dataclasses.asdict(row) | programs)
    return dataclasses.asdict(plan) | {"chip": dataclasses.asdict(chip), "rows": rows}
