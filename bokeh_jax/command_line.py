"""What every command line of the project shares; imports nothing heavy, so that --help is quick."""

import argparse
import sys
from collections.abc import Callable, Sequence

from bokeh_jax.errors import InvalidInput
from bokeh_jax.memory import keep_freed_memory

EXIT_INVALID_INPUT = 2
_OVERRIDE = "--config."
CONFIG_EPILOG = (
    "Any value of the config can be changed: --config.GROUP.KEY=VALUE, such as "
    "--config.training.num_steps=500."
)


class Parser(argparse.ArgumentParser):
    """argparse that reports a wrong command line as every other wrong input is reported."""

    def error(self, message: str):
        """One line, exit code 2, without the usage text."""
        raise InvalidInput(f"{self.prog}: {message}; see {self.prog} --help")


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes "--config.a.b=value" out of a command line -> (other arguments, ["a.b=value"])."""
    overrides = [text[len(_OVERRIDE) :] for text in argv if text.startswith(_OVERRIDE)]
    return [text for text in argv if not text.startswith(_OVERRIDE)], overrides


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a training job."""
    parser.add_argument("--config", required=True, help="experiment file, such as configs/demo.py")
    parser.add_argument("--workdir", required=True, help="folder of the run; created if missing")
    parser.add_argument(
        "--restore",
        choices=("latest", "latest_good"),
        default="latest",
        help="where the newest checkpoint is damaged: stop, or go on from the newest that is whole",
    )
    parser.add_argument(
        "--profile-steps",
        "--profile_steps",
        metavar="FROM:TO",
        help="write a profiler trace of the steps FROM+1 to TO into WORKDIR/profile, by process 0; "
        "SIGUSR1 asks a running process for one of its next 5 steps",
    )
    add_job_arguments(parser)


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """How a process finds the others of its job."""
    job = parser.add_argument_group(
        "several processes",
        "all three by hand, such as launch/local.py does; none on one machine, under Slurm, on a "
        "TPU pod or in a GKE job, which the environment describes",
    )
    job.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    job.add_argument("--num-processes", type=int, metavar="N", help="of the job")
    job.add_argument("--process-index", type=int, metavar="I", help="of this process, 0 to N-1")
    job.add_argument(
        "--join-timeout-seconds",
        type=int,
        default=300,
        metavar="S",
        help="how long to wait for the others at the start; default: 300",
    )
    job.add_argument(
        "--heartbeat-timeout-seconds",
        type=int,
        default=100,
        metavar="S",
        help="a process not heard of for so long is taken for dead, which ends the job; "
        "default: 100",
    )


def run_and_exit_code(
    make_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace, list[str]], int],
    argv: Sequence[str] | None,
) -> int:
    """Parses and runs; 2 with one line on stderr where a value from outside is refused."""
    keep_freed_memory()
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    try:
        return run(make_parser().parse_args(arguments), overrides)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INVALID_INPUT
