"""Saving checkpoints: asynchronous, atomic, the newest n and every k-th kept.

A save copies the state to the host and returns; files are written while training goes on. What goes
wrong there comes to light at the next save, or at the end of the run at the latest: as one line
that names the newest checkpoint that is whole. Old checkpoints are removed after the new one is on
disk, so a full disk never costs the last good one.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig, TrainingConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import hosts
from bokeh_jax.training.checkpoint import directory, steps
from bokeh_jax.training.checkpoint_record import DataPosition, Record
from bokeh_jax.training.checksums import checksums
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.storage import hush, system_reason


@dataclasses.dataclass(frozen=True)
class Saver:
    """Saves the checkpoints of one run.

    Attributes:
        orbax: does the work.
        workdir: of the run.
        config: of the run.
        code_version: of the running code.
        frozen: digest of the parameters that are not trained.
    """

    orbax: ocp.training.Checkpointer
    workdir: epath.PathLike
    config: ExperimentConfig
    code_version: str
    frozen: str

    def save(self, state: TrainState, position: DataPosition) -> None:
        """Starts a save of one moment: state and data position after the same update.

        Waits for the state and for the save before, if that still goes on.

        Raises:
            InvalidInput: this save or the one before could not be written.
        """
        config = json.loads(config_lib.to_json(self.config))
        record = Record(position, config, self.code_version, checksums(state), self.frozen)
        with _one_line_errors(self.workdir):
            started = self.orbax.save_checkpointables_async(
                position.next_step, {"state": state}, custom_metadata=record.to_json()
            )
        if started is None:
            raise RuntimeError(f"Orbax declined to save step {position.next_step}")

    def wait(self) -> None:
        """Waits for what is still being written.

        Raises:
            InvalidInput: it could not be.
        """
        with _one_line_errors(self.workdir):
            self.orbax.wait()


def preserved(training: TrainingConfig) -> Any:
    """Which checkpoints stay: the newest `keep_checkpoints`, every `keep_every_steps`-th step."""
    policies = ocp.training.preservation_policies
    newest = policies.LatestN(training.keep_checkpoints)
    if not training.keep_every_steps:
        return newest
    return policies.AnyPreservationPolicy([newest, policies.EveryNSteps(training.keep_every_steps)])


@contextlib.contextmanager
def open_saver(
    workdir: epath.PathLike, config: ExperimentConfig, frozen: str = ""
) -> Iterator[Saver]:
    """The saver of a run; at the end it waits for what is still being written.

    Remains of saves that were killed are removed when it opens.

    Raises:
        InvalidInput: the folder cannot be written, at the start or by the last save.
    """
    # Orbax's own policies do not match its protocols in the type checker's eyes.
    always: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    hush()
    folder = directory(workdir)
    with _one_line_errors(workdir):
        # Orbax would say nothing of a file in the folder's place until it saves.
        folder.mkdir(parents=True, exist_ok=True)
        orbax = ocp.training.Checkpointer(
            folder,
            preservation_policy=preserved(config.training),
            save_decision_policy=always,
            cleanup_tmp_directories=True,
        )
    try:
        yield Saver(orbax, workdir, config, hosts.code_version(), frozen)
    except BaseException:
        # Why the run ends is known; a save that fails as well would hide it.
        with contextlib.suppress(Exception):
            orbax.close()
        raise
    with _one_line_errors(workdir):
        orbax.close()


@contextlib.contextmanager
def _one_line_errors(workdir: epath.PathLike) -> Iterator[None]:
    """Turns what the file system refuses into InvalidInput; bugs keep their tracebacks."""
    try:
        yield
    except Exception as error:
        reason = system_reason(error)
        if reason is None:
            raise
        whole = _steps_or_none(workdir)
        newest = f"the newest whole one is step {whole[-1]}" if whole else "there is none before it"
        raise InvalidInput(
            f"checkpoint could not be written to {directory(workdir)} ({reason}); {newest}; "
            "allowed: a folder that this user may write, with room for one checkpoint more than "
            "are kept; the same command continues"
        ) from error


def _steps_or_none(workdir: epath.PathLike) -> list[int]:
    try:
        return steps(workdir)
    except OSError:
        return []
