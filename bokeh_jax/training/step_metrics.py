"""What a step measures on the device: a clu collection of scalars, merged there over many steps.

Merging and reading are compiled functions of their own: neither waits for the device until a
value is fetched.
"""

import functools

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Integer

from bokeh_jax.training import nonfinite
from bokeh_jax.training.checksums import mix_bits

_NORMS = {
    "gradient_norm": clu_metrics.Average,
    "parameter_norm": clu_metrics.LastValue,
    "learning_rate": clu_metrics.LastValue,
    "batch_checksum": clu_metrics.LastValue,
}

# clu divides float totals by integer counts, which strict promotion refuses.
_CLU_PROMOTION = "standard"


@functools.cache
def step_metrics(part_names: tuple[str, ...]) -> type[clu_metrics.Collection]:
    """The collection of an objective whose parts have these names; the same type every time."""
    parts = {name: clu_metrics.Average.from_output(name) for name in part_names}
    rest = {name: kind.from_output(name) for name, kind in _NORMS.items()}
    return clu_metrics.Collection.create(**parts, **rest, lost_steps=nonfinite.LostSteps)


def batch_checksum(scene_id: Integer[Array, " b"]) -> Float[Array, ""]:
    """Number below 2²⁴ (exact in float32) that tells which scenes, in which order, a batch held.

    Equal runs log equal numbers at every step: the first place to look when two runs part.
    """
    position = jnp.arange(scene_id.shape[0], dtype=jnp.uint32)
    # Two odd multipliers spread scene and position over 32 bits; the finaliser of MurmurHash3 makes
    # their sum anything but linear, so that other batches give other sums.
    mixed = (scene_id.astype(jnp.uint32) + 1) * jnp.uint32(2_654_435_761)
    mixed = mix_bits(mixed ^ ((position + 1) * jnp.uint32(0x9E37_79B9)))
    return (jnp.sum(mixed, dtype=jnp.uint32) >> 8).astype(jnp.float32)


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
