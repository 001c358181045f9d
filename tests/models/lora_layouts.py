"""Loss and adapters' gradients on eight virtual devices, in layouts: a process of its own.

    python lora_layouts.py OUT LAYOUT...

Writes OUT/<layout>.npz and prints one line of JSON: where every adapter lies in each.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bokeh_jax.config import MeshConfig
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models import lora
from bokeh_jax.models.config import DiTConfig, LoraConfig
from bokeh_jax.models.dit import DiT
from bokeh_jax.training import sharding
from bokeh_jax.training.sharding_rules import RULES

# data, fsdp, tensor
LAYOUTS = {"one": (1, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
CONFIG = DiTConfig(
    in_channels=4,
    out_channels=4,
    hidden_dim=16,
    num_heads=2,
    mlp_ratio=2.0,
    num_double_blocks=1,
    num_single_blocks=2,
    rope_axes_dim=(2, 2, 4),
    context_dim=8,
    compute_dtype="float32",
    lora=LoraConfig(rank=4, alpha=8.0, targets=("attention", "mlp", "modulation")),
)
BATCH = 8


def arguments():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "image_tokens": jax.random.normal(keys[0], (BATCH, 4, 4), jnp.float32),
        "image_ids": jnp.broadcast_to(jnp.arange(4)[None, :, None], (BATCH, 4, 3)),
        "context_tokens": jax.random.normal(keys[1], (BATCH, 2, 8), jnp.float32),
        "context_ids": jnp.zeros((BATCH, 2, 3), jnp.int32),
        "time": jax.random.uniform(keys[2], (BATCH,), jnp.float32),
    }


def random_params(shapes):
    random = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * random.standard_normal(x.shape, np.float32), shapes)


def loss_and_gradients(trained, frozen, given):
    def loss(trained):
        params = lora.joined(frozen, trained)
        return jnp.mean(jnp.square(DiT(CONFIG).apply({"params": params}, **given)))

    with nn.logical_axis_rules(RULES):
        return jax.value_and_grad(loss)(trained)


def main(out, *names):
    boxed = jax.eval_shape(partial(DiT(CONFIG).init, jax.random.key(0)), **arguments())["params"]
    shapes, axes = nn.unbox(boxed), nn.get_partition_spec(boxed)
    params = random_params(shapes)
    places = {}
    for name in names:
        sizes = LAYOUTS[name]
        config = MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
        mesh = sharding.make_mesh(config, jax.devices()[: int(np.prod(sizes))])
        where = jax.tree.map(
            lambda leaf, own, mesh=mesh: sharding.leaf_sharding(mesh, leaf, tuple(own), 0),
            shapes,
            axes,
        )
        with jax.set_mesh(mesh):
            frozen, trained = lora.split_trainable(jax.device_put(params, where))
            given = jax.device_put(arguments(), sharding.batch_sharding(mesh))

            # Of this mesh, so that no other's program is taken for it.
            loss, gradients = jax.jit(partial(loss_and_gradients))(trained, frozen, given)
        found = {key: np.asarray(leaf) for key, leaf in leaves_by_name(gradients).items()}
        np.savez(Path(out) / f"{name}.npz", loss=np.asarray(loss), **found)
        specs = leaves_by_name(where)
        places[name] = {key: str(specs[key].spec) for key in found}
    print(json.dumps(places))


if __name__ == "__main__":
    main(*sys.argv[1:])
