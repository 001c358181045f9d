"""Compiling the lens blur for a TPU that is not there, with the compiler that libtpu carries.

Nothing runs: the compiler gets a description of the chips in place of chips, and what it makes is
counted.
"""

import contextlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from bokeh_jax.commands.bench_roofline import Program, Row
from bokeh_jax.commands.bench_times import functions
from bokeh_jax.commands.hlo_cost import count_program
from bokeh_jax.errors import InvalidInput

# Without these, libtpu asks the network which machine of a cloud this is, and refuses to be loaded
# by two processes at once, as the chips that it then looks for can serve only one.
_NO_CLOUD = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def topology_devices(topology: str) -> list[Any]:
    """Devices to compile for, none of which can run anything.

    Args:
        topology: kind and shape, such as v5e:2x2.

    Raises:
        InvalidInput: libtpu is missing, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InvalidInput(
            "--compile-for needs libtpu, the TPU's compiler, which is not installed: "
            "pip install 'bokeh-jax[tpu-compile]'"
        )
    for name, value in _NO_CLOUD.items():
        os.environ.setdefault(name, value)
    # With libtpu installed, constants would otherwise be looked for a TPU first.
    jax.config.update("jax_platforms", "cpu")
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        raise InvalidInput(
            f"--compile-for is {topology!r}, which libtpu refuses ({said}); allowed: a shape in "
            "which that chip is sold, as in v5e:2x2"
        ) from None
    return list(found.devices)


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
    with _without_cache():
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


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compiles anew: JAX can cache what is compiled without a chip, but not read it back."""
    option = "jax_compilation_cache_dir"
    folder = getattr(jax.config, option)
    jax.config.update(option, None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(option, folder)
        compilation_cache.reset_cache()
