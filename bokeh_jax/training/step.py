"""The train step: simulate, corrupt, predict, compare, update - one compiled function.

    (state, frozen, batch) -> (state, metrics)

`state` is donated; `frozen` is the rest of the network, which no step changes. `batch` is a scene
batch as it comes from the loader (uint8 stays uint8 until here). Metrics are a clu collection of
device scalars (step_metrics.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from flax import linen as nn
from flax.linen import spmd
from jaxtyping import Array, Key

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import nonfinite
from bokeh_jax.training.network import whole
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.sharding_rules import RULES
from bokeh_jax.training.state import TrainState, apply_gradients, learning_rate
from bokeh_jax.training.step_metrics import batch_checksum, step_metrics
from bokeh_jax.training.task import loss_of
from data_pipeline.latent_records import latent_arrays
from data_pipeline.order import Shape
from data_pipeline.records import EXIF_FIELDS

PyTree = Any
Batch = Mapping[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, clu_metrics.Collection]]
FullStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, clu_metrics.Collection]]


def mean_over_parts(function: Callable[[PyTree], PyTree], examples: PyTree, count: int) -> PyTree:
    """Mean of what `function` gives for `count` parts of the examples, one after the other.

    Part i holds the examples i, i + count, i + 2 count, …: each device's rows then stay where they
    are, as it has some of every part.

    Args:
        function: examples to a tree of floats, each a mean over its examples.
        examples: leaves with a leading axis of examples, which `count` divides.
        count: of parts; with 1 the function is called as it is.
    """
    if count == 1:
        return function(examples)

    def part(index: Array) -> PyTree:
        def rows(leaf: Array) -> Array:
            cut = leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:])
            taken = jax.lax.dynamic_index_in_dim(cut, index, axis=1, keepdims=False)
            return taken if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else of_batch(taken)

        return function(jax.tree.map(rows, examples))

    def of_batch(rows: Array) -> Array:
        return spmd.with_logical_constraint(rows, ("batch", *(None,) * (rows.ndim - 1)))

    def add(total: PyTree, index: Array) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, part(index)), None

    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, jnp.int32(0))
    )
    total, _ = jax.lax.scan(add, zeros, jnp.arange(count, dtype=jnp.int32))
    return jax.tree.map(lambda leaf: leaf / count, total)


def train_step(
    state: TrainState, frozen: PyTree, batch: Batch, *, config: ExperimentConfig
) -> tuple[TrainState, clu_metrics.Collection]:
    """One update; pure. Randomness comes from (seed, step, index in the batch) alone."""
    keys = example_keys(
        step_key(config.seed, "train", state.step), config.training.global_batch_size
    )

    loss = loss_of(config)

    def gradients_of(examples: tuple[Batch, Key[Array, " b"]]) -> tuple[PyTree, dict[str, Array]]:
        def loss_fn(params: PyTree) -> tuple[Array, dict[str, Array]]:
            batch, keys = examples
            return loss(whole(frozen, params), dict(batch), keys)

        return jax.grad(loss_fn, has_aux=True)(state.params)

    # What the names of the model's axes mean on the mesh; nothing where there is none.
    with nn.logical_axis_rules(RULES):
        gradients, parts = mean_over_parts(
            gradients_of, (batch, keys), config.training.accumulation_steps
        )
    rate = jnp.asarray(learning_rate(config)(state.step), jnp.float32)
    norm = optax.tree.norm(gradients)
    usable = nonfinite.is_usable(parts["loss"], norm)
    updated = apply_gradients(state, gradients, config)
    lost_steps = nonfinite.LostSteps.of_step(
        usable, updated.step, parts | {"gradient_norm": norm}, batch["scene_id"]
    )
    collected = step_metrics(tuple(parts)).single_from_model_output(
        **parts,
        gradient_norm=norm,
        parameter_norm=optax.tree.norm(state.params),
        learning_rate=rate,
        batch_checksum=batch_checksum(batch["scene_id"]),
        lost_steps=lost_steps,
    )
    return nonfinite.keep_unless(usable, updated, state), collected


def abstract_batch(
    shape: Shape, global_batch_size: int, placement: jax.sharding.Sharding
) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of the loader's shape is made of, without its values."""
    b, h, w, n = global_batch_size, shape.height_px, shape.width_px, shape.max_layers
    kinds = {
        "layered": {
            "layers": ((b, n, h, w, 4), jnp.uint8),
            "layer_disparity": ((b, n, 3), jnp.float32),
            "layer_gain": ((b, n), jnp.float32),
        },
        "photographs": {
            "image": ((b, h, w, 3), jnp.uint8),
            "disparity": ((b, h, w), jnp.uint16),
        },
    }
    if shape.latents is not None:
        scene = latent_arrays((h, w), shape.latents)
        kinds["latents"] = {name: ((b, *size), dtype) for name, (size, dtype) in scene.items()}
    if shape.taken:
        kinds["photographs"]["photograph"] = ((b, h, w, 3), jnp.uint8)
        kinds["photographs"]["camera"] = ((b, len(EXIF_FIELDS)), jnp.float32)
    arrays = kinds[shape.kind] | {"scene_id": ((b,), jnp.int32)}
    if (text := shape.text) is not None:
        arrays["text"] = ((b, text.num_tokens, text.token_dim), jnp.bfloat16)
        arrays["pooled"] = ((b, text.pooled_dim), jnp.bfloat16)
    if shape.caption_bytes:
        arrays["caption"] = ((b, shape.caption_bytes), jnp.uint8)
    return {
        name: jax.ShapeDtypeStruct(size, dtype, sharding=placement)
        for name, (size, dtype) in arrays.items()
    }


def compile_step(
    config: ExperimentConfig, state: TrainState, frozen: PyTree, batch: Any
) -> FullStep:
    """Compiles the step for the shardings and shapes of its arguments, ahead of the loop.

    All may be abstract. The result is an executable: a batch of another shape raises instead of
    compiling again.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(
        lambda state, frozen, batch: train_step(state, frozen, batch, config=config),
        donate_argnums=0,
        # Metrics are whole on every process: each reads them, scene ids too.
        out_shardings=(shardings, shardings.step),
    )
    return jitted.lower(state, frozen, batch).compile()


def by_shape(steps: Sequence[tuple[Batch, FullStep]], frozen: PyTree) -> TrainStep:
    """One step of several executables, each for its own (abstract) batch, with what is frozen.

    A batch whose shapes fit none of them raises ValueError.
    """

    def signature(batch: Batch) -> frozenset[tuple[str, tuple[int, ...]]]:
        return frozenset((name, value.shape) for name, value in batch.items())

    executables = {signature(batch): step for batch, step in steps}

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, clu_metrics.Collection]:
        step = executables.get(signature(batch))
        if step is None:
            shapes = {name: value.shape for name, value in batch.items()}
            raise ValueError(f"batch has shapes {shapes}; allowed: those that were compiled")
        return step(state, frozen, batch)

    return train_step
