"""`bokeh-jax bench data`: how fast a dataset's batches reach the devices, and what holds them up.

A scene is read (bytes of its record), parsed (into features), decoded (frames), stacked (into a
batch) and copied to the devices. These stages are timed one after the other in one thread; then the
whole, as in training, for every number of worker processes: threads decode ahead of a thread that
copies ahead of the step.

With a step time, a step is a sleep: what is reported is the share of the time that training would
wait for data if it left the processor's cores to the loader.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh_jax.errors import InvalidInput

if TYPE_CHECKING:
    from bokeh_jax.commands.bench_data_times import Rate, Stages
    from data_pipeline.loader import LoaderConfig, Shape

_MOST_WORKERS = 64
_MOST_SECONDS = 3600.0
# What the loader is asked to reach.
_LEAST_PHOTOS_PER_S = 150.0
_MOST_WAIT_PERCENT = 1.0
# A pipe has no width; rich would take 80 columns and cut the table.
_PIPE_COLUMNS = 120


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench data`."""
    parser.add_argument("--path", required=True, type=Path, help="folder of a dataset")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=32, help="scenes of a batch")
    parser.add_argument(
        "--workers", default="0,1,2", metavar="N,...", help="processes that decode; 0: threads only"
    )
    parser.add_argument("--threads", type=int, default=4, help="that decode, in each process")
    parser.add_argument(
        "--step-ms", type=float, help="time of a training step, to see whether data keeps ahead"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="to measure, for each number of workers"
    )


def bench_data(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns the exit code.

    Raises:
        InvalidInput: a value of the command line, or a dataset that cannot be read.
    """
    workers = _checked(arguments)

    from bokeh_jax.commands.bench_data_times import measure_rate, measure_stages
    from data_pipeline.loader import LoaderConfig, shapes

    config = LoaderConfig(
        arguments.path,
        split=arguments.split,
        global_batch_size=arguments.batch,
        num_threads=arguments.threads,
    )
    found = shapes(config)
    _print_setting(config, found)
    stages = measure_stages(config, min(arguments.seconds, 5.0))
    _print_stages(stages)
    rates = []
    for count in workers:
        _say(f"{count} workers ...")
        one = dataclasses.replace(config, num_workers=count)
        rates.append(measure_rate(one, arguments.seconds, arguments.step_ms))
    _print_rates(rates, arguments.batch)
    photos = all((s.kind, s.height_px, s.width_px) == ("photographs", 256, 256) for s in found)
    for line in findings(stages, rates, arguments.step_ms, photos=photos):
        print(line)
    return 0


def findings(
    stages: "Stages", rates: "Sequence[Rate]", step_ms: float | None, *, photos: bool
) -> list[str]:
    """What the figures say, a line each.

    Args:
        stages: times of one thread.
        rates: of every number of workers.
        step_ms: of a training step; None where it was not given.
        photos: all scenes are photographs of 256 x 256 pixels, for which there is a demand.
    """
    best = max(rates, key=lambda rate: rate.scenes_per_s)
    slowest = stages.longest
    share = 100 * stages.ms[slowest] / stages.total_ms
    lines = [
        f"fastest: {best.workers} workers, {best.scenes_per_s:.0f} scenes/s, "
        f"{best.scenes_per_s * stages.total_ms / 1e3:.2f} times one thread"
    ]
    least_wait = min((r for r in rates if r.wait_percent is not None), key=_wait, default=None)
    if least_wait is None or _wait(least_wait) >= _MOST_WAIT_PERCENT:
        lines.append(f"bottleneck: {slowest}, {share:.0f} % of a scene's time in one thread")
    else:
        lines.append(f"bottleneck: the device, whose step takes {step_ms:g} ms")
    if photos:
        holds = best.scenes_per_s >= _LEAST_PHOTOS_PER_S
        lines.append(
            f"must: photographs of 256 x 256 px, at least {_LEAST_PHOTOS_PER_S:g} scenes/s on 2 "
            f"cores: {best.scenes_per_s:.0f} on {_num_cores()}, {'holds' if holds else 'missed'}"
        )
    if least_wait is not None:
        holds = _wait(least_wait) < _MOST_WAIT_PERCENT
        lines.append(
            f"must: keeps ahead of a step of {step_ms:g} ms, waiting below "
            f"{_MOST_WAIT_PERCENT:g} % of the time: {_wait(least_wait):.2f} % with "
            f"{least_wait.workers} workers, {'holds' if holds else 'missed'}"
        )
    return lines


def _wait(rate: "Rate") -> float:
    return math.inf if rate.wait_percent is None else rate.wait_percent


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(arguments: argparse.Namespace) -> list[int]:
    """Numbers of workers; InvalidInput for whatever argparse cannot refuse."""
    try:
        workers = [int(item) for item in arguments.workers.split(",")]
    except ValueError:
        workers = []
    if not workers or len(set(workers)) < len(workers):
        raise InvalidInput(
            f"--workers is {arguments.workers!r}; allowed: numbers with commas between, each once"
        )
    for count in workers:
        if not 0 <= count <= _MOST_WORKERS:
            raise InvalidInput(f"--workers holds {count}; allowed: 0 to {_MOST_WORKERS}")
    if not 0 < arguments.seconds <= _MOST_SECONDS:
        raise InvalidInput(
            f"--seconds is {arguments.seconds:g}; allowed: above 0, to {_MOST_SECONDS:g}"
        )
    if arguments.step_ms is not None and not 0 < arguments.step_ms < 1e6:
        raise InvalidInput(f"--step-ms is {arguments.step_ms:g}; allowed: above 0, below 1000000")
    return workers


def _print_setting(config: "LoaderConfig", found: "Sequence[Shape]") -> None:
    import jax

    device = jax.devices()[0]
    print(
        f"data of {config.path}, split {config.split}: batches of {config.global_batch_size}, "
        f"{config.num_threads} threads a process, {_num_cores()} cores, "
        f"{jax.device_count()} x {device.device_kind}"
    )
    for shape in found:
        print(f"shape: {shape}, {100 * shape.share:.1f} % of the batches")


def _print_stages(stages: "Stages") -> None:
    rows = [
        (stage, f"{ms:.3f}", f"{100 * ms / stages.total_ms:.0f}", f"{_per_second(ms):.0f}")
        for stage, ms in stages.ms.items()
    ]
    total = ("all", f"{stages.total_ms:.3f}", "100", f"{_per_second(stages.total_ms):.0f}")
    print(f"one thread, {stages.num_scenes} scenes:")
    _print_table(("stage", "ms/scene", "%", "scenes/s"), [*rows, total])
    print(
        f"processor time: {stages.cpu_ms:.3f} ms/scene; {_num_cores()} cores with nothing else to "
        f"do: at most {_num_cores() * _per_second(stages.cpu_ms):.0f} scenes/s"
    )


def _per_second(ms: float) -> float:
    return 1e3 / ms if ms else math.inf


def _print_rates(rates: "Sequence[Rate]", batch_size: int) -> None:
    rows = [
        (
            str(rate.workers),
            f"{rate.scenes_per_s:.0f}",
            f"{1e3 * batch_size / rate.scenes_per_s:.1f}",
            f"{rate.first_batch_s:.1f}",
            "" if rate.wait_percent is None else f"{rate.wait_percent:.2f}",
        )
        for rate in rates
    ]
    print("from the dataset to the devices:")
    _print_table(("workers", "scenes/s", "ms/batch", "first batch s", "wait %"), rows)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Only here: the command line's --help imports this module.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width, highlight=False).print(table)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
