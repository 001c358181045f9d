"""What a bench of the lens blur found: its rows, what they must hold, table and JSON.

The memory's limit: a computation that only reads the image and the radii and writes the result
(going back: writes the loss and the gradients of both) moves `least_bytes`, and at the bandwidth of
a copy measured in the same run that takes `copy_ms`. `times_limit` says how many times as long it
really took. The compiler's own count of bytes is left out: it counts the body of a loop over layers
once, however often the loop runs, and both sides of a condition.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from typing import Any

# What the lens blur is asked to reach, in medians of one run; the peer is `scatter_peer`.
_LEAST_SPEEDUPS = {20.0: 10.0, 60.0: 40.0}
_SPEEDUP_SIZE_PX = 512
_GROWTH_RADII_PX = (20.0, 60.0)
_MOST_BACKWARD = 3.0
# A pipe has no width; rich would take 80 columns and cut the table.
_PIPE_COLUMNS = 140


@dataclasses.dataclass(frozen=True)
class Cost:
    """Times of one computation on one batch, and the least bytes that it has to move."""

    median_ms: float
    least_ms: float
    least_bytes: int

    @classmethod
    def of(cls, times_ms: Sequence[float], least_bytes: int) -> "Cost":
        """Median and minimum of the calls."""
        return cls(statistics.median(times_ms), min(times_ms), least_bytes)


@dataclasses.dataclass(frozen=True)
class Row:
    """One size and largest radius; None where it was not asked for.

    Attributes:
        depths_occupied: whole pixels of signed radius that at least one pixel of the scene has.
        depths: how many there are up to the largest radius, on both sides of the focus.
    """

    size_px: int
    radius_px: float
    depths_occupied: int
    depths: int
    forward: Cost
    forward_backward: Cost | None
    peer: Cost | None

    @property
    def backward_over_forward(self) -> float | None:
        """Time of the backward pass alone, in forward passes."""
        if self.forward_backward is None:
            return None
        return self.forward_backward.median_ms / self.forward.median_ms - 1

    @property
    def peer_over_forward(self) -> float | None:
        """How many times as long the peer takes."""
        return None if self.peer is None else self.peer.median_ms / self.forward.median_ms


@dataclasses.dataclass(frozen=True)
class Must:
    """One demand on the times: what, the value measured, and whether it holds."""

    text: str
    measured: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """A whole run; `peer_threads` is None without the peer."""

    device: str
    dtype: str
    batch: int
    repeats: int
    peer_repeats: int
    peer_threads: int | None
    copy_mib: int
    copy_bytes_per_s: float
    rows: list[Row]


def musts(rows: Sequence[Row]) -> list[Must]:
    """The demands that these rows can tell anything about."""
    by_size_and_radius = {(row.size_px, row.radius_px): row for row in rows}
    found = []
    for radius_px, least in _LEAST_SPEEDUPS.items():
        row = by_size_and_radius.get((_SPEEDUP_SIZE_PX, radius_px))
        if row is not None and row.peer_over_forward is not None:
            text = f"{row.size_px} px, r <= {radius_px:g} px: peer / forward at least {least:g}"
            found.append(Must(text, row.peer_over_forward, row.peer_over_forward >= least))
    narrow_px, wide_px = _GROWTH_RADII_PX
    for size_px in dict.fromkeys(row.size_px for row in rows):
        narrow = by_size_and_radius.get((size_px, narrow_px))
        wide = by_size_and_radius.get((size_px, wide_px))
        if narrow is not None and wide is not None:
            growth, linear = wide.forward.median_ms / narrow.forward.median_ms, wide_px / narrow_px
            text = f"{size_px} px: forward, r {wide_px:g} px / r {narrow_px:g} px below {linear:g}"
            found.append(Must(text, growth, growth < linear))
    ratios = [r.backward_over_forward for r in rows if r.backward_over_forward is not None]
    if ratios:
        text = f"every row: backward / forward at most {_MOST_BACKWARD:g}"
        found.append(Must(text, max(ratios), max(ratios) <= _MOST_BACKWARD))
    return found


def print_report(report: Report, demands: Sequence[Must]) -> None:
    """Prints how it was measured, the table, and a line for every demand."""

    print(
        f"lens blur on {report.device}: {report.batch} {report.dtype} image(s) a call, "
        f"{report.repeats} timed calls; largest radius r, every signed radius from -r to r"
    )
    if report.peer_threads is not None:
        print(
            f"peer: plain scatter, numba with fastmath, {report.peer_threads} threads, float32, "
            f"{report.peer_repeats} timed calls, taking turns with ours"
        )
    print(
        f"copy: {report.copy_bytes_per_s / 1e9:.2f} GB/s, {report.copy_mib} MiB read and written; "
        "least MB: input once and output once; copy ms: their time in a copy; x limit: median/copy"
    )
    _print_table(report)
    for demand in demands:
        verdict = "holds" if demand.holds else "missed"
        print(f"must: {demand.text}: {demand.measured:.2f}, {verdict}")
    if not demands:
        print("must: none of the demands can be told from these sizes and radii")


def _print_table(report: Report) -> None:
    """Three lines a row: forward, forward and backward, the peer."""
    # Only here: the command line's --help imports this module.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns.add_column("what", no_wrap=True)
    for name in ("size px", "r px", "depths", "median ms", "least ms", "images/s"):
        columns.add_column(name, justify="right", no_wrap=True)
    for name in ("least MB", "copy ms", "x limit"):
        columns.add_column(name, justify="right", no_wrap=True)
    columns.add_column("ratio", no_wrap=True)
    for row in report.rows:
        back, peer = row.backward_over_forward, row.peer_over_forward
        lines = (
            ("forward", row.forward, ""),
            ("forward+backward", row.forward_backward, f"backward/forward {back or 0:.2f}"),
            ("peer forward", row.peer, f"peer/forward {peer or 0:.2f}"),
        )
        for what, cost, ratio in lines:
            if cost is not None:
                depths = f"{row.depths_occupied}/{row.depths}"
                place = (str(row.size_px), f"{row.radius_px:g}", depths)
                columns.add_row(what, *place, *_cells(cost, report), ratio)
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width, highlight=False).print(columns)


def _cells(cost: Cost, report: Report) -> tuple[str, ...]:
    figures = _figures(cost, report)
    return (
        f"{cost.median_ms:.2f}",
        f"{cost.least_ms:.2f}",
        f"{figures['images_per_s']:.2f}",
        f"{cost.least_bytes / 1e6:.2f}",
        f"{figures['copy_ms']:.3f}",
        f"{figures['times_limit']:.1f}",
    )


def _figures(cost: Cost, report: Report) -> dict[str, float]:
    copy_ms = 1e3 * cost.least_bytes / report.copy_bytes_per_s
    return dataclasses.asdict(cost) | {
        "images_per_s": 1e3 * report.batch / cost.median_ms,
        "copy_ms": copy_ms,
        "times_limit": cost.median_ms / copy_ms,
    }


def as_json(report: Report) -> dict[str, Any]:
    """Everything that the table and the demands say, for programs."""
    rows = []
    for row in report.rows:
        costs = {
            name: None if cost is None else _figures(cost, report)
            for name, cost in (
                ("forward", row.forward),
                ("forward_backward", row.forward_backward),
                ("peer", row.peer),
            )
        }
        ratios = {
            "backward_over_forward": row.backward_over_forward,
            "peer_over_forward": row.peer_over_forward,
        }
        rows.append(dataclasses.asdict(row) | costs | ratios)
    demands = [dataclasses.asdict(must) for must in musts(report.rows)]
    return dataclasses.asdict(report) | {"rows": rows, "musts": demands}
