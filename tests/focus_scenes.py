"""Photographs of strips at three depths, always focused on the middle one, for tests of focus."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.optics import Exif, linear_to_srgb, render_defocus, srgb_to_linear
from data_pipeline.source import CameraExif, HiddenTruth, PhotoScene, check_split

SIDE, BLUR_FRACTION, SCALE_M = 16, 0.12, 0.15
DEPTHS = (0.2, 0.55, 0.9)
FOCUSED = DEPTHS[1]
EXIF_MM = (50.0, 50.0, 1.8)
# Metric disparities of 0 and 1.
RANGE_PER_M = (0.1, 1.1)


@functools.partial(jax.jit, static_argnames="max_radius_px")
def _taken(image, disparity, lens, max_radius_px):
    light = srgb_to_linear(image)
    return linear_to_srgb(render_defocus(light, disparity, lens, max_radius_px=max_radius_px))


@dataclasses.dataclass(frozen=True)
class FocusScenes:
    """`hidden_m` and `reported_m` change nothing but what no training may read."""

    hidden_m: float = 1 / (RANGE_PER_M[0] + FOCUSED)
    reported_m: float | None = None
    f_number: float | None = EXIF_MM[2]
    name: str = "strips"

    def recipe(self):
        return {"source": self.name, **dataclasses.asdict(self)}

    def num_scenes(self, split):
        return None

    def scene(self, split, index):
        rng = np.random.default_rng([check_split(split), index])
        image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        strips = np.repeat(rng.permutation(np.array(DEPTHS, np.float32)), (4, 8, 4))
        disparity = np.ascontiguousarray(np.broadcast_to(strips, (SIDE, SIDE)))
        exif = Exif.from_fields(jnp.asarray(EXIF_MM, jnp.float32))
        lens = exif.lens(jnp.float32(FOCUSED), jnp.float32(SCALE_M), SIDE)
        taken = _taken(
            jnp.asarray(image / np.float32(255)),
            jnp.asarray(disparity),
            lens,
            BLUR_FRACTION * SIDE,
        )
        return PhotoScene(
            image=image,
            disparity=disparity,
            defocused=np.asarray(jnp.clip(jnp.round(255 * taken), 0, 255), np.uint8),
            disparity_range_per_m=RANGE_PER_M,
            camera=CameraExif(*EXIF_MM[:2], self.f_number, self.reported_m),
            hidden=HiddenTruth(self.hidden_m, (0.5, 0.5)),
        )
