"""The stacking constraint of DiffCamera (arXiv 2509.26599), in pixels or in latents.

    (1) L_stack = w(t) · mean ‖Σ_i w_i x̂_i − x_multi‖²

In pixels x_multi = Σ_i w_i x_i. With an autoencoder (`models/codec.py`: E, D) predictions x̂_i and
truths x_i are latents, and (1) is one of

    'latents'           ‖Σ_i w̄_i x̂_i − E(x_multi)‖     the paper's
    'blended_latents'   ‖Σ_i w̄_i (x̂_i − x_i)‖          exact, but x_multi is never looked at
    'pixels'            ‖Σ_i w_i D(x̂_i) − x_multi‖     exact, at the price of decoding

with w̄ the means of w over the cells. A blend of latents is not the latent of a blend, so the first
asks for what the truth itself does not fulfil. Without an autoencoder all three are one.
"""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.models import CodecConfig
from bokeh_jax.models.codec import decode, encode, to_grid
from bokeh_jax.optics import stack

PyTree = Any
StackSpace = Literal["latents", "blended_latents", "pixels"]


def stacking_loss(
    predicted: Float[Array, "b m h w c"],
    truth: Float[Array, "b h w c"],
    weights: Float[Array, "b m h w"],
    time_weight: Float[Array, " b"],
) -> Float[Array, ""]:
    """Equation (1) of predictions that are to blend to `truth`."""
    difference = stack(predicted, weights) - truth
    return jnp.mean(time_weight * jnp.mean(difference**2, axis=(1, 2, 3)))


def blends(
    params: PyTree,
    samples: Float[Array, "b m r s c"],
    truths: Float[Array, "b m r s c"],
    targets: Float[Array, "b m h w 3"],
    weights: Float[Array, "b m h w"],
    codec: CodecConfig,
    space: StackSpace,
) -> tuple[Float[Array, "b m p q e"], Float[Array, "b p q e"], Float[Array, "b m p q"]]:
    """What is blended, what the blend is to be, and the weights.

    Args:
        params: the network's parameters, the codec's among them.
        samples: x̂, in what the network works on.
        truths: x, likewise.
        targets: x as photographs in the model's range.
        weights: w.
        codec: between the two.
        space: where.
    """
    if space == "pixels":
        flat = samples.reshape(-1, *samples.shape[2:])
        decoded = decode(codec, params, flat).reshape(targets.shape)
        return decoded, stack(targets, weights), weights
    cell_weights = to_grid(codec, weights)
    if space == "blended_latents":
        return latent_blends(samples, truths, None, cell_weights)
    multi = encode(codec, params, stack(targets, weights))
    return latent_blends(samples, truths, multi, cell_weights)


def latent_blends(
    samples: Float[Array, "b m r s c"],
    truths: Float[Array, "b m r s c"],
    multi: Float[Array, "b r s c"] | None,
    cell_weights: Float[Array, "b m r s"],
) -> tuple[Float[Array, "b m r s c"], Float[Array, "b r s c"], Float[Array, "b m r s"]]:
    """The same in latents, of E(x_multi) or, where that is None, of the blend of the truths."""
    wanted = stack(truths, cell_weights) if multi is None else multi
    return samples, wanted, cell_weights
