"""The scenes of the generated benchmark and their photographs; nothing is written here.

Scene s of n is made of photographs that training never uses (the split `eval_heldout`), in a random
stream of its own, and has one of the frames: frame s mod (number of frames). Scenes without three
planes of focus that differ (`focus_points`) are passed over, so index and number may differ.

Photographs are taken with all layers known (`optics.render_layers`, light clipped at white after
the lens), so what a defocused outline uncovers is true, not invented.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key, UInt8

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.focus_points import FocusPlane, focus_planes
from bokeh_jax.optics import Lens, linear_to_srgb
from bokeh_jax.simulation import DepthNoiseConfig, Scene, crop_scene, damage_disparity, photograph
from bokeh_jax.simulation.scene import margin_for
from data_pipeline.frames import FrameSizes
from data_pipeline.layered import STYLES
from data_pipeline.layered.composition import Composition, compose
from data_pipeline.layered.source import GENERATOR_VERSION, provenance
from data_pipeline.layered.textures import Textures
from data_pipeline.source import SkippedScene, check_int, check_split

SPLIT = "eval_heldout"
# Keeps the benchmark's scenes apart from those that `eval` makes of the same photographs.
STREAM = 128
# Candidates a scene may take before the settings are at fault.
_MOST_CANDIDATES = 200


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What decides a generated benchmark, together with the textures.

    Attributes:
        scenes: how many; at least 1.
        sizes_px: sides of square frames; those of other ratios have about as many pixels.
        ratios: width to height.
        multiple_px: of which both sides of a frame are multiples.
        blur_fractions: K over the width, one of each blur level, rising.
        least_gap: disparity between two planes of focus.
        max_layers: of a scene.
        style: key of `STYLES`.
        depth_noise: how disparity is damaged.
        seed: of scenes and damage.
    """

    scenes: int = 150
    sizes_px: tuple[int, ...] = (96, 128, 192, 256)
    ratios: tuple[str, ...] = ("1:1", "3:2", "2:3", "16:9")
    multiple_px: int = 8
    blur_fractions: tuple[float, ...] = (0.03, 0.06, 0.12)
    least_gap: float = 0.15
    max_layers: int = 5
    style: str = "rich"
    depth_noise: DepthNoiseConfig = dataclasses.field(
        default_factory=lambda: DepthNoiseConfig(rate=1.0)
    )
    seed: int = 150

    def __post_init__(self):
        check_int("scenes", self.scenes, 1, 100_000)
        check_int("seed", self.seed, 0, 2**32 - 1)
        edges = (0.0, *self.blur_fractions)
        rising = all(low < high for low, high in itertools.pairwise(edges))
        if not self.blur_fractions or not rising or edges[-1] > 0.25:
            raise InvalidInput(
                f"blur_fractions is {self.blur_fractions}; allowed: rising, above 0, up to 0.25"
            )
        if self.style not in STYLES:
            raise InvalidInput(f"style is {self.style!r}; allowed: {', '.join(STYLES)}")
        self.frames()

    def frames(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every shape."""
        sizes = FrameSizes(self.sizes_px, self.ratios, self.multiple_px)
        return sizes.frames()

    def max_radius_px(self, width_px: int) -> float:
        """Largest blur radius in a frame this wide: disparities differ by 1 at most."""
        return float(np.ceil(self.blur_fractions[-1] * width_px))

    def recipe(self, textures: Textures) -> dict[str, Any]:
        """All that decides the content, as JSON values."""
        return {
            **dataclasses.asdict(self),
            "sizes_px": list(self.sizes_px),
            "ratios": list(self.ratios),
            "blur_fractions": list(self.blur_fractions),
            "split": SPLIT,
            "stream": STREAM,
            "generator_version": GENERATOR_VERSION,
            "textures_sha256": textures.digest,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PhotographedScene:
    """A scene and all that is seen of it; pictures are sRGB-encoded.

    Attributes:
        number: 0 to n - 1.
        index: of the scene in the source's stream.
        planes: `PLANES` of focus.
        all_in_focus: [h, w, 3].
        photographs: focused on each plane, with each blur level, [planes, levels, h, w, 3].
        disparity: of the visible surfaces, relative.
        damaged: what a method is told in place of it.
        made_of: textures and silhouettes, nearest first.
    """

    number: int
    index: int
    planes: tuple[FocusPlane, ...]
    all_in_focus: UInt8[np.ndarray, "h w 3"]
    photographs: UInt8[np.ndarray, "p k h w 3"]
    disparity: Float32[np.ndarray, "h w"]
    damaged: Float32[np.ndarray, "h w"]
    made_of: dict[str, Any]


def photographed_scenes(
    settings: BenchmarkSettings, textures: Textures
) -> Iterator[PhotographedScene]:
    """Every scene of the benchmark, in order.

    Raises:
        InvalidInput: the settings give no scenes with three planes of focus, or a photograph of
            the textures cannot be read.
    """
    frames, first = settings.frames(), 0
    for number in range(settings.scenes):
        frame = frames[number % len(frames)]
        for index in range(first, first + _MOST_CANDIDATES):
            composition = _composition(settings, frame, index, textures)
            scene = _scene(composition, frame, settings)
            planes = focus_planes(
                np.asarray(scene.disparity[0]),
                np.asarray(_levels(scene.image[0])),
                least_gap=settings.least_gap,
            )
            if planes is not None:
                break
        else:
            raise InvalidInput(
                f"least_gap is {settings.least_gap}; allowed: less, as none of "
                f"{_MOST_CANDIDATES} scenes of at most {settings.max_layers} layers has three "
                "planes so far apart"
            )
        first = index + 1
        yield _photographed(number, index, scene, planes, provenance(composition), settings)


def _composition(
    settings: BenchmarkSettings, frame: tuple[int, int], index: int, textures: Textures
) -> Composition:
    try:
        return compose(
            (settings.seed, check_split(SPLIT) + STREAM, index),
            frame,
            textures.of_split(SPLIT),
            max_layers=settings.max_layers,
            style=STYLES[settings.style],
            margin_px=margin_for(settings.max_radius_px(frame[1])),
        )
    except SkippedScene as error:
        raise InvalidInput(f"texture {error}; allowed: photographs that can be read") from error


def _scene(composition: Composition, frame: tuple[int, int], settings: BenchmarkSettings) -> Scene:
    """A batch of one scene on the device, padded to the most layers."""
    absent = settings.max_layers - len(composition.layers)
    record = {
        "layers": np.pad(composition.layers, [(0, absent), (0, 0), (0, 0), (0, 0)]),
        "layer_disparity": np.pad(composition.planes, [(0, absent), (0, 0)]),
        "layer_gain": np.pad(composition.gains, (0, absent), constant_values=1.0),
    }
    return _cropped(record, frame=frame, max_radius_px=settings.max_radius_px(frame[1]))


@functools.partial(jax.jit, static_argnames=("frame", "max_radius_px"))
def _cropped(record: dict[str, Array], *, frame: tuple[int, int], max_radius_px: float) -> Scene:
    scene = crop_scene(record, None, frame=frame, max_radius_px=max_radius_px)
    return jax.tree.map(lambda leaf: leaf[None], scene)


def _photographed(
    number: int,
    index: int,
    scene: Scene,
    planes: tuple[FocusPlane, ...],
    made_of: dict[str, Any],
    settings: BenchmarkSettings,
) -> PhotographedScene:
    width_px = scene.disparity.shape[2]
    focus = np.array([plane.disparity for plane in planes], np.float32)
    # One blur level a call: the renderer skips the radii that none of its photographs has.
    levels = [
        _shoot(
            scene,
            focus,
            np.full(len(planes), fraction * width_px, np.float32),
            max_radius_px=settings.max_radius_px(width_px),
        )
        for fraction in settings.blur_fractions
    ]
    key = jax.random.fold_in(jax.random.key(settings.seed), number)
    damaged = _damaged(scene.disparity, key[None], noise=settings.depth_noise)
    return PhotographedScene(
        number=number,
        index=index,
        planes=planes,
        all_in_focus=np.asarray(_levels(scene.image[0])),
        photographs=np.stack([np.asarray(level) for level in levels], axis=1),
        disparity=np.asarray(scene.disparity[0]),
        damaged=np.asarray(damaged),
        made_of=made_of,
    )


@jax.jit
def _levels(light: Float[Array, "*b h w 3"]) -> Array:
    """Linear light, clipped at white, as sRGB-encoded bytes."""
    encoded = linear_to_srgb(jnp.minimum(light, 1.0))
    return jnp.round(255.0 * jnp.clip(encoded, 0.0, 1.0)).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames=("max_radius_px",))
def _shoot(
    scene: Scene,
    focus_disparity: Float[Array, " p"],
    blur_px: Float[Array, " p"],
    *,
    max_radius_px: float,
) -> Array:
    lenses = Lens(focus_disparity=focus_disparity[None], blur_px=blur_px[None])
    return _levels(photograph(scene, lenses, max_radius_px=max_radius_px)[0])


@functools.partial(jax.jit, static_argnames=("noise",))
def _damaged(
    disparity: Float[Array, "1 h w"], keys: Key[Array, " 1"], *, noise: DepthNoiseConfig
) -> Float[Array, "h w"]:
    return damage_disparity(disparity, keys, noise)[0]
