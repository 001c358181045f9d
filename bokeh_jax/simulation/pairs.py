"""Simulated pairs: scene batch -> (reference, M targets, cameras, stacking weights).

Runs inside the compiled train step, so hundreds of variants of a scene cost no storage: every step
photographs its scenes with new cameras. Source of the scheme: DiffCamera (arXiv 2509.26599), which
renders variants of all-in-focus photographs offline; here the scene's hidden layers are known, so
the truth of every pair is exact.

Stacking weights w_i(x) = softmax_i(−|s_i(x)| / softness) select, at every pixel, the target in
which it is sharpest; Σ_i w_i = 1, and Σ_i w_i I_i is the multi-focus photograph.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.optics import Lens, in_focus_weights, render_defocus
from bokeh_jax.pytree import pytree_dataclass
from bokeh_jax.simulation.augment import AugmentConfig, draw_color_map, flip_record
from bokeh_jax.simulation.cameras import CameraConfig, Cameras, sample_cameras
from bokeh_jax.simulation.scene import (
    Scene,
    crop_scene,
    largest_frame,
    margin_for,
    photograph,
    recolor,
)

# What a batch holds beside its scenes: nothing of it is photographed.
_NOT_SEEN = ("scene_id", "text", "pooled", "caption")


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Attributes:
        size_px: side of the working frame of square scenes; others have about as many pixels.
        stored_size_px: where scenes are stored in several resolutions, the side of those whose
            working frame is `size_px`; the frames of others are larger or smaller in proportion.
            None gives all the same number of pixels.
        frame_multiple_px: of which both sides of a working frame are multiples; the model's patch
            size divides it.
        augment: how scenes are varied before they are photographed.
        cameras: the camera distribution.
        stacking_softness_px: blur-radius difference over which the weights pass from one target
          to another.
    """

    size_px: int = 32
    stored_size_px: int | None = None
    frame_multiple_px: int = 8
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    stacking_softness_px: float = 0.5

    def __post_init__(self):
        if self.size_px < 8:
            raise ValueError(f"size_px is {self.size_px}; allowed: 8 or more")
        if self.stored_size_px is not None and self.stored_size_px < self.size_px:
            raise ValueError(
                f"stored_size_px is {self.stored_size_px}; allowed: None, or "
                f"size_px={self.size_px} or more"
            )
        if not 1 <= self.frame_multiple_px <= self.size_px or self.size_px % self.frame_multiple_px:
            raise ValueError(
                f"frame_multiple_px is {self.frame_multiple_px}; allowed: divisors of "
                f"size_px={self.size_px}"
            )
        if self.stacking_softness_px <= 0:
            raise ValueError(
                f"stacking_softness_px is {self.stacking_softness_px}; allowed: above 0"
            )

    def frame_of(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the working frame of scenes stored in frames of this size."""
        side_px = float(self.size_px)
        if self.stored_size_px is not None:
            side_px *= math.sqrt(stored[0] * stored[1]) / self.stored_size_px
        return largest_frame(stored, side_px=side_px, multiple_px=self.frame_multiple_px)

    def max_radius_px(self, width_px: int) -> float:
        """Largest blur radius that is asked of a frame this wide: |d − d_f| is at most 1."""
        return float(math.ceil(self.cameras.blur_fraction_max * width_px))

    def needed_px(self, stored: tuple[int, int], *, layered: bool) -> tuple[int, int]:
        """(height, width) that stored frames must have: the working frame and its margin."""
        height, width = self.frame_of(stored)
        margin_px = margin_for(self.max_radius_px(width)) if layered else 0
        return height + 2 * margin_px, width + 2 * margin_px


@pytree_dataclass
class Pairs:
    """Simulated photographs of a batch of scenes, in linear light.

    Attributes:
        reference: [b, h, w, 3].
        targets: [b, m, h, w, 3].
        cameras: lenses with batch shapes [b] and [b, m]; focus points [b, m, 2].
        disparity: of the visible surface, [b, h, w].
        weights: stacking weights, [b, m, h, w], summing to 1 over m.
    """

    reference: Float[Array, "b h w 3"]
    targets: Float[Array, "b m h w 3"]
    cameras: Cameras
    disparity: Float[Array, "b h w"]
    weights: Float[Array, "b m h w"]


def photograph_pairs(scenes: Scene, cameras: Cameras, config: SimulationConfig) -> Pairs:
    """Photographs a batch of scenes with given cameras; batch axis `b` on every leaf."""
    lenses = jax.tree.map(
        lambda reference, targets: jnp.concatenate([reference[:, None], targets], axis=1),
        cameras.reference,
        cameras.targets,
    )
    max_radius_px = config.max_radius_px(scenes.disparity.shape[-1])
    # A file holds at most white: lights are clipped after the lens, not before it.
    photographs = jnp.minimum(photograph(scenes, lenses, max_radius_px=max_radius_px), 1.0)
    return Pairs(
        reference=photographs[:, 0],
        targets=photographs[:, 1:],
        cameras=cameras,
        disparity=scenes.disparity,
        weights=in_focus_weights(
            scenes.disparity, cameras.targets, softness_px=config.stacking_softness_px
        ),
    )


def draw_scenes(
    batch: dict[str, Array], keys: Key[Array, " b"], config: SimulationConfig
) -> tuple[Scene, Cameras]:
    """Draws a crop and the cameras of every scene of a batch; nothing is rendered yet.

    Args:
        batch: scene batch (docs/architecture.md), on the device.
        keys: one typed key an example, [b]; draws depend on nothing else.
        config: what is simulated.
    """
    records = {name: value for name, value in batch.items() if name not in _NOT_SEEN}
    planes = records["layers"][..., 0] if "layers" in records else records["disparity"]
    frame = config.frame_of((planes.shape[-2], planes.shape[-1]))

    def draw(record: dict[str, Array], key: Key[Array, ""]) -> tuple[Scene, Cameras]:
        scene = crop_scene(
            flip_record(record, jax.random.fold_in(key, 2), config.augment),
            jax.random.fold_in(key, 0),
            frame=frame,
            max_radius_px=config.max_radius_px(frame[1]),
        )
        if config.augment.changes_colors:
            scene = recolor(scene, draw_color_map(jax.random.fold_in(key, 3), config.augment))
        return scene, sample_cameras(jax.random.fold_in(key, 1), scene.disparity, config.cameras)

    return jax.vmap(draw)(records, keys)


def simulate_pairs(
    batch: dict[str, Array], keys: Key[Array, " b"], config: SimulationConfig
) -> Pairs:
    """Draws crops and cameras as `draw_scenes` does, and photographs the scenes with them."""
    scenes, cameras = draw_scenes(batch, keys, config)
    return photograph_pairs(scenes, cameras, config)


def missing_radius_px(
    radius_px: Float[Array, "*s"], present_px: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """What has to be added to a blur of radius `present_px` to make one of `radius_px`; see below.

    Args:
        radius_px: asked, signed.
        present_px: of the photograph; its sign does not matter.
    """
    # As a product, so that equal radii leave exactly nothing: of a difference of squares a fused
    # multiplication leaves the square's rounding, whose root is not small.
    asked_px, there_px = jnp.abs(radius_px), jnp.abs(present_px)
    missing_px = jnp.sqrt(jnp.maximum((asked_px - there_px) * (asked_px + there_px), 0.0))
    return jnp.sign(radius_px) * missing_px


def physics_guess(
    reference: Float[Array, "*b h w 3"],
    disparity: Float[Array, "*b h w"],
    lens: Lens,
    *,
    max_radius_px: float,
    reference_lens: Lens | None = None,
    reference_camera_given: Float[Array, "*b"] | None = None,
) -> Float[Array, "*b h w 3"]:
    """The lens blur's own answer for the target, from the reference photograph.

    Of an unknown reference camera nothing is assumed: the reference is blurred as if it were all in
    focus, which is too much where it was out of focus already. A known one leaves only the missing
    blur to add; variances of convolved discs add up, so with target radius s and reference radius r

        s_missing = sign(s) sqrt(max(s² − r², 0)).

    Sharpness that the reference has lost is not brought back either way.

    Args:
        reference: linear light.
        disparity: of the visible surfaces.
        lens: the asked camera, batch shape [*b].
        max_radius_px: static bound of the blur radius.
        reference_lens: the reference's camera, batch shape [*b]; None where none is known.
        reference_camera_given: 1 where `reference_lens` may be used, else 0.
    """
    radius_px = lens.signed_radius_px(disparity)
    if reference_lens is not None and reference_camera_given is not None:
        given = reference_camera_given[..., None, None]
        missing_px = missing_radius_px(radius_px, reference_lens.signed_radius_px(disparity))
        # Without a known camera the radius itself, bit for bit.
        radius_px = jnp.where(given > 0, missing_px, radius_px)
    # The radius map itself plays the disparity's part: K = 1 px per px, focus at 0.
    unit = Lens(
        focus_disparity=jnp.zeros(radius_px.shape[:-2]), blur_px=jnp.ones(radius_px.shape[:-2])
    )
    return render_defocus(reference, radius_px, unit, max_radius_px=max_radius_px)
