"""From photographs to what the network is told, the same in training and in inference.

Values pass from linear light to the model's range once, here: y = 2 srgb(x) − 1.

Physics as a guide: where disparity is given, the reference is put through the lens blur (as if it
were all in focus, or with the missing blur only where its camera is known), and that `guess` is
shown to the network. `Conditions.visible` cuts what is not
given: without disparity the guess is the reference itself.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.models import Conditions
from bokeh_jax.optics import Lens, linear_to_srgb, srgb_to_linear
from bokeh_jax.simulation import physics_guess


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
