"""One update on eight virtual devices, in layouts of the mesh: a process of its own.

    python layouts.py DATASET OUT GUIDE LAYOUT...

Writes OUT/<layout>.npz: loss, every gradient, the first example's noise and the global batch, and
prints one JSON line a layout with where parameters lie.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from tiny_experiment import BOTH_BLOCKS, TINY

from bokeh_jax import config as config_lib
from bokeh_jax.objectives import refocus_loss
from bokeh_jax.training import sharding
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.sharding_rules import RULES
from bokeh_jax.training.state import create_state
from bokeh_jax.training.step import mean_over_parts
from data_pipeline.loader import LoaderConfig, make_loader

# data, fsdp, tensor, parts that are accumulated
LAYOUTS = {
    "one": (1, 1, 1, 1),
    "data": (8, 1, 1, 1),
    "fsdp": (1, 8, 1, 1),
    "mixed": (2, 2, 2, 2),
}
BATCH = 8


def config_of(dataset, guide, layout):
    data, fsdp, tensor, parts = layout
    return config_lib.resolve(
        TINY
        | {
            "model": BOTH_BLOCKS,
            "objective": TINY["objective"] | {"guide": guide == "guide"},
            "data": {"path": dataset},
            "mesh": {"data": data, "fsdp": fsdp, "tensor": tensor, "min_sharded_bytes": 0},
            "training": TINY["training"]
            | {"global_batch_size": BATCH, "accumulation_steps": parts},
        }
    )


def gradients(config, mesh, batch):
    """Loss parts and gradients of the step's own function, before the optimizer hides them."""
    placed = sharding.placed_state(config, mesh)
    # All zeros where blocks start as the identity: other values make every gradient count.
    state = jax.jit(
        lambda: jax.tree.map(
            lambda leaf: (
                leaf + 0.02 * jax.random.normal(jax.random.key(1), leaf.shape)
                if leaf.ndim
                else leaf
            ),
            create_state(config).params,
        ),
        out_shardings=sharding.shardings_of(placed.params),
    )()

    @jax.jit
    def compute(params, batch):
        keys = example_keys(step_key(config.seed, "train", 0), BATCH)

        def of_part(examples):
            batch, keys = examples
            return jax.grad(
                lambda params: refocus_loss(
                    params,
                    batch,
                    keys,
                    model=config.model,
                    simulation=config.simulation,
                    objective=config.objective,
                ),
                has_aux=True,
            )(params)

        with nn.logical_axis_rules(RULES):
            found = mean_over_parts(of_part, (batch, keys), config.training.accumulation_steps)
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
        return *found, noise

    return state, compute(state, batch)


def main(dataset, out, guide, *names):
    loader = make_loader(LoaderConfig(Path(dataset), global_batch_size=BATCH))
    host_batch = next(loader)
    loader.close()
    for name in names:
        layout = LAYOUTS[name]
        config = config_of(dataset, guide, layout)
        count = layout[0] * layout[1] * layout[2]
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:count])
        sharding.check_fits(config, mesh)
        with jax.set_mesh(mesh):
            batch = sharding.put_batch(host_batch, sharding.batch_sharding(mesh))
            params, (grads, parts, noise) = gradients(config, mesh, batch)
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(grads)
        }
        np.savez(
            Path(out) / f"{name}.npz",
            **{f"gradient:{key}": np.asarray(leaf) for key, leaf in leaves.items()},
            **{f"part:{key}": np.asarray(value) for key, value in parts.items()},
            **{f"batch:{key}": np.asarray(value) for key, value in batch.items()},
            noise=np.asarray(noise),
        )
        where = {
            jax.tree_util.keystr(path, simple=True, separator="/"): str(leaf.sharding.spec)
            for path, leaf in jax.tree.leaves_with_path(params)
        }
        print(json.dumps({"layout": name, "mesh": dict(mesh.shape), "where": where}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
