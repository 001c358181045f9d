"""The console script `bokeh-jax`: one subcommand a job, imports only where a job needs them."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bokeh_jax.command_line import (
    CONFIG_EPILOG,
    Parser,
    add_job_arguments,
    add_train_arguments,
    run_and_exit_code,
)
from bokeh_jax.commands.apertures_arguments import add_apertures_arguments
from bokeh_jax.commands.bench import add_lens_blur_arguments
from bokeh_jax.commands.bench_codec import add_codec_arguments
from bokeh_jax.commands.bench_data import add_data_arguments
from bokeh_jax.commands.bench_train_step import add_train_step_arguments
from bokeh_jax.commands.benchmark_arguments import (
    add_benchmark_arguments,
    add_questions_arguments,
)
from bokeh_jax.commands.checkpoint_arguments import (
    add_inspect_arguments as add_checkpoint_arguments,
)
from bokeh_jax.commands.checkpoint_arguments import (
    add_ls_arguments,
    add_prune_arguments,
    add_verify_arguments,
)
from bokeh_jax.commands.claims_arguments import add_claims_arguments
from bokeh_jax.commands.data_arguments import (
    add_build_arguments,
    add_inspect_arguments,
    add_latents_arguments,
)
from bokeh_jax.commands.export_arguments import add_export_arguments
from bokeh_jax.commands.generate_arguments import add_generate_arguments
from bokeh_jax.commands.photo_arguments import add_refocus_arguments, add_render_arguments
from bokeh_jax.commands.plan import add_plan_arguments
from bokeh_jax.commands.quality_arguments import add_quality_arguments
from bokeh_jax.errors import InvalidInput

Overrides = list[str]


def _train(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.training.train import run_from_arguments

    return run_from_arguments(arguments, overrides)


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, type=Path, help="folder of a training run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="checkpoint step; default: the newest")
    which.add_argument(
        "--all", action="store_true", help="every checkpoint that was not evaluated yet"
    )
    which.add_argument(
        "--watch",
        action="store_true",
        help="those, and each new one until the run's last; beside the job that trains",
    )
    parser.add_argument(
        "--poll-seconds", type=float, default=30.0, metavar="S", help="of --watch; default: 30"
    )
    parser.add_argument("--raw", action="store_true", help="the raw parameters instead of the EMA")
    parser.add_argument(
        "--label",
        default="",
        metavar="NAME",
        help="keep the results apart, in evaluation/NAME: of other settings than the run's own",
    )
    add_job_arguments(parser)


def _eval(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.evaluate import Which, evaluate_workdir
    from bokeh_jax.training import hosts

    which = Which(
        step=arguments.step,
        every=arguments.all,
        watch=arguments.watch,
        poll_seconds=arguments.poll_seconds,
        use_ema=not arguments.raw,
        label=arguments.label,
    )
    hosts.join(hosts.Hosts.from_arguments(arguments))
    evaluate_workdir(arguments.workdir, which, overrides)
    return 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, type=Path, help="folder of an evaluated run")
    parser.add_argument(
        "--photo",
        action="append",
        default=[],
        metavar="CAPTION=FILE",
        help="a photograph to show, such as 'near=near.png'; may be repeated: the first is what "
        "the others were made from",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        type=Path,
        metavar="WORKDIR",
        help="another evaluated run; may be repeated",
    )


def _report(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.report import report_workdir

    written = report_workdir(arguments.workdir, arguments.photo, arguments.compare)
    print(f"report: {written.resolve()}")
    return 0


def _refocus(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.photo import refocus_file

    refocus_file(arguments)
    return 0


def _generate(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.generate import generate

    generate(arguments)
    return 0


def _render(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.render import render_file

    render_file(arguments)
    return 0


def _build(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.data import build_dataset

    build_dataset(arguments)
    return 0


def _inspect(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.data import inspect_dataset

    inspect_dataset(arguments, overrides)
    return 0


def _benchmark(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.benchmark import build

    build(arguments)
    return 0


def _questions(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.benchmark import show_questions

    show_questions(arguments)
    return 0


def _latents(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.latents import build_latents

    build_latents(arguments, overrides)
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, help="folder for the two files")


def _export_photo(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.data import export_photo

    export_photo(arguments.out)
    return 0


def _export(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.export import export_run

    return export_run(arguments, overrides)


def _plan(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.plan import plan

    return plan(arguments, overrides)


def _bench_lens_blur(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.bench import bench_lens_blur

    return bench_lens_blur(arguments)


def _bench_data(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.bench_data import bench_data

    return bench_data(arguments)


def _bench_quality(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.quality import quality_from_arguments
    from bokeh_jax.training import hosts

    hosts.join(hosts.Hosts.from_arguments(arguments))
    quality_from_arguments(arguments)
    return 0


def _bench_apertures(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.apertures import bench_apertures

    bench_apertures(arguments)
    return 0


def _bench_claims(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.claims import bench_claims

    return bench_claims(arguments, overrides)


def _bench_codec(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.bench_codec import bench_codec

    return bench_codec(arguments, overrides)


def _bench_train_step(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.bench_train_step import bench_train_step

    return bench_train_step(arguments, overrides)


def _list_checkpoints(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.checkpoint import list_checkpoints

    return list_checkpoints(arguments)


def _inspect_checkpoint(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.checkpoint import inspect_checkpoint

    return inspect_checkpoint(arguments, overrides)


def _verify_checkpoints(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.checkpoint import verify_checkpoints

    return verify_checkpoints(arguments)


def _prune_checkpoints(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from bokeh_jax.commands.checkpoint import prune_checkpoints

    return prune_checkpoints(arguments)


@dataclasses.dataclass(frozen=True)
class _Command:
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Overrides], int]
    takes_config: bool = False


_COMMANDS = {
    "train": _Command(
        "train an experiment, or continue it from its newest checkpoint",
        add_train_arguments,
        _train,
        takes_config=True,
    ),
    "plan": _Command(
        "compile the train step for TPUs that are not there: does it fit, and how fast is it",
        add_plan_arguments,
        _plan,
        takes_config=True,
    ),
    "eval": _Command(
        "score checkpoints on held-out scenes, next to what needs no training",
        _eval_arguments,
        _eval,
        takes_config=True,
    ),
    "report": _Command(
        "write RUN/report.html from what a run's folder holds", _report_arguments, _report
    ),
    "refocus": _Command(
        "refocus a photograph with a trained checkpoint", add_refocus_arguments, _refocus
    ),
    "export": _Command(
        "write a checkpoint's network as files for PyTorch, diffusers or PEFT",
        add_export_arguments,
        _export,
        takes_config=True,
    ),
    "render": _Command(
        "put an all-in-focus photograph with disparity through the lens blur",
        add_render_arguments,
        _render,
    ),
    "generate": _Command(
        "make a scene from text, and photographs of it with a lens's aperture and focus",
        add_generate_arguments,
        _generate,
    ),
}
_DATA_COMMANDS = {
    "build": _Command("make a dataset of scenes (ArrayRecord)", add_build_arguments, _build),
    "latents": _Command(
        "photograph and encode a dataset's scenes once, for training on their latents",
        add_latents_arguments,
        _latents,
        takes_config=True,
    ),
    "inspect": _Command(
        "draw a contact sheet of simulated pairs",
        add_inspect_arguments,
        _inspect,
        takes_config=True,
    ),
    "benchmark": _Command(
        "make refocus-bench: photographs of held-out scenes, questions, exact answers",
        add_benchmark_arguments,
        _benchmark,
    ),
    "questions": _Command(
        "check a benchmark's files, or find the questions in a folder of real data; draw some",
        add_questions_arguments,
        _questions,
    ),
    "photo": _Command(
        "write photo.png and photo.disparity.png: the real photograph, with measured disparity, "
        "that the demo refocuses",
        _export_arguments,
        _export_photo,
    ),
}
_BENCH_COMMANDS = {
    "lens-blur": _Command(
        "time the lens blur next to a plain scatter (numba) and a plain copy",
        add_lens_blur_arguments,
        _bench_lens_blur,
    ),
    "data": _Command(
        "scenes per second from a dataset to the devices, where the time goes, and whether it "
        "keeps ahead of a training step",
        add_data_arguments,
        _bench_data,
    ),
    "train-step": _Command(
        "time the training step next to the same network in torch (diffusers)",
        add_train_step_arguments,
        _bench_train_step,
        takes_config=True,
    ),
    "quality": _Command(
        "score a checkpoint's answers to the benchmark, or to real data, beside the baselines",
        add_quality_arguments,
        _bench_quality,
    ),
    "apertures": _Command(
        "measure what aperture and focus do to generated scenes",
        add_apertures_arguments,
        _bench_apertures,
    ),
    "claims": _Command(
        "train the arms that test the papers' claims from one common run, and compare them",
        add_claims_arguments,
        _bench_claims,
        takes_config=True,
    ),
    "codec": _Command(
        "measure what an autoencoder does to photographs, and to the blends of the stacking "
        "constraint",
        add_codec_arguments,
        _bench_codec,
        takes_config=True,
    ),
}

_CHECKPOINT_COMMANDS = {
    "ls": _Command(
        "list a run's checkpoints: step, time, size, version of the code, position in the data",
        add_ls_arguments,
        _list_checkpoints,
    ),
    "inspect": _Command(
        "show what a checkpoint holds: parameters with shapes, and where its config differs",
        add_checkpoint_arguments,
        _inspect_checkpoint,
        takes_config=True,
    ),
    "verify": _Command(
        "read every byte of a run's checkpoints and compare it with what was saved; exit code 1 "
        "where one is damaged",
        add_verify_arguments,
        _verify_checkpoints,
    ),
    "prune": _Command(
        "remove old checkpoints, never the newest that is whole (not while the run goes on)",
        add_prune_arguments,
        _prune_checkpoints,
    ),
}


def _register(commands: dict[str, _Command], subparsers: argparse._SubParsersAction) -> None:
    for name, command in commands.items():
        epilog = CONFIG_EPILOG if command.takes_config else None
        parser = subparsers.add_parser(
            name, help=command.text, description=command.text, epilog=epilog
        )
        command.add_arguments(parser)
        parser.set_defaults(command=command)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="bokeh-jax", description="Trainable, physically exact control of focus and aperture."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _register(_COMMANDS, subparsers)
    data = subparsers.add_parser(
        "data", help="datasets: build, latents, inspect, benchmark, questions, photo"
    )
    _register(_DATA_COMMANDS, data.add_subparsers(required=True, metavar="COMMAND"))
    checkpoints = subparsers.add_parser(
        "checkpoint", help="a run's checkpoints: ls, inspect, verify, prune"
    )
    _register(_CHECKPOINT_COMMANDS, checkpoints.add_subparsers(required=True, metavar="COMMAND"))
    bench = subparsers.add_parser(
        "bench", help="measure: lens-blur, data, train-step, quality, claims, codec, apertures"
    )
    _register(_BENCH_COMMANDS, bench.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0: done, 2: a value was refused and one line says which."""
    return run_and_exit_code(build_parser, _run, argv)


def _run(arguments: argparse.Namespace, overrides: Overrides) -> int:
    command: _Command = arguments.command
    if overrides and not command.takes_config:
        raise InvalidInput(
            f"--config.{overrides[0]} is given; allowed only with train, plan, eval, export, data "
            "inspect, data latents, checkpoint inspect, bench train-step, claims and codec"
        )
    return command.run(arguments, overrides)


if __name__ == "__main__":
    sys.exit(main())
