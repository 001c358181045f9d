"""The train step: simulate, corrupt, predict, compare, update - one compiled function.

    (state, batch) -> (state, metrics)

`state` is donated. `batch` is a scene batch as it comes from the loader (uint8 stays uint8 until
here). Metrics are a clu collection of device scalars: merging them over steps never waits for the
device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Integer

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.objectives import refocus_loss
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.state import TrainState, apply_gradients, learning_rate
from data_pipeline.order import Shape

Batch = Mapping[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, clu_metrics.Collection]]
StepMetrics = clu_metrics.Collection.create(
    loss=clu_metrics.Average.from_output("loss"),
    flow_loss=clu_metrics.Average.from_output("flow_loss"),
    stacking_loss=clu_metrics.Average.from_output("stacking_loss"),
    sample_psnr_db=clu_metrics.Average.from_output("sample_psnr_db"),
    guess_psnr_db=clu_metrics.Average.from_output("guess_psnr_db"),
    gradient_norm=clu_metrics.Average.from_output("gradient_norm"),
    learning_rate=clu_metrics.LastValue.from_output("learning_rate"),
    batch_checksum=clu_metrics.LastValue.from_output("batch_checksum"),
)


def batch_checksum(scene_id: Integer[Array, " b"]) -> Float[Array, ""]:
    """Number below 2²⁴ (exact in float32) that tells which scenes, in which order, a batch held.

    Equal runs log equal numbers at every step: the first place to look when two runs part.
    """
    position = jnp.arange(scene_id.shape[0], dtype=jnp.uint32)
    # Two odd multipliers spread scene and position over 32 bits; the finaliser of MurmurHash3 makes
    # their sum anything but linear, so that other batches give other sums.
    mixed = (scene_id.astype(jnp.uint32) + 1) * jnp.uint32(2_654_435_761)
    mixed ^= (position + 1) * jnp.uint32(0x9E37_79B9)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EB_CA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2_AE35)
    mixed ^= mixed >> 16
    return (jnp.sum(mixed, dtype=jnp.uint32) >> 8).astype(jnp.float32)


def train_step(
    state: TrainState, batch: Batch, *, config: ExperimentConfig
) -> tuple[TrainState, clu_metrics.Collection]:
    """One update; pure. Randomness comes from (seed, step, index in the batch) alone."""
    keys = example_keys(
        step_key(config.seed, "train", state.step), config.training.global_batch_size
    )

    def loss_fn(params):
        return refocus_loss(
            params,
            dict(batch),
            keys,
            model=config.model,
            simulation=config.simulation,
            objective=config.objective,
        )

    (_, parts), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    rate = jnp.asarray(learning_rate(config)(state.step), jnp.float32)
    collected = StepMetrics.single_from_model_output(
        **parts,
        gradient_norm=optax.tree.norm(gradients),
        learning_rate=rate,
        batch_checksum=batch_checksum(batch["scene_id"]),
    )
    return apply_gradients(state, gradients, config), collected


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
    arrays = kinds[shape.kind] | {"scene_id": ((b,), jnp.int32)}
    return {
        name: jax.ShapeDtypeStruct(size, dtype, sharding=placement)
        for name, (size, dtype) in arrays.items()
    }


def compile_step(config: ExperimentConfig, state: TrainState, batch: Any) -> TrainStep:
    """Compiles the step for the shardings and shapes of `state` and `batch`, ahead of the loop.

    Either may be abstract. The result is an executable: a batch of another shape raises instead of
    compiling again.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(
        lambda state, batch: train_step(state, batch, config=config),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    return jitted.lower(state, batch).compile()


def by_shape(steps: Sequence[tuple[Batch, TrainStep]]) -> TrainStep:
    """One step of several executables, each for its own (abstract) batch.

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
        return step(state, batch)

    return train_step


# clu divides float totals by integer counts, which strict promotion refuses.
_CLU_PROMOTION = "standard"


@jax.jit
def merge_metrics(
    first: clu_metrics.Collection, second: clu_metrics.Collection
) -> clu_metrics.Collection:
    """Metrics of the steps of both, on the device."""
    with jax.numpy_dtype_promotion(_CLU_PROMOTION):
        return first.merge(second)


@jax.jit
def compute_metrics(metrics: clu_metrics.Collection) -> dict[str, Array]:
    """Means over the merged steps (last values where a mean says nothing), on the device."""
    with jax.numpy_dtype_promotion(_CLU_PROMOTION):
        return metrics.compute()
