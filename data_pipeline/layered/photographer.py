"""The photographer: takes layered scenes with real cameras, focused on their subjects.

A scene is composed with a margin beyond the frame, placed in metres before a camera (`camera`), and
rendered through its thin lens layer by layer, in linear light (`bokeh_jax.optics.layers`). What is
stored is what a photographer's archive holds: the photograph and its EXIF, and beside it the same
view in focus everywhere with its disparity. EXIF has no subject distance; what was focused on is
stored apart, for evaluations only.

The margin is as wide as the largest blur, so light that comes from beyond the frame is real.

A worker process compiles the renderer once for each frame and number of layers. It runs on the
processor; the builder's processes see no accelerator. The last bit of a float may differ between
kinds of processors, and with it a stored pixel by one level.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from bokeh_jax.errors import InvalidInput
from bokeh_jax.optics import (
    Lens,
    composite_layers,
    linear_to_srgb,
    render_layers,
    srgb_to_linear,
    visible_disparity,
)
from data_pipeline.layered.camera import draw_shot
from data_pipeline.layered.captions import caption
from data_pipeline.layered.composition import Composition
from data_pipeline.layered.parts import to_uint8
from data_pipeline.layered.source import LayeredSource, provenance
from data_pipeline.layered.style import RICH
from data_pipeline.layered.subjects import USUAL, Habits, choose_subject
from data_pipeline.source import HiddenTruth, PhotoScene, check_split

# Raise it whenever the same seed would give other photographs.
PHOTOGRAPHER_VERSION = 1

# Keeps the photographer's scenes apart from those that a layered source of the same seed yields.
STREAM = 64
# The random stream of the camera and the subject.
CAMERA_STREAM = 3
# Beyond the largest radius: the kernels' soft rims, and interpolation.
RIM_PX = 2
# With the least blur nearer to the largest, f-numbers of both would hardly be found.
MOST_LEAST = 0.75


@dataclasses.dataclass(frozen=True)
class PhotographerSource:
    """Endless photographs of random layered scenes.

    Attributes:
        scenes: what is photographed; its textures, frames, style and seed.
        max_blur_fraction: the largest radius of blur over the frame's width, 0.005 to 0.2. It is
            kept by the choice of f-number and, where that is not enough, of the scene's depth.
        deep_rate: share of photographs with deep depth of field, at f/16 or narrower.
        least_blur_fraction: the others are blurred at least so much, over the frame's width,
            somewhere: cameras that cannot are put back; 0 takes the first camera.
        habits: what is focused on.
        name: of the source.
    """

    scenes: LayeredSource = dataclasses.field(default_factory=lambda: LayeredSource(style=RICH))
    max_blur_fraction: float = 0.05
    deep_rate: float = 0.15
    least_blur_fraction: float = 0.0
    habits: Habits = USUAL
    name: str = "photographer"

    def __post_init__(self):
        if not 0.005 <= self.max_blur_fraction <= 0.2:
            raise InvalidInput(
                f"max_blur_fraction is {self.max_blur_fraction}; allowed: 0.005 to 0.2"
            )
        if not 0 <= self.deep_rate <= 1:
            raise InvalidInput(f"deep_rate is {self.deep_rate}; allowed: 0 to 1")
        if not 0 <= self.least_blur_fraction <= MOST_LEAST * self.max_blur_fraction:
            raise InvalidInput(
                f"least_blur_fraction is {self.least_blur_fraction}; allowed: 0 to "
                f"{MOST_LEAST * self.max_blur_fraction:g}, {MOST_LEAST:g} of max_blur_fraction"
            )
        self.habits.checked()

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the photographs' content, as JSON values."""
        return {
            "source": self.name,
            "kind": "photographs",
            "photographer_version": PHOTOGRAPHER_VERSION,
            "scenes": self.scenes.recipe(),
            "max_blur_fraction": self.max_blur_fraction,
            "deep_rate": self.deep_rate,
            "least_blur_fraction": self.least_blur_fraction,
            "habits": self.habits._asdict(),
        }

    def num_scenes(self, split: str) -> int | None:
        """Return None: every split is endless."""
        return self.scenes.num_scenes(split)

    def scene(self, split: str, index: int) -> PhotoScene:
        """Return photograph `index` of `split`; a pure function of its arguments and the source.

        `focal_length_35mm_mm` is that of the frame's width: the part of the sensor that the frame
        shows is 36 mm · focal_length_mm / focal_length_35mm_mm wide.

        Raises:
            InvalidInput: no such split.
            SkippedScene: a photograph of a texture folder cannot be read.
        """
        rng = np.random.default_rng(
            [self.scenes.seed, check_split(split) + STREAM, index, CAMERA_STREAM]
        )
        composition = self.scenes.composition(
            split, index, stream=STREAM, margin_share=self.max_blur_fraction, rim_px=RIM_PX
        )
        planes = _seen_planes(composition)
        seen = composition.seen()
        frame = (seen.shape[1], seen.shape[2])
        subject = choose_subject(rng, composition.parts, seen, self.habits)
        x, y = subject.point_px
        focus = float(planes[subject.layer] @ np.array([x, y, 1], np.float32))
        largest_px = self.max_blur_fraction * frame[1]
        # Whatever other devices there are serve the training.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            shot = draw_shot(
                rng,
                frame,
                focus,
                float(np.abs(_corner_disparity(composition, planes) - focus).max()),
                max_radius_px=largest_px,
                deep=bool(rng.random() < self.deep_rate),
                least_radius_px=self.least_blur_fraction * frame[1],
            )
            taken = take_photograph(composition, planes, shot.relative, largest_px)
        image, defocused, disparity = taken
        return PhotoScene(
            image=to_uint8(image),
            defocused=to_uint8(defocused),
            disparity=np.clip(disparity, 0, 1),
            mask=to_uint8(seen[subject.layer]),
            disparity_range_per_m=shot.disparity_range_per_m,
            caption=caption(composition, self.scenes.textures.words),
            camera=shot.exif,
            hidden=HiddenTruth(
                focus_distance_m=shot.focus_distance_m,
                subject_xy=((x + 0.5) / frame[1], (y + 0.5) / frame[0]),
            ),
            provenance={
                **provenance(composition),
                "body": shot.body.name,
                "lens": shot.lens.name,
            },
        )


def take_photograph(
    composition: Composition,
    planes: Float32[np.ndarray, "l 3"],
    lens: Lens,
    max_radius_px: float,
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Render a scene without its margin: in focus everywhere, through a lens, and its disparity.

    Args:
        composition: the scene.
        planes: of the layers, in pixels of the frame without its margin.
        lens: of relative disparity.
        max_radius_px: static; of the blur.

    Returns:
        sRGB-encoded values, in which white is 1 and lights are brighter, and relative disparity.
    """
    taken = _take(
        jnp.asarray(composition.layers.astype(np.float32) / 255),
        jnp.asarray(composition.gains),
        jnp.asarray(planes),
        lens,
        max_radius_px=max_radius_px,
        margin_px=composition.margin_px,
    )
    image, defocused, disparity = (np.asarray(array) for array in taken)
    return image, defocused, disparity


@functools.partial(jax.jit, static_argnames=("max_radius_px", "margin_px"))
def _take(
    layers: Float[Array, "l hm wm 4"],
    gains: Float[Array, " l"],
    planes: Float[Array, "l 3"],
    lens: Lens,
    *,
    max_radius_px: float,
    margin_px: int,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 3"], Float[Array, "h w"]]:
    light = srgb_to_linear(layers[..., :3]) * gains[:, None, None, None]
    linear = jnp.concatenate([light, layers[..., 3:]], axis=-1)
    photograph = render_layers(
        linear, planes, lens, max_radius_px=max_radius_px, margin_px=margin_px
    )
    sharp = composite_layers(linear, margin_px=margin_px)
    disparity = visible_disparity(layers[..., 3], planes, margin_px=margin_px)
    return linear_to_srgb(sharp), linear_to_srgb(photograph), disparity


def _seen_planes(composition: Composition) -> Float32[np.ndarray, "l 3"]:
    """The planes (a, b, c) in pixels of the frame without its margin."""
    planes = composition.planes.copy()
    planes[:, 2] += (planes[:, 0] + planes[:, 1]) * composition.margin_px
    return planes


def _corner_disparity(
    composition: Composition, planes: Float32[np.ndarray, "l 3"]
) -> Float32[np.ndarray, "l 4"]:
    """Disparity of each layer at the corners of what is stored, the margin with it."""
    height, width = composition.layers.shape[1:3]
    low = -composition.margin_px
    x, y = low + width - 1, low + height - 1
    corners = np.array([[low, low, 1], [x, low, 1], [low, y, 1], [x, y, 1]], np.float32)
    return planes @ corners.T
