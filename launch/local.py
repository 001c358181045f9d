"""Trains with several processes on this machine, as a job on several hosts would.

    python launch/local.py --processes=2 -- --config=configs/demo.py --workdir=runs/two

What stands after `--` goes to `bokeh_jax.training.train`. SIGTERM and Ctrl-C reach one process,
which takes the others along. A process that fails ends the others. The exit code is the first that
is not 0; with `--restarts=N` the job is started again, up to N times, when it was preempted (exit
code 75), and on no other occasion. A process that a signal ended counts as 128 + that signal.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

EXIT_PREEMPTED = 75
# How long processes whose partner has failed may take to notice by themselves.
GRACE_SECONDS = 20.0


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(count: int, devices: int, arguments: Sequence[str]) -> list[subprocess.Popen]:
    """Start the processes of a job; their output is this one's."""
    coordinator = f"localhost:{free_port()}"
    environment = dict(os.environ)
    if devices:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bokeh_jax.training.train", *arguments),
                *(f"--coordinator={coordinator}", f"--num-processes={count}"),
                f"--process-index={index}",
            ],
            env=environment,
        )
        for index in range(count)
    ]


def wait(processes: Sequence[subprocess.Popen], grace_seconds: float = GRACE_SECONDS) -> int:
    """Wait for all; return the first exit code that is not 0. One failure ends the others."""
    deadline, code = None, 0

    def first_failure() -> int:
        codes = [process.returncode for process in processes if process.returncode]
        # As a shell says it: 128 + the signal that ended a process.
        return 128 - codes[0] if codes and codes[0] < 0 else next(iter(codes), 0)

    # All are asked: one that has ended says so only then.
    while None in [process.poll() for process in processes]:
        code = code or first_failure()
        if code and deadline is None:
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    return code or first_failure()


def main() -> int:
    """Run the job, and again where it was preempted."""
    parser = argparse.ArgumentParser(description="Train with several processes on this machine.")
    parser.add_argument("--processes", type=int, default=2, help="of the job")
    parser.add_argument(
        "--cpu-devices", type=int, default=1, help="of each process; 0 takes what JAX finds"
    )
    parser.add_argument("--restarts", type=int, default=0, help="after preemptions, at most")
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=GRACE_SECONDS,
        help="after one process has ended with an error, until the others are killed",
    )
    parser.add_argument("arguments", nargs="+", help="of the training, after --")
    options = parser.parse_args()
    for restart in range(options.restarts + 1):
        if restart:
            print(f"restart {restart} of {options.restarts}", flush=True)
        processes = start(options.processes, options.cpu_devices, options.arguments)
        # Python runs it between two looks at the processes.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_, first=processes[0]: first.send_signal(signal.SIGTERM))
        code = wait(processes, options.grace_seconds)
        if code != EXIT_PREEMPTED:
            break
    return code


if __name__ == "__main__":
    sys.exit(main())
