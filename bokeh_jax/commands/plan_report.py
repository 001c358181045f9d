"""What a plan says: text for people, JSON for programs."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from bokeh_jax.commands.plan_collectives import Collective
from bokeh_jax.commands.plan_step import StepPlan

# A pipe has no width; rich would take 80 columns and cut the table.
_PIPE_COLUMNS = 140
_GIB = 2**30
# All parameters gathered at once would be this share of them (in bfloat16) or more.
_WHOLE_SHARE = 0.5


def print_plan(plan: StepPlan) -> None:
    """Prints fit, work, collectives and time of one step."""
    slices = f"{plan.num_slices} slices of " if plan.num_slices > 1 else ""
    without = "" if plan.simulation else ", NOT simulated: network and update alone"
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    print(
        f"{slices}{plan.topology}: {plan.num_chips} chips as {mesh}; "
        f"{plan.num_parameters / 1e6:,.0f} M parameters; {plan.global_batch_size} scenes, "
        f"{plan.images} photographs a step of "
        f"{plan.frame_px[0]}x{plan.frame_px[1]} px; remat {plan.remat}, attention "
        f"{plan.attention}; stored scenes: {plan.scenes}{without}; compiled in "
        f"{plan.compile_seconds:.0f} s"
    )
    _print_memory(plan)
    print(
        f"work of a chip: {plan.work.flops / 1e12:.2f} TFLOP as compiled, "
        f"{plan.model_flops / 1e12:.2f} of the model; {plan.work.bytes_accessed / 1e9:.1f} GB "
        "accessed at every level of memory"
    )
    _print_collectives(plan)
    gather = plan.work.largest_gather_bytes
    verdict = "never" if gathers_in_parts(plan) else "YES, the whole parameters"
    print(
        f"largest gather or sum: {gather / 1e6:.1f} MB of {plan.parameter_bytes / 1e6:.0f} MB of "
        f"parameters; all at once: {verdict}"
    )
    _print_time(plan)


def gathers_in_parts(plan: StepPlan) -> bool:
    """Whether no all-gather holds half of the parameters (in bfloat16) or more."""
    return plan.work.largest_gather_bytes < _WHOLE_SHARE * plan.parameter_bytes / 2


def _print_memory(plan: StepPlan) -> None:
    memory = plan.memory
    parts = ", ".join(
        f"{name} {getattr(memory, name) / _GIB:.2f}"
        for name in ("parameters", "optimizer", "ema", "frozen", "batch", "temporaries", "program")
    )
    share = memory.total / memory.capacity
    print(
        f"fits: {'yes' if fits(plan) else 'NO'}, {memory.total / _GIB:.2f} of "
        f"{memory.capacity / _GIB:.1f} GiB a chip ({100 * share:.0f} %): {parts}"
    )


def fits(plan: StepPlan) -> bool:
    """Whether the step fits into the chip's memory."""
    return plan.memory.total <= plan.memory.capacity


def _print_time(plan: StepPlan) -> None:
    time = plan.work.time
    print(
        f"milliseconds: kernels {1e3 * time.roofline_seconds:.1f} by XLA's roofline, "
        f"{1e3 * time.cycles_seconds:.1f} by the compiler's cycles; without estimate "
        f"{1e3 * time.unpriced_seconds:.1f}; attention {1e3 * time.attention_seconds:.1f}; links "
        f"{1e3 * time.links_seconds:.1f}, of which asynchronous "
        f"{1e3 * time.asynchronous_links_seconds:.1f}"
    )
    for row in predictions(plan):
        links = "all collectives hidden" if row["hidden"] else "no collective hidden"
        print(
            f"by {row['estimate']}, {links}: {1e3 * row['seconds']:.1f} ms a step, MFU "
            f"{100 * row['mfu']:.1f} %, {row['images_per_day'] / 1e6:.2f} M photographs a day"
        )


def predictions(plan: StepPlan) -> list[dict[str, Any]]:
    """The step by both estimates, collectives exposed or hidden; the first is the headline."""
    rows = []
    for estimate in ("roofline", "cycles"):
        for hidden in (False, True):
            seconds = plan.work.time.predicted(estimate, hidden=hidden)
            rows.append(
                {
                    "estimate": estimate,
                    "hidden": hidden,
                    "seconds": seconds,
                    "mfu": plan.mfu(seconds),
                    "images_per_day": plan.images_per_day(seconds),
                }
            )
    return rows


def summed(found: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives by kind and axes: how many, what a chip sends, and the seconds of the links."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        key = (one.kind, one.axes)
        row = sums.setdefault(
            key,
            {
                "kind": one.kind,
                "axes": one.axes,
                "group_size": one.group_size,
                "times": 0,
                "sent_bytes": 0.0,
                "largest_result_bytes": 0,
                "seconds": 0.0,
                "asynchronous_seconds": 0.0,
            },
        )
        row["times"] += one.times
        row["sent_bytes"] += one.times * one.sent_bytes
        row["largest_result_bytes"] = max(row["largest_result_bytes"], one.result_bytes)
        row["seconds"] += one.times * one.seconds
        row["asynchronous_seconds"] += one.times * one.seconds * one.asynchronous
    return sorted(sums.values(), key=lambda row: -row["seconds"])


def _table(names: Sequence[str], num_texts: int) -> Any:
    # Only here: the command line's --help imports nothing heavy.
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place < num_texts else "right", no_wrap=True)
    return table


def _print_table(table: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width, highlight=False).print(table)


def _print_collectives(plan: StepPlan) -> None:
    table = _table(("collective", "along", "chips", "times", "sent MB", "largest MB", "ms"), 2)
    for row in summed(plan.work.collectives):
        table.add_row(
            row["kind"],
            row["axes"],
            str(row["group_size"]),
            str(row["times"]),
            f"{row['sent_bytes'] / 1e6:.1f}",
            f"{row['largest_result_bytes'] / 1e6:.2f}",
            f"{1e3 * row['seconds']:.2f}",
        )
    _print_table(table)


def as_json(plan: StepPlan) -> dict[str, Any]:
    """Everything that the text says, and every collective."""
    figures = dataclasses.asdict(plan)
    return (
        figures.pop("work")
        | figures
        | {
            "fits": fits(plan),
            "gathers_in_parts": gathers_in_parts(plan),
            "collectives_summed": summed(plan.work.collectives),
            "predictions": predictions(plan),
        }
    )


def headline(plan: dict[str, Any], estimate: str = "roofline") -> dict[str, Any]:
    """Of a plan's JSON the prediction by an estimate with no collective hidden."""
    return next(
        row for row in plan["predictions"] if row["estimate"] == estimate and not row["hidden"]
    )


def print_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the table of a sweep, best first, and then what was refused.

    Args:
        rows: of each candidate `mesh`, `global_batch_size` and `remat`, and either `plan` (as
            `as_json` gives it) or `refused`, the reason.
    """
    names = ("mesh", "batch", "remat", "GiB", "step ms", "MFU %", "M photos/day", "by cycles %")
    table = _table(names, 1)
    for row in rows:
        if "plan" not in row:
            continue
        plan = row["plan"]
        best, worse = headline(plan), headline(plan, "cycles")
        table.add_row(
            row["mesh"],
            str(row["global_batch_size"]),
            row["remat"],
            f"{plan['memory']['total'] / _GIB:.1f}",
            f"{1e3 * best['seconds']:.1f}",
            f"{100 * best['mfu']:.1f}",
            f"{best['images_per_day'] / 1e6:.2f}",
            f"{100 * worse['mfu']:.1f}",
        )
    _print_table(table)
    for row in rows:
        if "refused" in row:
            print(
                f"refused: mesh {row['mesh']}, batch {row['global_batch_size']}, remat "
                f"{row['remat']}: {row['refused']}"
            )
