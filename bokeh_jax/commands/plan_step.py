"""Compiles the real train step for chips that are not there, and counts what it asks of one.

Memory of a chip = state + batch + temporaries + program. State and batch are what the shardings
say; the rest is the compiler's `memory_analysis()`: as it will be laid out, tiles filled up.
"""

import dataclasses
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax

from bokeh_jax.chips import Chip, chip_of_topology
from bokeh_jax.commands.hlo_cost import count_program
from bokeh_jax.commands.hlo_text import executed
from bokeh_jax.commands.plan_collectives import (
    Collective,
    Mesh,
    collectives,
    largest_gather_bytes,
)
from bokeh_jax.commands.plan_time import Kernel, StepTime, pallas_kernels, step_time
from bokeh_jax.commands.tpu_compiler import topology_devices, without_cache
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.flops import refocus_training_flops
from bokeh_jax.objectives.refocus import simulate
from bokeh_jax.training import preflight, sharding
from bokeh_jax.training.overview import bytes_a_device
from bokeh_jax.training.rng import example_keys
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.step import abstract_batch, compile_step
from data_pipeline.order import Shape

_DAY_SECONDS = 86_400
_USED = re.compile(r"Used ([\d.]+[KMG]?) of ([\d.]+[KMG]?) hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's main memory.

    Attributes:
        parameters, optimizer, ema, frozen, batch: by their shardings.
        temporaries: activations and all else that lives within a step, at the highest.
        program: the compiled code.
        total: the compiler's sum, tiles filled up.
        capacity: what there is.
    """

    parameters: int
    optimizer: int
    ema: int
    frozen: int
    batch: int
    temporaries: int
    program: int
    total: int
    capacity: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What one chip does in one step, as compiled.

    Attributes:
        flops: also what is computed twice, and the lens blur.
        bytes_accessed: at every level of memory.
        collectives, kernels: all of them.
        largest_gather_bytes: the largest result of an all-gather or all-reduce.
        time: of the step, in seconds, by two estimates.
    """

    flops: float
    bytes_accessed: float
    collectives: list[Collective]
    kernels: list[Kernel]
    largest_gather_bytes: int
    time: StepTime


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """A step, compiled for a topology.

    Attributes:
        topology, num_slices, num_chips: what for.
        mesh: sizes of its axes.
        global_batch_size: scenes a step.
        images: photographs that the network predicts a step: scenes times targets.
        frame_px: height and width of the working frame.
        scenes: shape of the stored scenes.
        simulation: whether the step makes its photographs, as the real one does.
        remat, attention: of the model.
        num_parameters: in all.
        parameter_bytes: of all of them, float32.
        memory: of one chip.
        model_flops: of one chip and step, forward and backward, by `models/flops.py`.
        work: of one chip and step.
        peak_flops_per_s: of one chip.
        compile_seconds: on this machine.
    """

    topology: str
    num_slices: int
    num_chips: int
    mesh: dict[str, int]
    global_batch_size: int
    images: int
    frame_px: tuple[int, int]
    scenes: str
    simulation: bool
    remat: str
    attention: str
    num_parameters: int
    parameter_bytes: int
    memory: Memory
    model_flops: float
    work: Work
    peak_flops_per_s: float
    compile_seconds: float

    def mfu(self, seconds: float) -> float:
        """Share of the peak that the model's operations are, in a step of so many seconds."""
        return self.model_flops / (seconds * self.peak_flops_per_s)

    def images_per_day(self, seconds: float) -> float:
        """Photographs that all chips train on in a day."""
        return self.images * _DAY_SECONDS / seconds


def plan_step(
    config: ExperimentConfig,
    topology: str,
    num_slices: int,
    shape: Shape,
    *,
    simulation: bool = True,
    program: Path | None = None,
) -> StepPlan:
    """Compiles and counts.

    Args:
        config: the experiment.
        topology: of one slice, such as v5p:4x4x4.
        num_slices: how many of them.
        shape: of the scenes' batches.
        simulation: without, the step is given its photographs; that compiles much faster.
        program: a file for the compiled program's text.

    Raises:
        InvalidInput: libtpu is missing or refuses the topology, the mesh does not fit it, or the
            step does not fit into the chips' memory.
    """
    chip = chip_of_topology(topology, "--topology")
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology, "--topology", num_slices))
    check_plan(config, mesh)
    # Before the mesh is set: nothing can run on its chips, not even the making of a key.
    state = sharding.placed_state(config, mesh)
    frozen = sharding.placed_frozen(config, mesh)
    batch = _batch(config, mesh, shape, simulation=simulation)
    with jax.set_mesh(mesh):
        compiled, compile_seconds = _compiled(config, state, frozen, batch, topology)
    if program is not None:
        program.write_text(compiled.as_text(), encoding="utf-8")
    frame, grid = _frame_and_grid(config, shape)
    images = config.training.global_batch_size * config.simulation.cameras.num_targets
    leaves = jax.tree.leaves((state.params, frozen))
    return StepPlan(
        topology=topology,
        num_slices=num_slices,
        num_chips=mesh.size,
        mesh=dict(mesh.shape),
        global_batch_size=config.training.global_batch_size,
        images=images,
        frame_px=frame,
        scenes=str(shape),
        simulation=simulation,
        remat=config.model.remat,
        attention=config.model.attention,
        num_parameters=sum(leaf.size for leaf in leaves),
        parameter_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        memory=_memory(state, frozen, batch, compiled.memory_analysis(), chip),
        model_flops=images * refocus_training_flops(config.model, *grid) / mesh.size,
        work=_work(compiled, mesh, chip),
        peak_flops_per_s=chip.flops_per_s,
        compile_seconds=compile_seconds,
    )


def _frame_and_grid(
    config: ExperimentConfig, shape: Shape
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels of the working frame, and its cells in the codec's grid."""
    stored = (shape.height_px, shape.width_px)
    if shape.latents is None:
        return config.simulation.frame_of(stored), config.grid_of(stored)
    height_px, width_px = (side * config.codec.downsampling for side in stored)
    return (height_px, width_px), stored


def _memory(
    state: TrainState, frozen: Any, batch: dict[str, Any], analysis: Any, chip: Chip
) -> Memory:
    return Memory(
        parameters=bytes_a_device(state.params),
        optimizer=bytes_a_device(state.opt_state),
        ema=bytes_a_device(state.ema),
        frozen=bytes_a_device(frozen),
        batch=bytes_a_device(batch),
        temporaries=analysis.temp_size_in_bytes,
        program=analysis.generated_code_size_in_bytes,
        total=analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes,
        capacity=chip.memory_bytes,
    )


def _work(compiled: Any, mesh: jax.sharding.Mesh, chip: Chip) -> Work:
    text = compiled.as_text()
    found = executed(text)
    count = count_program(text, jax.devices()[0].client)
    moved, kernels = collectives(found, Mesh.of(mesh), chip), pallas_kernels(found)
    estimate = compiled.cost_analysis().get("optimal_seconds", 0.0)
    return Work(
        flops=count.flops + sum(one.times * one.flops for one in kernels),
        bytes_accessed=count.bytes_accessed
        + sum(one.times * one.bytes_accessed for one in kernels),
        collectives=moved,
        kernels=kernels,
        largest_gather_bytes=largest_gather_bytes(moved),
        time=step_time(found, moved, kernels, estimate, chip),
    )


def check_plan(config: ExperimentConfig, mesh: jax.sharding.Mesh) -> None:
    """What need not be compiled to be refused.

    Raises:
        InvalidInput: the batch, the heads, the MLP or the patches do not divide.
    """
    sharding.check_fits(config, mesh)
    preflight.check_patches(config)


def _batch(
    config: ExperimentConfig, mesh: jax.sharding.Mesh, shape: Shape, *, simulation: bool
) -> dict[str, Any]:
    """Shapes of a batch on the mesh: of scenes, or of the photographs made of them."""
    placement = sharding.batch_sharding(mesh)
    batch = abstract_batch(shape, config.training.global_batch_size, placement)
    if simulation:
        return batch
    keys = jax.eval_shape(
        lambda: example_keys(jax.random.key(0), config.training.global_batch_size)
    )
    made = jax.eval_shape(
        partial(simulate, simulation=config.simulation, objective=config.objective), batch, keys
    )
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), made
    )
    return {"simulated": placed, "scene_id": batch["scene_id"]}


def _compiled(
    config: ExperimentConfig, state: TrainState, frozen: Any, batch: Any, topology: str
) -> tuple[Any, float]:
    started = time.monotonic()
    try:
        with without_cache():
            return compile_step(config, state, frozen, batch), time.monotonic() - started
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = _USED.search(str(error))
        said = f"{used[1]} of {used[2]}" if used else str(error).splitlines()[0][:200]
        raise InvalidInput(
            f"the step needs {said} bytes of a chip's memory on {topology} (batch "
            f"{config.training.global_batch_size}, remat {config.model.remat}); allowed: what fits"
        ) from None
