"""Endless layered scenes: photographs cut into silhouettes, set up one behind the other."""

import dataclasses
import math
from typing import Any

import numpy as np

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes
from data_pipeline.layered.captions import caption
from data_pipeline.layered.composition import MIN_LAYERS, Composition, compose
from data_pipeline.layered.style import PLAIN, SceneStyle
from data_pipeline.layered.textures import Textures, load_textures
from data_pipeline.source import LayeredScene, check_int, check_split

# Raise it whenever the same seed would give other scenes.
GENERATOR_VERSION = 2

# Keeps the draw of a scene's frame apart from its content.
FRAME_STREAM = 2


@dataclasses.dataclass(frozen=True)
class LayeredSource:
    """Endless random layered scenes.

    Attributes:
        size_px: square frames of this side, 16 to 4096 pixels, where `frames` is None.
        seed: 0 to 2³² − 1; scenes are functions of (seed, split, index).
        max_layers: 2 to 8; scenes have 2 to `max_layers` layers.
        min_gap: disparity between neighbouring layers at least, relative units.
        textures: the photographs; by default those of `load_textures`.
        frames: the shapes that frames have, each as often.
        style: how often hair, panes of glass and lights occur; by default never.
        name: of the source.
    """

    size_px: int = 48
    seed: int = 0
    max_layers: int = 5
    min_gap: float = 0.06
    textures: Textures = dataclasses.field(default_factory=load_textures, repr=False)
    frames: FrameSizes | None = None
    style: SceneStyle = PLAIN
    name: str = "layered"

    def __post_init__(self):
        self.frame_sizes  # noqa: B018  Checks size_px.
        check_int("seed", self.seed, 0, 2**32 - 1)
        check_int("max_layers", self.max_layers, MIN_LAYERS, 8)
        largest_gap = 0.5 / (self.max_layers - 1)
        if not 0 < self.min_gap <= largest_gap:
            raise InvalidInput(
                f"min_gap is {self.min_gap}; allowed with max_layers {self.max_layers}: "
                f"above 0, at most {largest_gap:.4g}"
            )

    @property
    def frame_sizes(self) -> FrameSizes:
        """The shapes that frames have."""
        return self.frames or FrameSizes(sizes_px=(self.size_px,))

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values."""
        return {
            "source": self.name,
            "kind": "layered",
            "generator_version": GENERATOR_VERSION,
            "frames": [list(frame) for frame in self.frame_sizes.frames()],
            "seed": self.seed,
            "max_layers": self.max_layers,
            "min_gap": self.min_gap,
            "style": self.style.recipe(),
            "textures_sha256": self.textures.digest,
        }

    def num_scenes(self, split: str) -> int | None:
        """Return None: every split is endless."""
        check_split(split)
        return None

    def scene(self, split: str, index: int) -> LayeredScene:
        """Return scene `index` of `split`; a pure function of the source, the split and the index.

        Raises:
            InvalidInput: no such split.
            SkippedScene: a photograph of a texture folder cannot be read.
        """
        composition = self.composition(split, index)
        return LayeredScene(
            layers=composition.layers,
            layer_disparity=composition.planes,
            layer_gain=composition.gains,
            caption=caption(composition, self.textures.words),
            provenance=provenance(composition),
        )

    def composition(
        self, split: str, index: int, *, stream: int = 0, margin_share: float = 0.0, rim_px: int = 0
    ) -> Composition:
        """Put scene `index` of `split` together.

        Args:
            split: one of `SPLITS`.
            index: the scene's number, >= 0.
            stream: other streams give other scenes.
            margin_share: stored beyond the frame on each side, as a share of its width.
            rim_px: stored beyond that.
        """
        seed = (self.seed, check_split(split) + stream, index)
        shapes = self.frame_sizes.frames()
        drawn = int(np.random.default_rng([*seed, FRAME_STREAM]).integers(len(shapes)))
        frame = shapes[drawn]
        return compose(
            seed,
            frame,
            self.textures.of_split(split),
            max_layers=self.max_layers,
            min_gap=self.min_gap,
            style=self.style,
            margin_px=math.ceil(margin_share * frame[1]) + rim_px,
        )


def provenance(composition: Composition) -> dict[str, Any]:
    """What a scene was made from, nearest first, as JSON values."""
    return {
        "textures": list(composition.photographs),
        "silhouettes": [part.kind for part in composition.parts],
    }
