"""Layered scenes: photographs cut into silhouettes and set up one behind the other.

A scene is l RGBA layers, nearest first; the last is opaque and fills the frame. Each layer's
texture is known everywhere, so what a defocused edge uncovers is known too, which no photograph
with a depth map can offer: the lens blur of such a scene is exact (layered compositing of Porter
and Duff, Compositing Digital Images, SIGGRAPH 1984, one layer's circle of confusion at a time).

Disparity of layer i is the plane a_i·x + b_i·y + c_i. Each layer owns an interval of [0, 1], the
intervals are `min_gap` apart, and a plane stays in its interval over the whole frame [0, S]²; a
linear function attains its extremes at the corners, so |a|·S/2 + |b|·S/2 may be at most half the
interval. The order of the layers is therefore the same at every pixel.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bokeh_jax.errors import InvalidInput
from data_pipeline.silhouettes import SILHOUETTES, disc, draw_silhouette
from data_pipeline.source import DisparityUnit, Kind, Scene, check_int, check_split
from data_pipeline.textures import Textures, crop_texture, load_textures

# Raise it whenever the same seed would give other scenes.
GENERATOR_VERSION = 1

MIN_LAYERS = 2
# A layer must show at least this much of the frame, and the far layer the second fraction.
MIN_VISIBLE = 0.02
MIN_FAR_VISIBLE = 0.15
NUM_TRIES = 12
# float32 planes evaluated in float32 stay within [0, 1] with this much to spare.
RANGE_MARGIN = 1e-3


@dataclasses.dataclass(frozen=True)
class LayeredSource:
    """Endless random layered scenes.

    Attributes:
        size_px: height and width of the frames, 16 to 1024 pixels.
        seed: 0 to 2³² − 1; scenes are functions of (seed, split, index).
        max_layers: 2 to 8; scenes have 2 to `max_layers` layers.
        min_gap: disparity between neighbouring layers at least, relative units.
        textures: the photographs; by default those of `load_textures`.
    """

    size_px: int = 48
    seed: int = 0
    max_layers: int = 5
    min_gap: float = 0.06
    textures: Textures = dataclasses.field(default_factory=load_textures, repr=False)

    def __post_init__(self):
        check_int("size_px", self.size_px, 16, 1024)
        check_int("seed", self.seed, 0, 2**32 - 1)
        check_int("max_layers", self.max_layers, MIN_LAYERS, 8)
        largest_gap = 0.5 / (self.max_layers - 1)
        if not 0 < self.min_gap <= largest_gap:
            raise InvalidInput(
                f"min_gap is {self.min_gap}; allowed with max_layers {self.max_layers}: "
                f"above 0, at most {largest_gap:.4g}"
            )

    @property
    def kind(self) -> Kind:
        """Layers, not photographs."""
        return "layered"

    @property
    def disparity_unit(self) -> DisparityUnit:
        """Relative: [0, 1], nearer is larger."""
        return "relative"

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values."""
        return {
            "source": "layered",
            "generator_version": GENERATOR_VERSION,
            "size_px": self.size_px,
            "seed": self.seed,
            "max_layers": self.max_layers,
            "min_gap": self.min_gap,
            "textures_sha256": self.textures.digest,
        }

    def num_scenes(self, split: str) -> int | None:
        """Return None: every split is endless."""
        check_split(split)
        return None

    def scene(self, split: str, index: int) -> Scene:
        """Return scene `index` of `split`; see `generate_scene`."""
        return generate_scene(
            self.seed,
            index,
            size_px=self.size_px,
            textures=self.textures.of_split(split),
            stream=check_split(split),
            max_layers=self.max_layers,
            min_gap=self.min_gap,
        )


def generate_scene(
    seed: int,
    index: int,
    *,
    size_px: int,
    textures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
    stream: int = 0,
    max_layers: int = 5,
    min_gap: float = 0.06,
) -> Scene:
    """Make one scene; a pure function of its arguments.

    Args:
        seed: with `stream` and `index` the whole of the scene's randomness.
        index: the scene's number, >= 0.
        size_px: height and width S, pixels.
        textures: photographs by name, uint8 [_, _, 3].
        stream: keeps scenes of different splits apart under one seed.
        max_layers: the most layers l.
        min_gap: disparity between neighbouring layers at least.

    Returns:
        `layers` uint8 [l, S, S, 4] sRGB-encoded with straight alpha, nearest first, the last
        opaque; `layer_disparity` float32 [l, 3] in relative disparity and pixels; `provenance`,
        JSON with the textures' and the silhouettes' names, nearest first.
    """
    rng = np.random.default_rng([seed, stream, index])
    wanted = int(rng.integers(MIN_LAYERS, max_layers + 1))
    shapes = _silhouettes(rng, wanted - 1, size_px)
    alphas = [alpha for _, alpha in shapes] + [np.full((size_px, size_px), 255, np.uint8)]
    names = _choose_textures(rng, sorted(textures), len(alphas))
    layers = np.stack(
        [
            np.dstack([crop_texture(rng, textures[name], size_px), alpha])
            for name, alpha in zip(names, alphas, strict=True)
        ]
    )
    provenance = {"textures": names, "silhouettes": [kind for kind, _ in shapes] + ["full"]}
    return {
        "layers": layers,
        "layer_disparity": _planes(rng, len(layers), size_px, min_gap),
        "provenance": json.dumps(provenance),
    }


def _choose_textures(rng: np.random.Generator, names: list[str], count: int) -> list[str]:
    """Draw names without repetition until all are used, so that neighbours differ."""
    rounds = -(-count // len(names))
    drawn = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])[:count]
    return [names[i] for i in drawn]


def _silhouettes(
    rng: np.random.Generator, count: int, size_px: int
) -> list[tuple[str, UInt8[np.ndarray, "h w"]]]:
    """Draw up to `count` (kind, alpha), nearest first, each in part visible past those before it.

    A layer for which no visible place is found is left out; the first never is.
    """
    kinds = sorted(SILHOUETTES)
    placed: list[tuple[str, UInt8[np.ndarray, "h w"]]] = []
    transmitted = np.ones((size_px, size_px))
    for _ in range(count):
        for _ in range(NUM_TRIES):
            kind = kinds[rng.integers(len(kinds))]
            alpha = draw_silhouette(rng, kind, size_px)
            visible = (transmitted * (alpha / 255)).mean()
            if visible >= MIN_VISIBLE and transmitted.mean() - visible >= MIN_FAR_VISIBLE:
                placed.append((kind, alpha))
                transmitted = transmitted * (1 - alpha / 255)
                break
    return placed or [("disc", disc(size_px, 0.25))]


def _planes(
    rng: np.random.Generator, count: int, size_px: int, min_gap: float
) -> Float[np.ndarray, "l 3"]:
    """Draw `count` planes, nearest first, whose order holds over the whole frame."""
    free = 1 - 2 * RANGE_MARGIN - (count - 1) * (min_gap + RANGE_MARGIN)
    widths = free * rng.dirichlet(np.full(count, 2.0))
    starts = RANGE_MARGIN + np.cumsum(widths + min_gap + RANGE_MARGIN) - min_gap - RANGE_MARGIN
    starts = starts - widths
    # Most layers face the camera or lean a little; a few lean over all of their interval.
    reach = widths / 2 * rng.random(count) ** 2
    middles = starts + reach + rng.random(count) * (widths - 2 * reach)
    share = rng.random(count)
    signs = rng.choice([-1.0, 1.0], (2, count))
    a = signs[0] * share * reach / (size_px / 2)
    b = signs[1] * (1 - share) * reach / (size_px / 2)
    c = middles - (a + b) * size_px / 2
    return np.stack([a, b, c], axis=-1)[::-1].astype(np.float32)
