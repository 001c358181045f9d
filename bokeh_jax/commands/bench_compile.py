"""Compiling the lens blur for a TPU that is not there, with the compiler that libtpu carries.

Nothing runs: the compiler gets a description of the chips in place of chips, and what it makes is
counted.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.commands.bench_roofline import Program, Row
from bokeh_jax.commands.bench_times import functions
from bokeh_jax.commands.hlo_cost import count_program
from bokeh_jax.commands.tpu_compiler import without_cache


def devices_used(devices: list[Any], batch: int) -> list[Any]:
    """As many devices as can share the batch evenly."""
    return devices[: math.gcd(len(devices), batch)]


def compile_row(
    size_px: int,
    radius_px: float,
    *,
    devices: list[Any],
    batch: int,
    dtype: str,
    backward: bool,
) -> Row:
    """Compiles one size and largest radius.

    Args:
        size_px: height and width.
        radius_px: largest radius.
        devices: that share the batch evenly.
        batch: images a call.
        dtype: of the input image.
        backward: whether to compile the gradients for image and radii too.
    """
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    shape = (batch, size_px, size_px)
    scene = (
        jax.ShapeDtypeStruct((*shape, 3), jnp.dtype(dtype), sharding=sharding),
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding),
    )
    programs = {
        name: _compiled(function, scene)
        for name, function in functions(radius_px, backward=backward).items()
    }
    return Row(size_px, radius_px, programs["forward"], programs.get("forward_backward"))


def _compiled(function: Callable[..., Any], scene: tuple[jax.ShapeDtypeStruct, ...]) -> Program:
    with without_cache():
        start = time.perf_counter()
        program = jax.jit(function).lower(*scene).compile()
        compile_s = time.perf_counter() - start
    text, memory = program.as_text(), program.memory_analysis()
    assert text is not None
    assert memory is not None
    count = count_program(text, jax.devices()[0].client)
    return Program(
        compile_s=compile_s,
        flops=count.flops,
        bytes_accessed=count.bytes_accessed,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
    )
