"""A run from its config to its last checkpoint; experiments differ by config alone.

python -m bokeh_jax.training.train --config=configs/demo.py --workdir=runs/demo
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from bokeh_jax import config as config_lib
from bokeh_jax.command_line import CONFIG_EPILOG, Parser, add_train_arguments, run_and_exit_code
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import (
    checkpoint,
    hosts,
    panels,
    preemption,
    preflight,
    progress,
    sharding,
    writers,
)
from bokeh_jax.training.executables import compile_steps, loader_config
from bokeh_jax.training.log import log, log_of_process
from bokeh_jax.training.loop import Hooks, run_steps, saves_at
from bokeh_jax.training.prefetch import DevicePrefetch
from bokeh_jax.training.reporting import Reporter
from bokeh_jax.training.start import initial_state
from bokeh_jax.training.state import TrainState
from data_pipeline.loader import make_loader


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        state: the last state.
        stopped_early: a signal ended the loop before `training.num_steps`; the state is saved.
    """

    state: TrainState
    stopped_early: bool


def train(config: ExperimentConfig, workdir: str | Path, *, visible: bool = True) -> RunResult:
    """Trains `config` in `workdir`, from its newest checkpoint if it has one.

    Args:
        config: the experiment.
        workdir: receives config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        visible: show progress on stdout.

    Raises:
        InvalidInput: dataset, workdir, mesh or checkpoint do not fit the config.
    """
    workdir = Path(workdir)
    info = preflight.check_dataset(config)
    hosts.check_agreement(
        {
            "config": config_lib.to_json(config),
            "code": hosts.code_version(),
            "dataset": info.fingerprint,
        }
    )
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.training.global_batch_size, mesh)
    main_process = jax.process_index() == 0
    if main_process:
        preflight.check_writable(workdir)
    with (
        jax.set_mesh(mesh),
        checkpoint.open_checkpointer(workdir, config.training.keep_checkpoints) as checkpointer,
        preemption.stop_requests() as stop_requested,
    ):
        state, position = initial_state(config, workdir, mesh, info.fingerprint)
        if main_process:
            preflight.write_config(workdir, config)
        count = parameter_overview.count_parameters(state.params)
        log(
            f"model: {count:,} parameters; {mesh.size} device(s); "
            f"config {config_lib.config_hash(config)}; "
            f"dataset {info.counts[config.data.split]} scenes, {info.fingerprint}"
        )
        if position.next_step >= config.training.num_steps:
            log(f"nothing to train: already at step {position.next_step}")
            return RunResult(state, stopped_early=False)
        state, step = _train_from(
            config, workdir, state, position, mesh, checkpointer, stop_requested, visible
        )
    stopped = step < config.training.num_steps
    if stopped:
        log(f"stopped by a signal at step {step}; the same command continues from there")
    return RunResult(state, stopped_early=stopped)


def _train_from(
    config: ExperimentConfig,
    workdir: Path,
    state: TrainState,
    position: checkpoint.DataPosition,
    mesh: Mesh,
    checkpointer: checkpoint.Checkpointer,
    stop_requested: preemption.StopRequested,
    visible: bool,
) -> tuple[TrainState, int]:
    """The loop with its writer, screen and panels; saves where it stops."""
    main_process = jax.process_index() == 0
    writer = writers.open_writer(workdir, position.next_step) if main_process else None
    screen = progress.make_reporter(
        position.next_step, config.training.num_steps, visible=visible and main_process
    )
    draw = panels.make_panel(config, mesh)

    def save(state: TrainState, step: int) -> None:
        checkpoint.save(checkpointer, state, dataclasses.replace(position, next_step=step), config)

    def panel(state: TrainState, step: int) -> None:
        picture = draw(state.ema)
        if writer is not None:
            writer.image(step, "panel", picture)

    placement = sharding.batch_sharding(mesh)
    train_step = compile_steps(config, state, placement)
    loader = make_loader(
        loader_config(config),
        start_step=position.next_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        warn=log_of_process,
    )
    log(f"data: the next batch is of {loader.position_at(position.next_step)}")
    images_per_step = config.training.global_batch_size * config.simulation.cameras.num_targets
    reporter = Reporter(writer, screen, images_per_step, lambda: loader.num_replaced)
    hooks = Hooks(save, panel, reporter.report, stop_requested)
    with contextlib.closing(loader), screen, DevicePrefetch(loader, placement) as batches:
        state, step = run_steps(config, train_step, state, position.next_step, batches, hooks)
    if step > position.next_step and not saves_at(config, step):
        save(state, step)
    if writer is not None:
        writer.close()
    return state, step


def run_from_arguments(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Trains as the command line says; returns the exit code."""
    hosts.join(hosts.Hosts(arguments.coordinator, arguments.num_processes, arguments.process_index))
    config = config_lib.load(arguments.config, overrides)
    result = train(config, arguments.workdir)
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
