"""The executables of a run: one for every shape that its loader can bring, compiled ahead."""

import time
from pathlib import Path
from typing import Any

import jax

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import preflight
from bokeh_jax.training.log import log
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.step import TrainStep, abstract_batch, by_shape, compile_step
from data_pipeline.loader import LoaderConfig, Shape, shapes


def loader_config(config: ExperimentConfig) -> LoaderConfig:
    """What the config asks of the loader."""
    return LoaderConfig(
        path=Path(config.data.path),
        split=config.data.split,
        global_batch_size=config.training.global_batch_size,
        seed=config.seed,
        num_workers=config.data.num_workers,
        weights=preflight.source_weights(config) or None,
        on_bad_record=config.data.on_bad_record,
        **preflight.arrays_read(config),
    )


def _frames(config: ExperimentConfig, shape: Shape) -> str:
    stored = f"{shape.height_px}x{shape.width_px}"
    if shape.latents is not None:
        return f"{stored} cells"
    if config.task == "focus":
        return f"{stored} px"
    frame = config.simulation.frame_of((shape.height_px, shape.width_px))
    return f"stored {stored} px, working frame {frame[0]}x{frame[1]} px"


def compile_steps(
    config: ExperimentConfig,
    state: TrainState,
    frozen: Any,
    placement: jax.sharding.NamedSharding,
) -> TrainStep:
    """One executable for every shape that the loader can bring; they are listed."""
    steps = []
    for shape in shapes(loader_config(config)):
        started = time.monotonic()
        batch = abstract_batch(shape, config.training.global_batch_size, placement)
        steps.append((batch, compile_step(config, state, frozen, batch)))
        log(
            f"step compiled in {time.monotonic() - started:.1f} s: {shape.kind}, "
            f"{_frames(config, shape)}, {100 * shape.share:.1f} % of batches"
        )
    return by_shape(steps, frozen)
