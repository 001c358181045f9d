"""Disparity from one image: what a small Depth Anything learns on scenes whose depth is known.

A relative network has no scale and no zero. Where datasets of several scales meet, answer d̂ and
truth d are compared after both are brought to the same ones (MiDaS: Ranftl et al. 2020, arXiv
1907.01341, equations (4) to (6) with all pixels kept), image by image:

    (1) n(d)    = (d − median d) / mean |d − median d|
    (2) e       = n(d̂) − n(d)      `alignment` 'scale_and_shift'
        e       = d̂ − d            `alignment` 'none'
    (3) L_d     = mean |e|
    (4) L_grad  = mean over scales s of mean |∂ P_s e|            (`autoencoder.edge_loss`)
    (5) L       = L_d + w L_grad

Simulated scenes share one scale, and (1) divides by what a young network hardly has, so by default
they are compared as they are. What either has brought: docs/generate.md.

(4) is what keeps outlines: a lens blurs by disparity, and where that leaks over an outline so does
the blur. An image of one disparity only has nothing to be learned from with (1), whose denominator
is kept above a thousandth.

Metric networks compare the logarithm of depth; layered scenes have no metres, so that is not here.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import check_at_least, check_choice
from bokeh_jax.models.depth_anything import depth
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.objectives.autoencoder import edge_loss
from bokeh_jax.objectives.conditions import to_model_range
from bokeh_jax.simulation import SimulationConfig, draw_scenes

# The network's part of the tree.
DEPTH = "depth"
_LEAST_SPREAD = 1e-3
Alignment = Literal["none", "scale_and_shift"]
ALIGNMENTS: tuple[Alignment, ...] = ("none", "scale_and_shift")


@dataclasses.dataclass(frozen=True)
class DepthObjectiveConfig:
    """Settings of the objective.

    Attributes:
        alignment: equation (2).
        gradient_weight: w; 0 turns the term off.
        gradient_scales: how many scales it has, from single pixels in powers of two.
    """

    alignment: Alignment = "none"
    gradient_weight: float = 0.5
    gradient_scales: int = 3

    def __post_init__(self) -> None:
        check_choice("alignment", self.alignment, ALIGNMENTS)
        if not self.gradient_weight >= 0:
            raise InvalidInput(f"gradient_weight is {self.gradient_weight}; allowed: 0 or more")
        check_at_least("gradient_scales", self.gradient_scales, 1)


def normalized(disparity: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Equation (1), image by image."""
    centred = disparity - jnp.median(disparity, axis=(1, 2), keepdims=True)
    spread = jnp.mean(jnp.abs(centred), axis=(1, 2), keepdims=True)
    return centred / jnp.maximum(spread, _LEAST_SPREAD)


def depth_loss(
    params: dict[str, Any],
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    model: DepthConfig,
    simulation: SimulationConfig,
    objective: DepthObjectiveConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (5) of the all-in-focus images of one scene batch; pure.

    Args:
        params: the network's tree, its part `DEPTH`.
        batch: scene batch (docs/architecture.md).
        keys: one typed key a scene; crops and colours come from it.
        model: the network, of the relative kind.
        simulation: frames and how scenes are varied.
        objective: settings of this objective.

    Returns:
        (loss, parts); `correlation` is Pearson's between d̂ and d, mean over the images.
    """
    scenes, _ = draw_scenes(batch, keys, simulation)
    images = 0.5 * (to_model_range(jnp.minimum(scenes.image, 1.0)) + 1.0)
    answer = depth(model, params[DEPTH], images)
    both = (answer, scenes.disparity)
    found, truth = both if objective.alignment == "none" else map(normalized, both)
    error = found - truth
    absolute = jnp.mean(jnp.abs(error))
    gradient = edge_loss(error[..., None], objective.gradient_scales)
    loss = absolute + objective.gradient_weight * gradient
    return loss, {
        "loss": loss,
        "disparity_loss": absolute,
        "gradient_loss": gradient,
        "correlation": jnp.mean(correlation(answer, scenes.disparity)),
    }


def correlation(first: Float[Array, "b h w"], second: Float[Array, "b h w"]) -> Float[Array, " b"]:
    """Pearson's, image by image; 0 where one of the two is constant."""
    first, second = (x - jnp.mean(x, axis=(1, 2), keepdims=True) for x in (first, second))
    product = jnp.sum(first * second, axis=(1, 2))
    lengths = jnp.sum(first**2, axis=(1, 2)) * jnp.sum(second**2, axis=(1, 2))
    # The root's slope is not finite at 0; constant maps have no correlation anyway.
    return jnp.where(lengths > 0, product / jnp.sqrt(jnp.where(lengths > 0, lengths, 1.0)), 0.0)
