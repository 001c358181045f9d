"""From a caption and a camera to a photograph: generator, depth, focus, lens.

Equations (1) to (4) of `distribution_matching`, which trains them; `inference.generator` uses them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion
from bokeh_jax.models.codec import decode
from bokeh_jax.models.depth_anything import depth as depth_of
from bokeh_jax.models.focus_transformer import FocusAnswer, likeliest
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.exif_defocus import (
    answer_of,
    candidates,
    lens_photographs,
    scenes_of,
    shared_out,
)
from bokeh_jax.objectives.few_steps import few_step_samples
from bokeh_jax.objectives.generate import CAMERA, predicted_samples, told
from bokeh_jax.objectives.matching_config import MatchingConfig, Networks
from bokeh_jax.optics import Exif

PyTree = Any
# Of n: a depth network whose answer varies by less of its value sees no depth.
_LEAST_SPREAD = 1e-3
# Of draws: beyond those of the steps and of their number, up to 4 each.
_DEPTH_STREAM = 99


class Taken(NamedTuple):
    """Equations (1) to (4); images in the models' range.

    Attributes:
        scene: A.
        disparity: d.
        answer: the focus transformer's.
        photograph: P.
        radius_px: mean radius of the blur.
    """

    scene: Float[Array, "b h w 3"]
    disparity: Float[Array, "b h w"]
    answer: FocusAnswer
    photograph: Float[Array, "b h w 3"]
    radius_px: Float[Array, " b"]


def photographs_made(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    networks: Networks,
    matching: MatchingConfig,
    in_use: bool = False,
) -> Taken:
    """Equations (1) to (4) of a batch; arguments as of `distribution_matching_loss`."""
    exif = Exif.from_fields(batch[CAMERA])
    disparity = None
    if matching.scenes == "given":
        encoded, _, disparity, _ = scenes_of(batch)
        scene = 2.0 * encoded - 1.0
    else:
        size = batch["photograph"].shape[1:3]
        scene = made_scenes(
            params, batch, keys, size, networks=networks, matching=matching, in_use=in_use
        )
    choices = None if in_use else jax.vmap(lambda key: jax.random.fold_in(key, _DEPTH_STREAM))(keys)
    return through_the_lens(
        params, scene, exif, disparity, choices, networks=networks, matching=matching
    )


def made_scenes(
    params: PyTree,
    prompts: dict[str, Any],
    keys: Key[Array, " b"],
    size: tuple[int, int],
    *,
    networks: Networks,
    matching: MatchingConfig,
    in_use: bool = False,
) -> Float[Array, "b h w 3"]:
    """Equation (1), in the models' range.

    Values beyond it are cut, as in a file, and get their gradients as if they were not: else what
    is once too bright would never come back.

    Args:
        params: the generator's.
        prompts: as `told` takes them.
        keys: one an image.
        size: height and width, pixels.
        networks: of the parameters.
        matching: settings.
        in_use: all steps are taken; in training a random number of them.
    """
    model, generation = networks.model, networks.generation

    def predictor_of(params: PyTree) -> diffusion.Predictor:
        known = told(params, prompts, text=networks.text, generation=generation)
        return lambda x, times: predicted_samples(
            params, x, times, known, model=model, generation=generation
        )

    last = None
    if not in_use:
        ends = jax.vmap(lambda key: jax.random.fold_in(key, matching.num_steps))(keys)
        last = jax.vmap(lambda key: jax.random.randint(key, (), 0, matching.num_steps))(ends)
    cell = networks.codec.downsampling
    shape = (size[0] // cell, size[1] // cell, model.image_channels)
    samples = few_step_samples(
        predictor_of, params, keys, shape, num_steps=matching.num_steps, last=last
    )
    image = decode(networks.codec, jax.lax.stop_gradient(params), samples)
    return image + jax.lax.stop_gradient(jnp.clip(image, -1.0, 1.0) - image)


def through_the_lens(
    params: PyTree,
    scene: Float[Array, "b h w 3"],
    exif: Exif,
    disparity: Float[Array, "b h w"] | None = None,
    keys: Key[Array, " b"] | None = None,
    *,
    networks: Networks,
    matching: MatchingConfig,
) -> Taken:
    """Equations (2) to (4) of scenes A; differentiable in A and σ.

    Args:
        params: the network's.
        scene: A, in the models' range.
        exif: e.
        disparity: d where it is known; D is not asked then.
        keys: one a scene, draw δ; without them it is the likeliest depth, as in use.
        networks: of the parameters.
        matching: settings.
    """
    encoded = 0.5 * (scene + 1.0)
    if disparity is None:
        disparity = asked_depth(params, encoded, networks)
    # What it is shown as a photograph it does not look at: it sees the scene.
    answer = answer_of(params, encoded, encoded, disparity, exif, model=networks.focus)
    if keys is None:
        depth = likeliest(answer)[:, None]
    else:
        depths = candidates(answer.token_disparity, matching.focus.num_proposals)
        share = shared_out(answer.attention, answer.token_disparity, depths)
        drawn = jax.vmap(jax.random.categorical)(keys, jnp.log(share + 1e-9))
        depth = jnp.take_along_axis(depths, drawn[:, None], axis=1)
    most = matching.max_blur_fraction
    scale_m = answer.scale_m[:, None]
    taken = lens_photographs(encoded, disparity, exif, depth, scale_m, max_blur_fraction=most)
    width_px = scene.shape[2]
    lens = exif.lens(depth[:, 0], answer.scale_m, width_px)
    radius_px = jnp.minimum(jnp.abs(lens.signed_radius_px(disparity)), most * width_px)
    photograph = 2.0 * taken[:, 0] - 1.0
    return Taken(scene, disparity, answer, photograph, jnp.mean(radius_px, axis=(1, 2)))


def asked_depth(
    params: PyTree, images: Float[Array, "b h w 3"], networks: Networks
) -> Float[Array, "b h w"]:
    """n(D) of sRGB-encoded images."""
    return relative(depth_of(networks.depth, jax.lax.stop_gradient(params[DEPTH]), images))


def relative(answer: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """n of equation (2), image by image, as `inference.depth` does it; 0 where all is alike."""
    low, high = (limit(answer, axis=(1, 2), keepdims=True) for limit in (jnp.min, jnp.max))
    spread = jnp.maximum(high - low, _LEAST_SPREAD * jnp.abs(high))
    return (answer - low) / jnp.maximum(spread, 1e-6)
