"""The camera distribution: from which cameras a training pair is photographed.

One scene gives one reference photograph and M targets. With blur K (signed radius s = K (d − d_f)):

    reference  K_r ~ U[K_min, K_max]   or 0 with `all_in_focus_reference_rate`   (adding bokeh)
    targets    K_t ~ U[K_min, K_max]   or 0 with `all_in_focus_target_rate`      (deblurring)
    otherwise both are defocused                                                  (refocusing)

An all-in-focus target is drawn only for a defocused reference: a pair of two sharp photographs
teaches nothing. Focus follows the way people focus, by a point: a pixel is drawn and the disparity
seen there becomes the focus plane. Of several points drawn, the first target takes the one farthest
in disparity from the reference's (so it is refocused, and doing nothing is wrong), every next one
the one farthest from the targets before it. The M targets share K, because the stacking constraint
blends photographs of one aperture with different focus (DiffCamera, arXiv 2509.26599).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from bokeh_jax.optics import Lens
from bokeh_jax.pytree import pytree_dataclass

_CANDIDATE_POINTS = 8


@dataclasses.dataclass(frozen=True)
class CameraConfig:
    """Distribution of cameras.

    Attributes:
        num_targets: M, target photographs of a scene (at least 2: the stacking constraint).
        blur_fraction_min: least K / width, in widths per unit disparity.
        blur_fraction_max: largest K / width.
        all_in_focus_reference_rate: share of scenes whose reference is sharp everywhere.
        all_in_focus_target_rate: of the other scenes, the share whose targets are sharp everywhere.
    """

    num_targets: int = 2
    blur_fraction_min: float = 0.03
    blur_fraction_max: float = 0.12
    all_in_focus_reference_rate: float = 0.25
    all_in_focus_target_rate: float = 0.25

    def __post_init__(self):
        if self.num_targets < 2:
            raise ValueError(
                f"num_targets is {self.num_targets}; the stacking constraint needs at least 2"
            )
        if not 0.0 < self.blur_fraction_min <= self.blur_fraction_max:
            raise ValueError(
                f"blur_fraction_min={self.blur_fraction_min} and blur_fraction_max="
                f"{self.blur_fraction_max}; allowed: 0 < min <= max"
            )
        for name in ("all_in_focus_reference_rate", "all_in_focus_target_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")


@pytree_dataclass
class Cameras:
    """Cameras of one scene (or of a batch of scenes, with a leading axis `b` everywhere).

    Attributes:
        reference: lens of the reference photograph, batch shape [].
        targets: lenses of the targets, batch shape [m].
        focus_points: [m, 2], (x, y) in [0, 1]: where each target is focused.
        reference_point: [2], where the reference is focused.
    """

    reference: Lens
    targets: Lens
    focus_points: Float[Array, "*b m 2"]
    reference_point: Float[Array, "*b 2"]


def disparity_at(disparity: Float[Array, "h w"], points: Float[Array, "p 2"]) -> Float[Array, " p"]:
    """Disparity of the pixel that holds each point; (x, y) in [0, 1], x right and y down."""
    height_px, width_px = disparity.shape
    column = jnp.clip((points[:, 0] * width_px).astype(jnp.int32), 0, width_px - 1)
    row = jnp.clip((points[:, 1] * height_px).astype(jnp.int32), 0, height_px - 1)
    return disparity[row, column]


def sample_cameras(
    key: Key[Array, ""], disparity: Float[Array, "h w"], config: CameraConfig
) -> Cameras:
    """Draws the cameras of one scene; pure in `key`.

    Args:
        key: typed PRNG key of this scene and step.
        disparity: visible disparity of the frame, [0, 1].
        config: the distribution.

    Returns:
        `Cameras` with blur in pixels for this frame's width.
    """
    width_px = disparity.shape[1]
    name = lambda index: jax.random.fold_in(key, index)  # noqa: E731 - one key a quantity
    points = jax.random.uniform(name(0), (_CANDIDATE_POINTS * config.num_targets + 1, 2))
    focus_disparity = disparity_at(disparity, points)

    # Point 0 is the reference's, then come the candidates of target 0, target 1, ...
    chosen: list[Integer[Array, ""]] = []
    distance = jnp.abs(focus_disparity - focus_disparity[0])
    for target in range(config.num_targets):
        start = 1 + _CANDIDATE_POINTS * target
        window = distance[start : start + _CANDIDATE_POINTS]
        chosen.append((start + jnp.argmax(window)).astype(jnp.int32))
        taken = focus_disparity[jnp.stack(chosen)]
        distance = jnp.min(jnp.abs(focus_disparity[:, None] - taken[None]), axis=1)
    order = jnp.stack(chosen)

    blur_px = width_px * jax.random.uniform(
        name(1), (2,), minval=config.blur_fraction_min, maxval=config.blur_fraction_max
    )
    sharp_reference = jax.random.bernoulli(name(2), config.all_in_focus_reference_rate)
    sharp_target = jax.random.bernoulli(name(3), config.all_in_focus_target_rate)
    reference_blur_px = jnp.where(sharp_reference, 0.0, blur_px[0])
    target_blur_px = jnp.where(sharp_target & ~sharp_reference, 0.0, blur_px[1])
    return Cameras(
        reference=Lens(focus_disparity=focus_disparity[0], blur_px=reference_blur_px),
        targets=Lens(
            focus_disparity=focus_disparity[order],
            blur_px=jnp.full((config.num_targets,), target_blur_px),
        ),
        focus_points=points[order],
        reference_point=points[0],
    )


def seen_through(cameras: Cameras, disparity: Float[Array, "b h w"]) -> Cameras:
    """The cameras of a batch as told by a person who has another disparity map.

    Each is focused on the disparity that this map has where the camera was focused; the blur
    stays.
    """
    points = jnp.concatenate([cameras.reference_point[:, None], cameras.focus_points], axis=1)
    focus = jax.vmap(disparity_at)(disparity, points)
    return dataclasses.replace(
        cameras,
        reference=Lens(focus_disparity=focus[:, 0], blur_px=cameras.reference.blur_px),
        targets=Lens(focus_disparity=focus[:, 1:], blur_px=cameras.targets.blur_px),
    )
