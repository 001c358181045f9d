"""Training jobs of real processes on this machine: started, watched, killed, and what they left."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig, resolve
from bokeh_jax.training import checkpoint, sharding
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parent.parent.parent
# For a machine that does much else besides; where all is well nothing waits so long.
PATIENCE_SECONDS = float(os.environ.get("TEST_PATIENCE_SECONDS", "400"))
# Added to the tests' own (conftest.py), by which jobs are compiled as the tests' steps are.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    # Jobs are many and alike: what one has compiled, however small, the others read.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def write_config(path: Path, tiny: ExperimentConfig, **groups: dict) -> ExperimentConfig:
    """An experiment file with `tiny` and what is changed in its groups."""
    changes = json.loads(config_lib.to_json(tiny))
    for group, values in groups.items():
        changes[group] |= values
    path.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({json.dumps(changes)!r}))\n"
    )
    return resolve(changes)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def run_ready(program: str, *arguments: list[str]) -> list[subprocess.Popen]:
    """Processes of a program, one for each list of arguments; all have said that they are ready."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *own],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return processes


@dataclasses.dataclass
class Job:
    """A running job; what it prints is in `log`."""

    process: subprocess.Popen
    log: Path
    workdir: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Until something is to be seen of a job that has not ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.clear_away()
                raise AssertionError(self.said()[-3000:])
            time.sleep(0.005)

    def clear_away(self) -> None:
        """End whatever of it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for(self, text: str) -> None:
        self.wait_until(lambda: text in self.said())

    def wait_for_step(self, step: int) -> None:
        """Until it has said what a step computed (of which the next is then on the device)."""
        self.wait_for(f"step {step}/")

    def wait_for_save(self, step: int) -> None:
        """Until a checkpoint is whole."""
        self.wait_until(lambda: step in checkpoint.steps(self.workdir))

    def wait_for_begun_save(self, step: int) -> None:
        """Until a checkpoint is being written (or has just become whole)."""
        # What an earlier start has left half-written is cleared away before this line.
        self.wait_for("data: the next batch")
        folder = self.workdir / checkpoint.FOLDER
        self.wait_until(
            lambda: any(entry.name.split(".")[0] == str(step) for entry in folder.iterdir())
        )

    def child(self, number: int) -> int:
        """The process that has `--process-index=number`, among the launcher's children."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and f"--process-index={number}" in command:
                return int(entry.name)
        raise AssertionError(f"no process {number} under {self.process.pid}")

    def end(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.clear_away()
            raise AssertionError(self.said()[-3000:]) from None


def start(
    config: Path,
    workdir: Path,
    *overrides: str,
    processes: int = 1,
    launcher: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Job:
    """A job of one process, or `launch/local.py` with several.

    Args:
        config: experiment file.
        workdir: of the run.
        overrides: such as "training.num_steps=3".
        processes: of the job.
        launcher: flags of `launch/local.py`.
        flags: of the training.
        environment: added to this process's.
    """
    arguments = [f"--config={config}", f"--workdir={workdir}", *flags]
    arguments += [f"--config.{override}" for override in overrides]
    if processes == 1:
        command = [sys.executable, "-m", "bokeh_jax.training.train", *arguments]
    else:
        command = [sys.executable, str(ROOT / "launch" / "local.py"), *launcher]
        command += [f"--processes={processes}", "--grace-seconds=3", "--", *arguments]
    number = len(list(workdir.parent.glob(f"{workdir.name}.*.log")))
    log = workdir.parent / f"{workdir.name}.{number}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Job(process, log, workdir)


def load_state(config: ExperimentConfig, workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint's state by name, and its data position."""
    mesh = sharding.make_mesh(config.mesh)
    state, position = checkpoint.restore(workdir, step, config, mesh)
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(state)
    }
    return leaves | {"next_step": np.asarray(position.next_step)}


def assert_same_state(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    """Bitwise, every leaf."""
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        assert leaf.dtype == second[name].dtype
        assert leaf.tobytes() == second[name].tobytes(), name


# What a step computes; the others are times.
COMPUTED = ("loss", "flow_loss", "stacking_loss", "gradient_norm", "learning_rate")
COMPUTED += ("sample_psnr_db", "guess_psnr_db", "batch_checksum", "lost_steps")


def computed(workdir: Path) -> list[dict[str, float]]:
    """What every step computed, one entry a reported step."""
    lines = read_metrics(workdir / METRICS_FILE)
    return [{"step": line["step"]} | {name: line[name] for name in COMPUTED} for line in lines]
