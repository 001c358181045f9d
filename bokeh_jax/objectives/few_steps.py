"""A generator of few steps: each predicts the image, and noise is put back before the next.

With times 1 = t₀ > t₁ > … > t_{N−1} > 0 evenly spaced, a prompt c and fresh noise ε_i:

    (1) x_{t₀} = ε₀
    (2) Â_i = f(x_{t_i}, t_i, c)                              sample prediction
    (3) x_{t_{i+1}} = (1 − t_{i+1}) Â_i + t_{i+1} ε_{i+1}
    (4) A = Â_k,     k = N − 1 in use, uniform in 0 … N − 1 in training

This is how DMD2 (Yin et al. 2024, arXiv 2405.14867) samples, and how it simulates in training what
a step will be given in use ("backward simulation"): steps before the last carry no gradient. So
every step learns to make images from what the steps before it make, for the price of one backward
pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from bokeh_jax import diffusion

PyTree = Any
# parameters -> (x_t, times) -> sample
PredictorOf = Callable[[PyTree], diffusion.Predictor]


def few_step_samples(
    predictor_of: PredictorOf,
    params: PyTree,
    keys: Key[Array, " b"],
    shape: tuple[int, ...],
    *,
    num_steps: int,
    last: Int[Array, " b"] | None = None,
) -> Float[Array, "b *d"]:
    """Equation (4); differentiable in `params` through the last step alone.

    Args:
        predictor_of: of parameters, a predictor of samples.
        params: of the generator.
        keys: one an image, for all of its noise.
        shape: of an image.
        num_steps: N.
        last: k of each image; None for N − 1.
    """
    grid = diffusion.time_grid(num_steps)[:-1]
    if last is None:
        last = jnp.full(keys.shape, num_steps - 1, jnp.int32)
    without_gradient = predictor_of(jax.lax.stop_gradient(params))

    def noise(index: Int[Array, ""]) -> Float[Array, "b *d"]:
        drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))
        return drawn(keys)

    def step(x: Array, index: Int[Array, ""]) -> tuple[Array, None]:
        clean = without_gradient(x, jnp.broadcast_to(grid[index], keys.shape))
        next_time = jnp.broadcast_to(grid[index + 1], keys.shape)
        moved = diffusion.interpolate(clean, noise(index + 1), next_time)
        goes_on = (index < last).reshape(-1, *(1,) * len(shape))
        return jnp.where(goes_on, moved, x), None

    x, _ = jax.lax.scan(step, noise(jnp.int32(0)), jnp.arange(num_steps - 1, dtype=jnp.int32))
    return predictor_of(params)(jax.lax.stop_gradient(x), grid[last])
