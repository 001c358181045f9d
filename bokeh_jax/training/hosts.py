"""The processes of one job: how they find each other, and what they must agree on.

By hand, every process is told the same address and count and its own number:

    --coordinator=HOST:PORT --num-processes=N --process-index=I

Under Slurm, on a TPU pod or in a GKE job nothing is told: what JAX finds in the environment is
used, where that names more than one process. A failure to meet the others ends the process: a job
of N processes never goes on as N jobs of one.

A job whose processes read different configs, code or data would train on nonsense, or hang where
one of them waits for the others. So each shows the digests of its own before anything is compiled.
"""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import bokeh_jax
from bokeh_jax.errors import InvalidInput

# Variables that name the processes of a job that a scheduler has started, with what separates them.
_JOBS = {"SLURM_STEP_NUM_TASKS": None, "TPU_WORKER_HOSTNAMES": ",", "MEGASCALE_NUM_SLICES": None}
_DIGEST_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How this process joins its job.

    Attributes:
        coordinator: address of process 0, HOST:PORT; None for what the environment says.
        num_processes: of the job; None likewise.
        process_index: this one's number; None likewise.
        timeout_seconds: how long to wait for the others.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_index: int | None = None
    timeout_seconds: int = 300

    def __post_init__(self):
        named = {
            "coordinator": self.coordinator,
            "num_processes": self.num_processes,
            "process_index": self.process_index,
        }
        missing = [name for name, value in named.items() if value is None]
        if missing and len(missing) < len(named):
            raise InvalidInput(
                f"{' and '.join(missing)} not given; allowed: all of {', '.join(named)}, or none"
            )
        if self.num_processes is not None and self.process_index is not None:
            if self.num_processes < 1:
                raise InvalidInput(f"num_processes is {self.num_processes}; allowed: 1 or more")
            if not 0 <= self.process_index < self.num_processes:
                raise InvalidInput(
                    f"process_index is {self.process_index}; allowed: 0 to {self.num_processes - 1}"
                )


def join(hosts: Hosts, environment: Mapping[str, str] = os.environ) -> None:
    """Meet the other processes of the job; to be called before JAX is asked for devices.

    Where they do not come within the time, JAX ends the process (SIGABRT); the line that stands
    before that in its log says what it waited for.
    """
    if hosts.coordinator is None and not _is_started_by_scheduler(environment):
        return
    number = "?" if hosts.process_index is None else hosts.process_index
    print(
        f"process {number} of {hosts.num_processes or '?'}: waiting for the others at "
        f"{hosts.coordinator or 'the address that the environment gives'}, "
        f"up to {hosts.timeout_seconds} s",
        file=sys.stderr,
        flush=True,
    )
    jax.distributed.initialize(
        hosts.coordinator,
        hosts.num_processes,
        hosts.process_index,
        initialization_timeout=hosts.timeout_seconds,
    )


def _is_started_by_scheduler(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a job of more than one process."""
    for name, separator in _JOBS.items():
        value = environment.get(name, "")
        count = len(value.split(separator)) if separator else int(value) if value.isdigit() else 0
        if count > 1:
            return True
    return False


def code_version() -> str:
    """SHA-256 of the package's and the pipeline's own source files, in order."""
    digest = hashlib.sha256()
    root = Path(bokeh_jax.__file__).parent
    for folder in (root, root.parent / "data_pipeline"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(root.parent)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def check_agreement(values: Mapping[str, str]) -> None:
    """Make sure that all processes have the same values.

    Args:
        values: by name, such as `config`; the same names on every process.

    Raises:
        InvalidInput: on every process, naming what differs and where.
    """
    if jax.process_count() == 1:
        return
    own = [hashlib.sha256(value.encode()).digest() for value in values.values()]
    mine = np.frombuffer(b"".join(own), np.uint8).reshape(len(own), _DIGEST_BYTES)
    found = np.asarray(multihost_utils.process_allgather(mine))
    differing = [
        f"{name} (process {', '.join(map(str, np.flatnonzero(others).tolist()))})"
        for index, name in enumerate(values)
        if (others := (found[:, index] != found[0, index]).any(axis=-1)).any()
    ]
    if differing:
        raise InvalidInput(
            f"processes of the job differ from process 0 in {'; '.join(differing)}; allowed: one "
            "config, one version of the code and one dataset on all of them"
        )
