"""The train step: simulate, corrupt, predict, compare, update - one compiled function.

    (state, batch) -> (state, metrics)

`state` is donated. `batch` is a scene batch as it comes from the loader (uint8 stays uint8 until
here). Metrics are a clu collection of device scalars: merging them over steps never waits for the
device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Integer

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.objectives import refocus_loss
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.state import TrainState, apply_gradients, learning_rate

Batch = dict[str, Array]
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
    # An odd multiplier a row (Knuth's, mod 2³²) makes the sum depend on the order.
    mixed = (scene_id.astype(jnp.uint32) + 1) * (2 * position + 1) * jnp.uint32(2_654_435_761)
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
            batch,
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


def compile_step(config: ExperimentConfig, state: TrainState, batch: Batch) -> TrainStep:
    """Compiles the step for the shardings and shapes of `state` and `batch`, ahead of the loop.

    The result is an executable: a batch of another shape raises instead of compiling again.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(
        lambda state, batch: train_step(state, batch, config=config),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    return jitted.lower(state, batch).compile()


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
