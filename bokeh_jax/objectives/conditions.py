"""From photographs to what the network is told, the same in training and in inference.

All is made in pixels, and then brought to what the network works on (`encode_conditions`).

Values pass from linear light to the model's range once, here: y = 2 srgb(x) − 1.

Physics as a guide: where disparity is given, the reference is put through the lens blur (as if it
were all in focus, or with the missing blur only where its camera is known), and that `guess` is
shown to the network. `Conditions.visible` cuts what is not
given: without disparity the guess is the reference itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.models import CodecConfig, Conditions, RefocusConfig
from bokeh_jax.models.codec import encode, to_grid
from bokeh_jax.optics import Lens, linear_to_srgb, srgb_to_linear
from bokeh_jax.simulation import physics_guess

_STORED = ("reference", "targets", "guess", "target_defocus", "reference_defocus", "cameras")


def to_model_range(image: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Linear light -> sRGB-encoded values in [-1, 1] (lights above 1 stay above)."""
    return 2.0 * linear_to_srgb(image) - 1.0


def from_model_range(values: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Model values -> linear light in [0, 1]."""
    return srgb_to_linear(jnp.clip(0.5 * (values + 1.0), 0.0, 1.0))


def build_conditions(
    reference: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    lens: Lens,
    focus_point: Float[Array, "b 2"],
    *,
    disparity_given: Float[Array, " b"],
    camera_given: Float[Array, " b"],
    reference_lens: Lens,
    reference_camera_given: Float[Array, " b"],
    guide: bool,
    max_radius_px: float,
) -> Conditions:
    """What the network is told of one asked photograph an example.

    Args:
        reference: the photograph to refocus, linear light.
        disparity: its disparity; any finite values where not given.
        lens: the asked camera, batch shape [b].
        focus_point: (x, y) in [0, 1].
        disparity_given: 1 where `disparity` may be used, else 0.
        camera_given: 0 drops the camera (for guidance).
        reference_lens: the camera of the reference, where known.
        reference_camera_given: 1 where `reference_lens` may be used.
        guide: render the physics guess; without, the guess is the reference.
        max_radius_px: static bound of the blur radius.
    """
    width_px = reference.shape[2]
    encoded = to_model_range(reference)
    guess = encoded
    if guide:
        rendered = physics_guess(
            reference,
            disparity,
            lens,
            max_radius_px=max_radius_px,
            reference_lens=reference_lens,
            reference_camera_given=reference_camera_given,
        )
        guess = to_model_range(rendered)
    return Conditions(
        reference=encoded,
        guess=guess,
        target_defocus=lens.signed_radius_px(disparity) / width_px,
        reference_defocus=reference_lens.signed_radius_px(disparity) / width_px,
        disparity_given=disparity_given,
        reference_camera_given=reference_camera_given,
        focus_point=focus_point,
        focus_disparity=lens.focus_disparity,
        blur=lens.blur_px / width_px,
        camera_given=camera_given,
    ).visible()


def with_text(
    conditions: Conditions,
    batch: Mapping[str, Any],
    model: RefocusConfig,
    text_given: Float[Array, " s"] | None = None,
) -> Conditions:
    """Conditions with the embeddings of their scenes' captions, float32, as far as the model reads.

    A caption that is withheld is zeros, tokens and pooled embedding: the scenes of a batch have
    one shape. (An empty prompt, where no scene has a caption, is no tokens at all.)

    Args:
        conditions: of b photographs, b a multiple of s, scene by scene.
        batch: of s scenes, with `text` [s, t, d] and `pooled` [s, p] where there are any.
        model: takes `text` where it has `text_dim`, `pooled` where it has `pooled_dim`.
        text_given: 0 withholds a scene's caption; None withholds none.
    """
    sizes = {"text": model.text_dim, "pooled": model.pooled_dim}
    taken = {}
    for name in (name for name, size in sizes.items() if size is not None and name in batch):
        value = jnp.asarray(batch[name]).astype(jnp.float32)
        if text_given is not None:
            value = value * text_given.reshape(-1, *(1,) * (value.ndim - 1))
        count = conditions.blur.shape[0] // value.shape[0]
        taken[name] = jnp.repeat(value, count, axis=0)
    return dataclasses.replace(conditions, **taken)


def encode_conditions(
    conditions: Conditions,
    references: Float[Array, "s h w 3"],
    params: Any,
    *,
    codec: CodecConfig,
    guide: bool,
) -> Conditions:
    """Conditions in pixels -> what the network works on.

    Args:
        conditions: of b photographs, b a multiple of s, scene by scene.
        references: of the s scenes, in the model's range: encoded once a scene.
        params: the network's parameters.
        codec: between the two.
        guide: whether the guess is another picture than the reference.
    """
    if codec.kind == "pixels":
        return conditions
    count = conditions.reference.shape[0] // references.shape[0]
    reference = jnp.repeat(encode(codec, params, references), count, axis=0)
    return dataclasses.replace(
        conditions,
        reference=reference,
        guess=encode(codec, params, conditions.guess) if guide else reference,
        target_defocus=to_grid(codec, conditions.target_defocus),
        reference_defocus=to_grid(codec, conditions.reference_defocus),
    )


def stored_conditions(
    latents: Mapping[str, Any],
    *,
    disparity_given: Float[Array, " b"],
    camera_given: Float[Array, " b"],
    reference_camera_given: Float[Array, " b"],
    guide: bool,
) -> Conditions:
    """Conditions of all targets, flattened scene by scene, from a batch of stored latents.

    Args:
        latents: as `latents.make_latents` gives them.
        disparity_given, camera_given, reference_camera_given: 0 withholds.
        guide: whether the guess is another picture than the reference.
    """
    wide = {name: jnp.asarray(latents[name]).astype(jnp.float32) for name in _STORED}
    scenes, count = wide["targets"].shape[:2]

    def per_target(value: Float[Array, "b ..."]) -> Float[Array, "n ..."]:
        return jnp.repeat(value, count, axis=0)

    def flat(value: Float[Array, "b m ..."]) -> Float[Array, "n ..."]:
        return value.reshape(scenes * count, *value.shape[2:])

    reference, cameras = per_target(wide["reference"]), flat(wide["cameras"])
    camera_known = per_target(reference_camera_given)
    guess = reference
    if guide:
        known = camera_known[:, None, None, None] > 0
        guess = jnp.where(known, flat(wide["guess"][:, 1]), flat(wide["guess"][:, 0]))
    return Conditions(
        reference=reference,
        guess=guess,
        target_defocus=flat(wide["target_defocus"]),
        reference_defocus=per_target(wide["reference_defocus"]),
        disparity_given=per_target(disparity_given),
        reference_camera_given=camera_known,
        focus_point=cameras[:, :2],
        focus_disparity=cameras[:, 2],
        blur=cameras[:, 3],
        camera_given=per_target(camera_given),
    ).visible()
