"""The processes of one job: how they find each other, and what they must agree on.

By hand, every process is told the same address and count and its own number:

    --coordinator=HOST:PORT --num-processes=N --process-index=I

Under Slurm, on a TPU pod or in a GKE job nothing is told: what JAX finds in the environment is
used, where that is of more than one process (`schedulers`). A failure to meet the others ends the
process: a job of N processes never goes on as N jobs of one.

A job whose processes read different configs, code or data would train on nonsense, or hang where
one of them waits for the others. So each shows the digests of its own before anything is compiled.
"""

import argparse
import dataclasses
import hashlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import bokeh_jax
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.log import log_of_process
from bokeh_jax.training.schedulers import sign_of_a_job

_DIGEST_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How this process joins its job.

    Attributes:
        coordinator: address of process 0, HOST:PORT; None for what the environment says.
        num_processes: of the job; None likewise.
        process_index: this one's number; None likewise.
        timeout_seconds: how long to wait for the others.
        heartbeat_timeout_seconds: a process that is not heard of for so long is taken for dead, and
            JAX ends its partners (SIGABRT).
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_index: int | None = None
    timeout_seconds: int = 300
    heartbeat_timeout_seconds: int = 100

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "Hosts":
        """Of a command line (`command_line.add_job_arguments`)."""
        return cls(
            arguments.coordinator,
            arguments.num_processes,
            arguments.process_index,
            arguments.join_timeout_seconds,
            arguments.heartbeat_timeout_seconds,
        )

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
        for name in ("timeout_seconds", "heartbeat_timeout_seconds"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; allowed: 1 or more")
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

    Raises:
        InvalidInput: a scheduler has started several processes, and JAX cannot tell which.
    """
    sign = sign_of_a_job(environment)
    if hosts.coordinator is None and sign is None:
        return
    number = "?" if hosts.process_index is None else hosts.process_index
    print(
        f"process {number} of {hosts.num_processes or '?'}: waiting for the others at "
        f"{hosts.coordinator or f'the address that the environment gives ({sign})'}, "
        f"up to {hosts.timeout_seconds} s",
        file=sys.stderr,
        flush=True,
    )
    # `preemption` handles SIGTERM; JAX's service would take the signal from it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.num_processes,
            hosts.process_index,
            initialization_timeout=hosts.timeout_seconds,
            heartbeat_timeout_seconds=hosts.heartbeat_timeout_seconds,
        )
    except ValueError as error:
        # Not a failure to connect: JAX does not know with whom.
        raise InvalidInput(
            f"this process is one of several ({sign}), but JAX does not find the others: {error} "
            "allowed: an environment that JAX reads, or all of --coordinator, --num-processes and "
            "--process-index"
        ) from error
    log_of_process(f"one of {jax.process_count()}, on {socket.gethostname()}")


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
