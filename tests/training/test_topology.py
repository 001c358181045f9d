"""A checkpoint goes onto other numbers of devices, with its position in the data."""

import json
import os
import subprocess
import sys

from real_jobs import ENVIRONMENT, ROOT

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve

# In a process of its own, that has eight devices: 8 -> 4 -> 1, saved anew by each.
MOVE = """
import dataclasses, sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from bokeh_jax import config as config_lib
from bokeh_jax.training import checkpoint, executables, sharding
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import create_state
from bokeh_jax.training.step import batch_checksum
from data_pipeline.loader import make_loader

config, workdir = config_lib.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
names = sharding.make_mesh(config.mesh).axis_names

def mesh_of(**sizes):
    count = int(np.prod(list(sizes.values())))
    shape = [sizes.get(name, 1) for name in names]
    devices = np.array(jax.devices()[:count]).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))

def filled(config):
    # By numpy: nothing to compile.
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: random.standard_normal(leaf.shape, np.float32)
        if leaf.dtype == np.float32 else np.full(leaf.shape, 3, leaf.dtype),
        jax.eval_shape(lambda: create_state(config)),
    )

def next_batch(position, mesh):
    loader = make_loader(executables.loader_config(config), start_step=position.next_step)
    placed = sharding.put_batch(next(loader), sharding.batch_sharding(mesh))
    loader.close()
    return float(batch_checksum(placed["scene_id"]))

mesh = mesh_of(data=2, fsdp=4)
shardings = sharding.shardings_of(sharding.placed_state(config, mesh))
state = jax.device_put(filled(config), shardings)
assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
truth = {name: np.asarray(leaf) for name, leaf in leaves_by_name(state).items()}
position = checkpoint.DataPosition(5, config.seed, "fingerprint")
batches = [next_batch(position, mesh)]
for number, sizes in enumerate([dict(data=2, fsdp=2), dict(data=1)]):
    folder = workdir / str(number)
    with open_saver(folder, config) as saver:
        saver.save(state, position)
    mesh = mesh_of(**sizes)
    state, position = checkpoint.restore(folder, 5, config, mesh)
    batches.append(next_batch(position, mesh))
    expected = sharding.shardings_of(sharding.placed_state(config, mesh))
    for (name, leaf), wanted in zip(
        leaves_by_name(state).items(), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(leaf), truth[name], err_msg=name)
        assert leaf.sharding == wanted, name
        assert len(leaf.sharding.device_set) == mesh.size, name
assert len(set(batches)) == 1, batches
print("moved", position)
"""


def test_eight_four_and_one_device_read_each_other(tiny, tmp_path):
    changes = json.loads(config_lib.to_json(tiny))
    changes["mesh"] |= {"min_sharded_bytes": 0}
    changes["training"] |= {"global_batch_size": 8}
    config = tmp_path / "config.json"
    config.write_text(config_lib.to_json(resolve(changes)))
    done = subprocess.run(
        [sys.executable, "-c", MOVE, str(config), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "moved DataPosition(next_step=5" in done.stdout
