r"""Which depth is in focus, and how much blur, by a ratio of densities; no pairs, no labels.

A scene A has few depths, a photographer chooses one, and the slope of a photograph by its focus
says little about another depth: between two things nothing is sharp. So no slope is followed here.
With the attention a and the length σ of the focus transformer (`models.focus_transformer`), and
the C depths c_k of `exif_defocus.candidates`,

    (1) P_k = lens blur(A, d; focus c_k, K(e, σ_k)),  log₂ σ_k = log₂ σ + ρ z_k,  z_k ~ N(0, 1)

are photographs that somebody could have taken. A head H (`models.photo_head`) learns to tell them
from photographs R that somebody has taken, of other scenes:

    (2) L_head = mean softplus(−H(R)) + mean_k softplus(H(P_k))

It is least where H = log p_R/p_P. Between the P_k of one scene all else is alike, so

    (3) r_k = exp H(P_k) / Σ_j exp H(P_j)

is the probability that a photographer's photograph of A is P_k and none of the others, and the
transformer learns it by maximum likelihood, with p_k the attention's share of c_k
(`exif_defocus.shared_out`):

    (4) L_focus = − Σ r_k log p_k + Σ r_k (log₂ σ_k − log₂ σ)² / 2 ρ²

where σ_k and r_k are constants. That is noise-contrastive estimation (Gutmann and Hyvärinen 2010)
with proposals as the noise, and self-normalised importance sampling of σ. As the c_k are proposed
alike however sure the transformer is, (2) does not depend on what it has learned of them, so there
is no game between the two that could turn in circles or fall to one answer: with proposals drawn by
p, and the head's judgement as a reward, both were seen (docs/results.md).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.models.config import check_at_least, check_between
from bokeh_jax.models.focus_transformer import FocusAnswer
from bokeh_jax.models.photo_head import HeadConfig, realness
from bokeh_jax.objectives.exif_defocus import candidates, lens_photographs, shared_out
from bokeh_jax.optics import Exif

# Of the range of 2: more than the lens's own rounding, less than blur takes away.
HEAD_NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class FocusMatchingConfig:
    """Settings.

    Attributes:
        weight: of L_focus; 0 turns it off.
        num_proposals: C.
        proposal_octaves: ρ.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    weight: float = 1.0
    num_proposals: int = 5
    proposal_octaves: float = 0.7

    def __post_init__(self) -> None:
        check_at_least("num_proposals", self.num_proposals, 2)
        for name, low, high in (("weight", 0.0, 10.0), ("proposal_octaves", 0.05, 3.0)):
            check_between(name, getattr(self, name), low, high)


class Proposed(NamedTuple):
    """Equation (1); nothing has slopes but the shares.

    Attributes:
        photograph: P_k, in the models' range.
        share: p_k.
        octaves: log₂ σ_k.
    """

    photograph: Float[Array, "b k h w 3"]
    share: Float[Array, "b k"]
    octaves: Float[Array, "b k"]


def proposed(
    answer: FocusAnswer,
    scene: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    keys: Key[Array, " b"],
    *,
    config: FocusMatchingConfig,
    max_blur_fraction: float,
) -> Proposed:
    """Photographs of a scene at every depth.

    Args:
        answer: of the transformer.
        scene: A, sRGB-encoded in [0, 1].
        disparity: d.
        exif: of the cameras.
        keys: one a scene, of z.
        config: settings.
        max_blur_fraction: largest radius that is rendered, over the width.
    """
    count = config.num_proposals
    depths = jax.lax.stop_gradient(candidates(answer.token_disparity, count))
    z = jax.vmap(lambda key: jax.random.normal(key, (count,)))(keys)
    octaves = jnp.log2(answer.scale_m)[:, None] + config.proposal_octaves * z
    still = jax.lax.stop_gradient((scene, disparity, exif, depths, octaves))
    scene, disparity, exif, depths, octaves = still
    photographs = lens_photographs(
        scene, disparity, exif, depths, jnp.exp2(octaves), max_blur_fraction=max_blur_fraction
    )
    share = shared_out(answer.attention, answer.token_disparity, depths)
    return Proposed(2.0 * photographs - 1.0, share, octaves)


def head_logits(
    params: Any,
    photographs: Float[Array, "b k h w 3"],
    disparity: Float[Array, "b k h w"],
    exif: Exif,
    keys: Key[Array, " b"],
    config: HeadConfig,
) -> Float[Array, "b k"]:
    """H of several photographs by each camera, each under a little noise of its own.

    Args:
        params: the head's.
        photographs: in the models' range.
        disparity: of each, as the head is told it.
        exif: of the cameras.
        keys: one a camera, of the noise.
        config: of the head.
    """
    batch, count = photographs.shape[:2]
    noise = jax.vmap(lambda key: jax.random.normal(key, photographs.shape[1:]))(keys)
    flat = (photographs + HEAD_NOISE * noise).reshape(-1, *photographs.shape[2:])
    told = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), exif)
    depths = disparity.reshape(-1, *disparity.shape[2:])
    return realness(config, params, flat, depths, told).reshape(batch, count)


def head_loss(real: Float[Array, " b"], made: Float[Array, "b k"]) -> Float[Array, ""]:
    """Equation (2), of logits; 2 ln 2 where the head cannot tell."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(made))


def focus_loss(
    answer: FocusAnswer,
    proposals: Proposed,
    logits: Float[Array, "b k"],
    config: FocusMatchingConfig,
) -> Float[Array, ""]:
    """Equation (4); slopes reach attention and scale alone.

    Args:
        answer: of the transformer.
        proposals: of that answer.
        logits: the head's, of the proposals.
        config: settings.
    """
    posterior = jax.nn.softmax(jax.lax.stop_gradient(logits), axis=1)
    away = (proposals.octaves - jnp.log2(answer.scale_m)[:, None]) / config.proposal_octaves
    surprise = 0.5 * jnp.square(away) - jnp.log(proposals.share + 1e-9)
    return jnp.mean(jnp.sum(posterior * surprise, axis=1))
