"""`bokeh-jax bench train-step`: the training step next to the same network in torch.

Ours runs in this process, torch in a child that waits while ours is timed; they take turns. Its
arguments are here too, so nothing heavy is imported before a bench runs.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh_jax.commands.bench_train_step_report import Report, Setting, Side, Turn, as_json, lines
from bokeh_jax.commands.json_file import check_writable, write_figures
from bokeh_jax.errors import InvalidInput

if TYPE_CHECKING:
    from bokeh_jax.commands.bench_train_step_peer import Peer
    from bokeh_jax.config import ExperimentConfig

_LIMITS = {
    "hidden": (16, 16384),
    "heads": (1, 256),
    "double": (0, 256),
    "single": (0, 256),
    "tokens": (1, 65536),
    "context": (1, 65536),
    "batch": (1, 4096),
    "repeats": (1, 1000),
}
_EXIT_MISSED = 1
# Of compilation, of the first touch of memory, of whatever torch tunes.
_WARM_UP_TURNS = 2
_SMALL = Setting(
    hidden=32, heads=2, double=2, single=2, tokens=20, context=8, batch=2, rope_axes=(4, 6, 6),
    dtype="float32",
)  # fmt: skip


def add_train_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench train-step`."""
    parser.add_argument("--hidden", type=int, default=512, help="width of the network")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--double", type=int, default=2, help="blocks with two streams")
    parser.add_argument("--single", type=int, default=4, help="blocks with one stream")
    parser.add_argument("--tokens", type=int, default=256, help="image tokens of an example")
    parser.add_argument("--context", type=int, default=64, help="context tokens of an example")
    parser.add_argument("--batch", type=int, default=4, help="examples a step")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, help="of either side; default: one a core")
    parser.add_argument("--repeats", type=int, default=10, help="turns of ours and torch's")
    other = parser.add_argument_group("torch")
    other.add_argument(
        "--torch-python",
        default=sys.executable,
        metavar="PYTHON",
        help="a Python that has torch and diffusers; default: this one",
    )
    other.add_argument("--torch-compile", action="store_true", help="put it through torch.compile")
    other.add_argument("--alone", action="store_true", help="time ours only")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="time an experiment's own step too, by part, such as configs/demo.py",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument("--check", action="store_true", help="exit code 1 if the demand is missed")


def bench_train_step(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Measures and prints; returns the exit code.

    Raises:
        InvalidInput: a value of the command line, a Python without torch, an experiment that is
            refused, or a file that cannot be written.
    """
    setting, threads = _checked(arguments), _threads(arguments.threads)
    if overrides and arguments.config is None:
        raise InvalidInput(f"--config.{overrides[0]} is given; allowed only with --config")
    if arguments.json is not None:
        check_writable(arguments.json)
    with _on_cores(threads):
        report = _measure(arguments, setting, threads, overrides)
    print("\n".join(lines(report)))
    if arguments.json is not None:
        write_figures(arguments.json, as_json(report))
    return _EXIT_MISSED if arguments.check and not report.holds else 0


def _checked(arguments: argparse.Namespace) -> Setting:
    """The setting; InvalidInput for whatever argparse cannot refuse."""
    for name, (least, most) in _LIMITS.items():
        if not least <= getattr(arguments, name) <= most:
            value = getattr(arguments, name)
            raise InvalidInput(f"--{name} is {value}; allowed: {least} to {most}")
    if arguments.double + arguments.single == 0:
        raise InvalidInput("--double and --single are 0; allowed: at least one block")
    for name in ("check", "torch_compile"):
        if arguments.alone and getattr(arguments, name):
            option = "--" + name.replace("_", "-")
            raise InvalidInput(f"{option} is given; allowed only without --alone")
    shape = {name: getattr(arguments, name) for name in list(_LIMITS)[:-1]}
    axes = rope_axes(arguments.hidden, arguments.heads)
    return Setting(**shape, rope_axes=axes, dtype=arguments.dtype)


def rope_axes(hidden: int, heads: int) -> tuple[int, int, int]:
    """A head's channels for (stream, row, column): about an eighth, the rest in halves.

    Raises:
        InvalidInput: there is no such division into even numbers.
    """
    head_dim = hidden // heads
    for stream in range(2 * max(1, head_dim // 16), head_dim - 3, 2):
        if hidden % heads == 0 and (head_dim - stream) % 4 == 0:
            return stream, (head_dim - stream) // 2, (head_dim - stream) // 2
    raise InvalidInput(
        f"--hidden is {hidden} and --heads {heads}; allowed: an even number of channels a head, "
        "6 or more"
    )


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _threads(asked: int | None) -> int:
    count = len(_cores())
    least = 1 if hasattr(os, "sched_setaffinity") else count
    if asked is not None and not least <= asked <= count:
        raise InvalidInput(f"--threads is {asked}; allowed: {least} to {count}")
    return count if asked is None else asked


@contextlib.contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """This process and its children on `count` cores: XLA, not started yet, has a thread a core."""
    cores = _cores()
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])
    try:
        yield
    finally:
        if count < len(cores):
            os.sched_setaffinity(0, cores)


def _measure(
    arguments: argparse.Namespace, setting: Setting, threads: int, overrides: Sequence[str]
) -> Report:
    from bokeh_jax.commands import bench_train_step_peer as peer_lib

    config = None
    if arguments.config is not None:
        from bokeh_jax import config as config_lib

        config = config_lib.load(arguments.config, overrides)
    if arguments.alone:
        return _take_turns(setting, None, threads, arguments.repeats, config)
    peer_lib.check_python(arguments.torch_python)
    import jax

    told = dataclasses.asdict(setting) | {
        "threads": threads,
        "compile": arguments.torch_compile,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        "small": dataclasses.asdict(_SMALL),
    }
    with peer_lib.started(arguments.torch_python, told) as peer:
        return _take_turns(setting, peer, threads, arguments.repeats, config)


def _take_turns(
    setting: Setting,
    peer: "Peer | None",
    threads: int,
    repeats: int,
    config: "ExperimentConfig | None",
) -> Report:
    import jax

    from bokeh_jax.commands import bench_train_step_ours as ours_lib
    from bokeh_jax.commands.bench_train_step_same import compare

    same = None if peer is None else compare(peer, _SMALL)
    step, num_params = ours_lib.make_step(setting)
    matrix = ours_lib.make_matrix_product(setting)
    ours = Side(f"ours, jax {jax.__version__}", num_params, ours_lib.step_flops(setting), [], [])
    theirs = None
    if peer is not None:
        told = peer.told
        theirs = Side(told["name"], told["num_params"], float(told["step_flops"]), [], [])
    for turn in range(-_WARM_UP_TURNS, repeats):
        found = ours_lib.timed(step), matrix()
        if turn >= 0:
            _add(ours, *found)
        if peer is not None and theirs is not None:
            answer = peer.ask("step")
            found = Turn(answer["seconds"], answer["cpu_seconds"]), peer.ask("matrix")["value"]
            if turn >= 0:
                _add(theirs, *found)
    real = None if config is None else ours_lib.measure_real_step(config, repeats)
    device = jax.devices()[0]
    return Report(
        setting=setting,
        device=f"{device.platform} ({device.device_kind})",
        threads=threads,
        load=os.getloadavg(),
        ours=ours,
        theirs=theirs,
        same=same,
        real=real,
    )


def _add(side: Side, turn: Turn, matrix_flops_per_s: float) -> None:
    side.turns.append(turn)
    side.matrix_flops_per_s.append(matrix_flops_per_s)
