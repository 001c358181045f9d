"""A process that reads a FLUX folder onto a mesh: a program of its own.

    python reading_job.py FOLDER DATA FSDP TENSOR [COORDINATOR NUM_PROCESSES PROCESS_INDEX]

Compares every shard with the file read whole, and prints one JSON line of what reading took; on one
device the second time, when all is compiled.
"""

import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh

from bokeh_jax.interop import reading
from bokeh_jax.interop.flux_names import dit_config_from_diffusers, flux_map
from bokeh_jax.interop.tensor_files import TensorFiles, open_tensor_files, read_config
from bokeh_jax.interop.weight_map import leaves_of
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.mesh_axes import MESH_AXES
from bokeh_jax.models import DiT
from bokeh_jax.training.sharding import leaf_sharding


class CountingFiles(TensorFiles):
    """Counts bytes that are read, and the most at once."""

    count = largest = 0

    def read(self, name, index=()):
        found = super().read(name, index)
        CountingFiles.count += found.nbytes
        CountingFiles.largest = max(CountingFiles.largest, found.nbytes)
        return found


def placed(config, mesh):
    """The parameters' shapes and places, as the trainer has them."""
    ids = jnp.zeros((1, 1, 3), jnp.int32)
    vector = jnp.zeros((1,), jnp.float32)
    boxed = jax.eval_shape(
        lambda: DiT(config).init(
            jax.random.key(0),
            jnp.zeros((1, 1, config.in_channels), jnp.float32),
            ids,
            jnp.zeros((1, 1, config.context_dim), jnp.float32),
            ids,
            vector,
            pooled=jnp.zeros((1, config.pooled_dim), jnp.float32),
            guidance=vector if config.guidance_embed else None,
        )
    )["params"]
    axes = leaves_by_name(nn.get_partition_spec(boxed))
    return tree_by_name(
        {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf_sharding(mesh, leaf, tuple(axes[name]), 0)
            )
            for name, leaf in leaves_by_name(nn.unbox(boxed)).items()
        }
    )


def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def load(folder, mesh):
    """(abstract tree, parameters, match, table, files) of a folder, whose readings are counted."""
    files = open_tensor_files(Path(folder))
    config = dit_config_from_diffusers(read_config(Path(folder)))
    abstract, table = placed(config, mesh), flux_map(config)
    CountingFiles.count = 0
    counting = CountingFiles(files.source, files.tensors)
    return abstract, *reading.load_parameters(counting, table, abstract), table, files


def main(folder, data, fsdp, tensor, coordinator=None, count=None, index=None):
    if coordinator is not None:
        jax.distributed.initialize(coordinator, int(count), int(index))
    sizes = (int(data), int(fsdp), int(tensor))
    devices = np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes)
    mesh = Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    if mesh.size == 1:
        load(folder, mesh)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
    before = peak_bytes()
    abstract, params, match, table, files = load(folder, mesh)
    told = {
        "peak_bytes": peak_bytes() - before,
        "read_bytes": CountingFiles.count,
        "largest_bytes": CountingFiles.largest,
        "loaded": len(match.matched),
        "updates": reading._updated._cache_size(),
        "sharded": sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(params)),
    }
    truth = leaves_of(table, {name: files.read(name) for name in files.tensors})
    for name, leaf in leaves_by_name(params).items():
        assert leaf.sharding == leaves_by_name(abstract)[name].sharding, name
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), truth[name][shard.index], name)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
