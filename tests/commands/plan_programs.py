"""Compiles small programs with known collectives on eight virtual devices, and prints them.

Run as a process of its own: the number of devices is fixed when JAX starts.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

ROWS, COLUMNS, TURNS = 16, 32, 5


def main() -> None:
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    jax.config.update("jax_use_shardy_partitioner", True)

    def shape(*spec, lengths=(ROWS, COLUMNS)):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(lengths, jnp.float32, sharding=sharding)

    def manual(function, into, out):
        specs = PartitionSpec(*into), PartitionSpec(*out)
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False
        )

    def turned(x):
        def body(x, _):
            return jax.lax.psum(jnp.sin(x), "fsdp"), None

        return jax.lax.scan(body, x, length=TURNS)[0]

    both = ("data", "fsdp")
    programs = {
        "gather": (manual(lambda x: jax.lax.all_gather(x, both, tiled=True), (both,), ()), (both,)),
        "scatter": (
            manual(lambda x: jax.lax.psum_scatter(x, "tensor", tiled=True), (), ("tensor",)),
            (),
        ),
        "reduce_in_loop": (manual(turned, ("data",), ("data",)), ("data",)),
        "swap": (
            manual(
                lambda x: jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True), ("fsdp",), (None, "fsdp")
            ),
            ("fsdp",),
        ),
        "shift": (
            manual(
                lambda x: jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)]), ("tensor",), ("tensor",)
            ),
            ("tensor",),
        ),
    }
    found = {"devices": np.vectorize(lambda device: device.id)(mesh.devices).ravel().tolist()}
    for name, (function, spec) in programs.items():
        found[name] = jax.jit(function).lower(shape(*spec)).compile().as_text()
    json.dump(found, sys.stdout)


main()
