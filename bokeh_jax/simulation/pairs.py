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
from bokeh_jax.simulation.cameras import CameraConfig, Cameras, sample_cameras
from bokeh_jax.simulation.scene import Scene, crop_scene, photograph


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Attributes:
        size_px: height and width of the working frame.
        cameras: the camera distribution.
        stacking_softness_px: blur-radius difference over which the weights pass from one target
          to another.
    """

    size_px: int = 32
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    stacking_softness_px: float = 0.5

    def __post_init__(self):
        if self.size_px < 8:
            raise ValueError(f"size_px is {self.size_px}; allowed: 8 or more")
        if self.stacking_softness_px <= 0:
            raise ValueError(
                f"stacking_softness_px is {self.stacking_softness_px}; allowed: above 0"
            )

    @property
    def max_radius_px(self) -> float:
        """Largest blur radius that this distribution can ask for: |d − d_f| is at most 1."""
        return float(math.ceil(self.cameras.blur_fraction_max * self.size_px))


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
    photographs = photograph(scenes, lenses, max_radius_px=config.max_radius_px)
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
    records = {name: value for name, value in batch.items() if name != "scene_id"}

    def draw(record: dict[str, Array], key: Key[Array, ""]) -> tuple[Scene, Cameras]:
        scene = crop_scene(
            record,
            jax.random.fold_in(key, 0),
            size_px=config.size_px,
            max_radius_px=config.max_radius_px,
        )
        return scene, sample_cameras(jax.random.fold_in(key, 1), scene.disparity, config.cameras)

    return jax.vmap(draw)(records, keys)


def simulate_pairs(
    batch: dict[str, Array], keys: Key[Array, " b"], config: SimulationConfig
) -> Pairs:
    """Draws crops and cameras as `draw_scenes` does, and photographs the scenes with them."""
    scenes, cameras = draw_scenes(batch, keys, config)
    return photograph_pairs(scenes, cameras, config)


def physics_guess(
    reference: Float[Array, "*b h w 3"],
    disparity: Float[Array, "*b h w"],
    lens: Lens,
    *,
    max_radius_px: float,
) -> Float[Array, "*b h w 3"]:
    """The lens blur's own answer for the target: the reference blurred as if it were all in focus.

    Exact where the reference is sharp and nothing is hidden; too blurred where the reference was
    out of focus already. Linear light in and out.
    """
    return render_defocus(reference, disparity, lens, max_radius_px=max_radius_px)
