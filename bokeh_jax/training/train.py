"""The training loop. There is one; experiments differ by config, objectives by a pure function.

    python -m bokeh_jax.training.train --config=configs/demo.py --workdir=runs/demo

Priority of the starting state: the run's own newest checkpoint, else a fresh start; the log says
which.
"""

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from bokeh_jax import config as config_lib
from bokeh_jax.command_line import CONFIG_EPILOG, Parser, add_train_arguments, run_and_exit_code
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
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
from bokeh_jax.training.prefetch import DevicePrefetch
from bokeh_jax.training.reporting import Reporter, Window
from bokeh_jax.training.state import TrainState, abstract_state, create_state
from bokeh_jax.training.step import TrainStep, abstract_batch, by_shape, compile_step
from data_pipeline.loader import LoaderConfig, make_loader, shapes


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        state: the last state.
        stopped_early: a signal ended the loop before `training.num_steps`; the state is saved.
    """

    state: TrainState
    stopped_early: bool


def _log(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _log_anywhere(text: str) -> None:
    """What concerns one process's share of the data is said by that process."""
    print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)


def _initial_state(
    config: ExperimentConfig, workdir: Path, mesh: Mesh, fingerprint: str
) -> tuple[TrainState, checkpoint.DataPosition]:
    if checkpoint.steps(workdir):
        step = checkpoint.existing_step(workdir)
        state, position = checkpoint.restore(workdir, step, config, mesh)
        if position.dataset_fingerprint != fingerprint:
            raise InvalidInput(
                f"dataset {config.data.path} has fingerprint {fingerprint}; allowed: "
                f"{position.dataset_fingerprint}, with which {workdir} was trained to step {step}"
            )
        _log(f"state: resumed from {workdir} at step {step}")
        return state, position
    shardings = sharding.state_shardings(mesh, abstract_state(config))
    state = jax.jit(lambda: create_state(config), out_shardings=shardings)()
    _log(f"state: fresh start, seed {config.seed}")
    return state, checkpoint.DataPosition(0, config.seed, fingerprint)


def _loader_config(config: ExperimentConfig) -> LoaderConfig:
    return LoaderConfig(
        path=Path(config.data.path),
        split=config.data.split,
        global_batch_size=config.training.global_batch_size,
        seed=config.seed,
        num_workers=config.data.num_workers,
        weights=preflight.source_weights(config) or None,
        on_bad_record=config.data.on_bad_record,
    )


def _compile_steps(
    config: ExperimentConfig, state: TrainState, placement: jax.sharding.NamedSharding
) -> TrainStep:
    """One executable for every shape that the loader can bring; they are listed."""
    steps = []
    for shape in shapes(_loader_config(config)):
        started = time.monotonic()
        batch = abstract_batch(shape, config.training.global_batch_size, placement)
        steps.append((batch, compile_step(config, state, batch)))
        frame = config.simulation.frame_of((shape.height_px, shape.width_px))
        _log(
            f"step compiled in {time.monotonic() - started:.1f} s: {shape.kind}, stored "
            f"{shape.height_px}x{shape.width_px} px, working frame {frame[0]}x{frame[1]} px, "
            f"{100 * shape.share:.1f} % of batches"
        )
    return by_shape(steps)


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop does besides stepping."""

    save: Callable[[TrainState, int], None]
    panel: Callable[[TrainState, int], None]
    report: Callable[[int, Window], None]
    stop_requested: preemption.StopRequested


def _saves_at(config: ExperimentConfig, step: int) -> bool:
    """Whether the loop itself saves after the update that makes `step`."""
    settings = config.training
    return step == settings.num_steps or step % settings.checkpoint_every_steps == 0


def run_steps(
    config: ExperimentConfig,
    train_step: TrainStep,
    state: TrainState,
    first_step: int,
    batches: Iterator[dict[str, jax.Array]],
    hooks: Hooks,
) -> tuple[TrainState, int]:
    """Runs from `first_step` to the end or to a stop request -> (state, steps done).

    INVARIANTS, each guarded by a test:
      * At the top of the loop `step` updates are done and `step` batches used; state.step == step.
      * A save holds state and data position after the same update. Batches that wait on the device
        by then are drawn again after a restart: which ones they are is a function of the step.
      * Values are read one step after they were asked for, when the next step is already queued:
        the device never waits for the host.
      * Nothing compiles here: `train_step` is executables, one a shape; another shape raises.
      * Every implicit transfer between host and device is an error.
    """
    settings = config.training
    step, window, due = first_step, Window(), None
    while step < settings.num_steps and not hooks.stop_requested(step):
        waiting_since = time.monotonic()
        batch = next(batches)
        waited_seconds = time.monotonic() - waiting_since
        with jax.transfer_guard("disallow"):
            state, metrics = train_step(state, batch)
        step += 1
        window = window.with_step(metrics, waited_seconds)
        if due is not None:
            hooks.report(*due)
            due = None
        last = step == settings.num_steps
        if last or step % settings.log_every_steps == 0:
            due, window = (step, window), Window()
        if last or step % settings.image_every_steps == 0:
            hooks.panel(state, step)
        if _saves_at(config, step):
            hooks.save(state, step)
    if due is not None:
        hooks.report(*due)
    return state, step


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
        state, position = _initial_state(config, workdir, mesh, info.fingerprint)
        if main_process:
            preflight.write_config(workdir, config)
        count = parameter_overview.count_parameters(state.params)
        _log(
            f"model: {count:,} parameters; {mesh.size} device(s); "
            f"config {config_lib.config_hash(config)}; "
            f"dataset {info.counts[config.data.split]} scenes, {info.fingerprint}"
        )
        if position.next_step >= config.training.num_steps:
            _log(f"nothing to train: already at step {position.next_step}")
            return RunResult(state, stopped_early=False)
        state, step = _train_from(
            config, workdir, state, position, mesh, checkpointer, stop_requested, visible
        )
    stopped = step < config.training.num_steps
    if stopped:
        _log(f"stopped by a signal at step {step}; the same command continues from there")
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
    train_step = _compile_steps(config, state, placement)
    loader = make_loader(
        _loader_config(config),
        start_step=position.next_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        warn=_log_anywhere,
    )
    _log(f"data: the next batch is of {loader.position_at(position.next_step)}")
    images_per_step = config.training.global_batch_size * config.simulation.cameras.num_targets
    reporter = Reporter(writer, screen, images_per_step, lambda: loader.num_replaced)
    hooks = Hooks(save, panel, reporter.report, stop_requested)
    with contextlib.closing(loader), screen, DevicePrefetch(loader, placement) as batches:
        state, step = run_steps(config, train_step, state, position.next_step, batches, hooks)
    if step > position.next_step and not _saves_at(config, step):
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
