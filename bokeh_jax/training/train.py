"""A run from its config to its last checkpoint; experiments differ by config alone.

python -m bokeh_jax.training.train --config=configs/demo.py --workdir=runs/demo
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from bokeh_jax import config as config_lib
from bokeh_jax.command_line import CONFIG_EPILOG, Parser, add_train_arguments, run_and_exit_code
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.models.codec import CODEC
from bokeh_jax.training import (
    hosts,
    nonfinite,
    overview,
    preemption,
    preflight,
    sharding,
    watchdog,
)
from bokeh_jax.training.frozen import digest as frozen_digest
from bokeh_jax.training.frozen import frozen_parameters
from bokeh_jax.training.log import log, log_of_process
from bokeh_jax.training.observer import Observer, observe
from bokeh_jax.training.profiling import StepRange, check_steps, parse_steps
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.session import Session, compiled
from bokeh_jax.training.start import Restore, initial_state
from bokeh_jax.training.state import TrainState
from data_pipeline.dataset import DatasetInfo


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        state: the last state.
        stopped_early: a signal ended the loop before `training.num_steps`; the state is saved.
    """

    state: TrainState
    stopped_early: bool


@dataclasses.dataclass(frozen=True)
class _Guards:
    """What lies around the whole of a run in this process."""

    stop_requested: preemption.StopRequested
    watch: watchdog.Progress
    observer: Observer


def train(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    visible: bool = True,
    profile_steps: StepRange | None = None,
    restore: Restore = "latest",
) -> RunResult:
    """Trains `config` in `workdir`, from its newest checkpoint if it has one.

    Args:
        config: the experiment.
        workdir: receives config.json, parameters.txt, metrics.jsonl, goodput.jsonl, tensorboard/,
            checkpoints/ and profile/.
        visible: show progress on stdout.
        profile_steps: steps of which a profiler trace is written.
        restore: what to do where the newest checkpoint is damaged: `latest` stops, `latest_good`
            goes on from the newest that is whole.

    Raises:
        InvalidInput: dataset, workdir, mesh, checkpoint or profile_steps do not fit the config.
        NonfiniteStep: `training.on_nonfinite` ends the run.
    """
    started, workdir = time.time(), Path(workdir)
    check_steps(profile_steps, config.training.num_steps)
    # Outermost, so that what comes while saves are being finished is seen too.
    with (
        watchdog.watched(config.training.stall_timeout_seconds) as watch,
        preemption.stop_requests() as stop_requested,
    ):
        info, mesh = _checked(config, workdir)
        with (
            observe(config, workdir, profile_steps, started=started) as observer,
            jax.set_mesh(mesh),
        ):
            guards = _Guards(stop_requested, watch, observer)
            return _train(config, workdir, info, mesh, guards, restore, visible)


def _checked(config: ExperimentConfig, workdir: Path) -> tuple[DatasetInfo, Mesh]:
    """What can be refused before anything is written or compiled is refused here."""
    info = preflight.check_dataset(config)
    hosts.check_agreement(
        {
            "config": config_lib.to_json(config),
            "code": hosts.code_version(),
            "dataset": info.fingerprint,
        }
    )
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_fits(config, mesh)
    if jax.process_index() == 0:
        preflight.check_writable(workdir)
    return info, mesh


def _train(
    config: ExperimentConfig,
    workdir: Path,
    info: DatasetInfo,
    mesh: Mesh,
    guards: _Guards,
    restore: Restore,
    visible: bool,
) -> RunResult:
    frozen, said = frozen_parameters(config, mesh)
    if said:
        log("\n".join(said))
    digest = frozen_digest(frozen)
    if info.latents is not None:
        preflight.check_same_codec(config, info, frozen_digest({CODEC: frozen[CODEC]}))
    state, position = initial_state(config, workdir, mesh, info.fingerprint, restore, digest)
    if jax.process_index() == 0:
        preflight.write_config(workdir, config)
    count = parameter_overview.count_parameters(state.params)
    log(
        f"model: {count:,} parameters{_and_frozen(frozen)}; {mesh.size} device(s); "
        f"config {config_lib.config_hash(config)}; "
        f"dataset {info.counts[config.data.split]} scenes, {info.fingerprint}"
    )
    if said_of_text := preflight.said_of_text(config, info):
        log(said_of_text)
    _log_overview(workdir, state, frozen, mesh)
    if position.next_step >= config.training.num_steps:
        log(f"nothing to train: already at step {position.next_step}")
        return RunResult(state, stopped_early=False)
    guards.observer.starts()
    with open_saver(workdir, config, digest) as saver:
        with guards.observer.compiling():
            train_step, draw = compiled(config, mesh, state, frozen)
        session = Session(
            config=config,
            workdir=workdir,
            mesh=mesh,
            saver=saver,
            stop_requested=guards.stop_requested,
            watch=guards.watch,
            observer=guards.observer,
            train_step=train_step,
            draw=draw,
            judge=nonfinite.make_judge(config, workdir),
            frozen_digest=digest,
            visible=visible,
        )
        state, step = session.run(state, position)
    guards.observer.ends(step)
    stopped = step < config.training.num_steps
    if stopped:
        log(f"stopped by a signal at step {step}; the same command continues from there")
    return RunResult(state, stopped_early=stopped)


def _and_frozen(frozen: dict[str, Any]) -> str:
    if not frozen:
        return ""
    return f" trained, {parameter_overview.count_parameters(frozen):,} frozen"


def _log_overview(workdir: Path, state: TrainState, frozen: dict[str, Any], mesh: Mesh) -> None:
    """The table of parameters: into the run's folder, and onto the log where there is a mesh."""
    table = "\n".join(overview.parameter_table(state, frozen))
    if jax.process_index() == 0:
        (workdir / "parameters.txt").write_text(f"{table}\n", encoding="utf-8")
    if mesh.size > 1:
        log(table)
    log(f"{overview.totals(state, frozen)}; each parameter: {workdir / 'parameters.txt'}")
    for line in overview.warnings(state, frozen, mesh):
        log(line)


def run_from_arguments(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Trains as the command line says; returns the exit code."""
    profile_steps = parse_steps(arguments.profile_steps)
    with preemption.stop_requests():
        hosts.join(hosts.Hosts.from_arguments(arguments))
        config = config_lib.load(arguments.config, overrides)
        try:
            result = train(
                config, arguments.workdir, restore=arguments.restore, profile_steps=profile_steps
            )
        except nonfinite.NonfiniteStep as found:
            log_of_process(f"error: {found}")
            return nonfinite.EXIT_NONFINITE
    return preemption.EXIT_PREEMPTED if result.stopped_early else 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m bokeh_jax.training.train`."""

    def make_parser() -> argparse.ArgumentParser:
        parser = Parser(
            prog="bokeh_jax.training.train",
            description="Train an experiment, or continue it from its newest checkpoint.",
            epilog=CONFIG_EPILOG,
        )
        add_train_arguments(parser)
        return parser

    return run_and_exit_code(make_parser, run_from_arguments, argv)


if __name__ == "__main__":
    sys.exit(main())
