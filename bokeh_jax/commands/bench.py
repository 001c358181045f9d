"""`bokeh-jax bench lens-blur`: times of the lens blur, next to a plain scatter and a plain copy.

With `--compile-for`: what it asks of a TPU that is not there, by the compiler's count.

Its arguments are here too, so nothing heavy is imported before a bench runs.
"""

import argparse
import math
import sys
from pathlib import Path

from bokeh_jax.chips import chip_of_topology
from bokeh_jax.commands.bench_report import Report, as_json, musts, print_report
from bokeh_jax.commands.bench_roofline import Plan, plan_as_json, print_plan
from bokeh_jax.commands.json_file import check_writable, write_figures
from bokeh_jax.errors import InvalidInput

_SIZES_PX = (16, 16384)
_LARGEST_COUNT = 1000
_EXIT_MISSED = 1


def add_lens_blur_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench lens-blur`."""
    parser.add_argument("--sizes", default="512", metavar="PX,...", help="heights = widths")
    parser.add_argument("--radii", default="5,20,60", metavar="PX,...", help="largest blur radii")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each computation")
    parser.add_argument("--batch", type=int, default=1, help="images a call")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the input image"
    )
    parser.add_argument("--no-backward", action="store_true", help="forward only")
    parser.add_argument("--no-peer", action="store_true", help="without the plain scatter (numba)")
    parser.add_argument("--peer-repeats", type=int, help="timed calls of the peer; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument(
        "--compile-for",
        metavar="TPU",
        help="run nothing: compile for a TPU such as v5e:2x2 and count (needs libtpu)",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 if a demand is missed or none is measured"
    )


def bench_lens_blur(arguments: argparse.Namespace) -> int:
    """Measures, prints table and demands, and returns the exit code.

    Raises:
        InvalidInput: a value of the command line, a file that cannot be written, no numba, or no
            libtpu.
    """
    sizes_px, radii_px = _checked(arguments)
    if arguments.compile_for is not None:
        return _bench_compiled(arguments, sizes_px, radii_px)
    if not arguments.no_peer:
        _import_peer()
    if arguments.json is not None:
        check_writable(arguments.json)
    report = _measure(arguments, sizes_px, radii_px)
    demands = musts(report.rows)
    print_report(report, demands)
    if arguments.json is not None:
        write_figures(arguments.json, as_json(report))
    if arguments.check and not (demands and all(demand.holds for demand in demands)):
        return _EXIT_MISSED
    return 0


def _bench_compiled(
    arguments: argparse.Namespace, sizes_px: list[int], radii_px: list[float]
) -> int:
    """Compiles, prints the table and returns the exit code."""
    for option in ("check", "peer_repeats"):
        if getattr(arguments, option):
            raise InvalidInput(
                f"--{option.replace('_', '-')} is given; allowed only without --compile-for, which "
                "times nothing"
            )
    chip_of_topology(arguments.compile_for, "--compile-for")
    if arguments.json is not None:
        check_writable(arguments.json)
    plan = _compile(arguments, sizes_px, radii_px)
    print_plan(plan)
    if arguments.json is not None:
        write_figures(arguments.json, plan_as_json(plan))
    return 0


def _compile(arguments: argparse.Namespace, sizes_px: list[int], radii_px: list[float]) -> Plan:
    from bokeh_jax.commands.bench_compile import compile_row, devices_used
    from bokeh_jax.commands.tpu_compiler import topology_devices

    devices = topology_devices(arguments.compile_for, "--compile-for")
    devices = devices_used(devices, arguments.batch)
    rows = []
    for size_px in sizes_px:
        for radius_px in radii_px:
            _say_which(size_px, radius_px)
            rows.append(
                compile_row(
                    size_px,
                    radius_px,
                    devices=devices,
                    batch=arguments.batch,
                    dtype=arguments.dtype,
                    backward=not arguments.no_backward,
                )
            )
    return Plan(arguments.compile_for, len(devices), arguments.dtype, arguments.batch, rows)


def _say_which(size_px: int, radius_px: float) -> None:
    if sys.stderr.isatty():
        print(f"{size_px} px, r <= {radius_px:g} px ...", file=sys.stderr)


def _checked(arguments: argparse.Namespace) -> tuple[list[int], list[float]]:
    """Sizes and radii; InvalidInput for whatever argparse cannot refuse."""
    sizes_px = [int(size) for size in _numbers("--sizes", arguments.sizes, whole=True)]
    low_px, high_px = _SIZES_PX
    for size_px in sizes_px:
        if not low_px <= size_px <= high_px:
            raise InvalidInput(f"--sizes holds {size_px}; allowed: {low_px} to {high_px} px")
    radii_px = _numbers("--radii", arguments.radii, whole=False)
    for radius_px in radii_px:
        if not 1 <= radius_px <= min(sizes_px) / 2:
            raise InvalidInput(
                f"--radii holds {radius_px:g}; allowed: 1 to half the least of --sizes, "
                f"{min(sizes_px) / 2:g} px"
            )
    if arguments.no_peer and arguments.peer_repeats is not None:
        raise InvalidInput(
            f"--peer-repeats is {arguments.peer_repeats}; allowed only without --no-peer"
        )
    for name in ("repeats", "peer_repeats", "batch"):
        count = getattr(arguments, name)
        if count is not None and not 1 <= count <= _LARGEST_COUNT:
            option = "--" + name.replace("_", "-")
            raise InvalidInput(f"{option} is {count}; allowed: 1 to {_LARGEST_COUNT}")
    return sizes_px, radii_px


def _numbers(option: str, text: str, *, whole: bool) -> list[float]:
    kind = "whole numbers" if whole else "numbers"
    try:
        numbers = [float(int(item) if whole else float(item)) for item in text.split(",")]
    except (ValueError, OverflowError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or len(set(numbers)) < len(numbers):
        raise InvalidInput(
            f"{option} is {text!r}; allowed: {kind} of pixels with commas between, each once"
        )
    return numbers


def _import_peer() -> None:
    try:
        import bokeh_jax.commands.scatter_peer  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            f"numba is needed for the peer ({error}): pip install 'bokeh-jax[bench]', or use "
            "--no-peer"
        ) from None


def _measure(arguments: argparse.Namespace, sizes_px: list[int], radii_px: list[float]) -> Report:
    from bokeh_jax.commands.bench_times import copy_bytes_per_s, copy_mib, device_name, measure_row

    peer = num_threads = None
    if not arguments.no_peer:
        from bokeh_jax.commands.scatter_peer import num_threads, scatter_blur

        peer = scatter_blur
    peer_repeats = arguments.peer_repeats or 1
    mib = copy_mib()
    bandwidth = copy_bytes_per_s(mib, arguments.repeats)
    rows = []
    for size_px in sizes_px:
        for radius_px in radii_px:
            _say_which(size_px, radius_px)
            rows.append(
                measure_row(
                    size_px,
                    radius_px,
                    batch=arguments.batch,
                    dtype=arguments.dtype,
                    repeats=arguments.repeats,
                    backward=not arguments.no_backward,
                    peer=peer,
                    peer_repeats=peer_repeats,
                )
            )
    return Report(
        device=device_name(),
        dtype=arguments.dtype,
        batch=arguments.batch,
        repeats=arguments.repeats,
        peer_repeats=peer_repeats,
        peer_threads=None if num_threads is None else num_threads(),
        copy_mib=mib,
        copy_bytes_per_s=bandwidth,
        rows=rows,
    )
