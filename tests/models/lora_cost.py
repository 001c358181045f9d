"""What a step costs with adapters, with a frozen base alone, and with all of it trained.

    python tests/models/lora_cost.py [TURNS]

The rank over the width is that of rank 128 in FLUX.1. Steps are taken in turns, and ratios are of
the same turn: medians, with their range. Operations and bytes are XLA's, which counts one block of
each kind.
"""

import os
import statistics
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from bokeh_jax.models import lora
from bokeh_jax.models.config import DiTConfig, LoraConfig
from bokeh_jax.models.dit import DiT

CONFIG = DiTConfig(
    in_channels=64,
    out_channels=64,
    hidden_dim=384,
    num_heads=6,
    num_double_blocks=2,
    num_single_blocks=4,
    rope_axes_dim=(8, 28, 28),
    context_dim=64,
    compute_dtype="float32",
    lora=LoraConfig(rank=16),
)
BATCH, IMAGE, CONTEXT = 2, 256, 64


def arguments():
    random = np.random.default_rng(0)
    ids = np.stack((np.zeros(IMAGE), *np.divmod(np.arange(IMAGE), 16)), axis=-1).astype(np.int32)
    return {
        "image_tokens": random.standard_normal((BATCH, IMAGE, 64), np.float32),
        "image_ids": np.broadcast_to(ids, (BATCH, IMAGE, 3)),
        "context_tokens": random.standard_normal((BATCH, CONTEXT, 64), np.float32),
        "context_ids": np.zeros((BATCH, CONTEXT, 3), np.int32),
        "time": random.random(BATCH, np.float32),
    }


def step_of(config, frozen, trained):
    """The compiled step, and its state."""
    optimizer, given = optax.adamw(1e-4), jax.tree.map(jnp.asarray, arguments())

    def update(state, frozen):
        def loss(trained):
            out = DiT(config).apply({"params": lora.joined(frozen, trained)}, **given)
            return jnp.mean(jnp.square(out - 1.0))

        trained, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(trained), moments, trained)
        return optax.apply_updates(trained, updates), moments

    state = (trained, optimizer.init(trained))
    return jax.jit(update, donate_argnums=0).lower(state, frozen).compile(), state


def main(turns):
    shapes = jax.eval_shape(partial(DiT(CONFIG).init, jax.random.key(0)), **arguments())["params"]
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * random.standard_normal(leaf.shape, np.float32)),
        nn.unbox(shapes),
    )
    base, adapters = lora.split_trainable(params)
    plain = DiTConfig(**(vars(CONFIG) | {"lora": LoraConfig()}))
    # With the first layer trained, gradients go all the way back.
    frozen, first = lora.split_trainable(base, ("img_in",))
    copies = jax.tree.map(jnp.copy, (base, adapters, first))
    steps = {
        "all": (*step_of(plain, {}, copies[0]), {}),
        "adapters": (*step_of(CONFIG, base, copies[1]), base),
        "frozen": (*step_of(plain, frozen, copies[2]), frozen),
    }
    states = {name: state for name, (_, state, _) in steps.items()}
    taken = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, (step, _, fixed) in steps.items():
            start = processor_seconds()
            states[name] = jax.block_until_ready(step(states[name], fixed))
            if turn:
                taken[name].append(processor_seconds() - start)
    for name, other in (("adapters", "frozen"), ("adapters", "all"), ("frozen", "all")):
        ratios = [a / b for a, b in zip(taken[name], taken[other], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"processor time, {name} / {other}: {statistics.median(ratios):.2f} ({spread})")
        flops = [steps[which][0].cost_analysis()["flops"] for which in (name, other)]
        print(f"operations, {name} / {other}: {flops[0] / flops[1]:.2f}")
    for name, (step, _, _) in steps.items():
        temporary = step.memory_analysis().temp_size_in_bytes / 1e6
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(states[name])) / 1e6
        print(
            f"{name}: trained parameters and moments {state:.1f} MB, temporary {temporary:.1f} MB"
        )


def processor_seconds():
    """Of all threads: what else the machine does does not count."""
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 15)
