"""A source of both kinds of scenes, made of noise, for tests of what is built from sources."""

import dataclasses
import os
import time

import numpy as np

from bokeh_jax.errors import InvalidInput
from data_pipeline.source import (
    CameraExif,
    HiddenTruth,
    LayeredScene,
    PhotoScene,
    SkippedScene,
    check_split,
)

WIDE, SQUARE = (12, 18), (16, 16)


@dataclasses.dataclass(frozen=True)
class ToySource:
    """Every other scene is layered; every third is wide; candidate 5 is dropped, 9 is damaged.

    The fields below `endless` change no scene and are not part of the recipe: `seconds` that a
    scene takes, the candidate of `train` that `breaks_at`, whether that `ends_process`, and whether
    scenes fail with the platform that their process would compute on.
    """

    seed: int = 0
    name: str = "toy"
    endless: bool = True
    num_damaged: int = 1
    seconds: float = 0.0
    breaks_at: int = -1
    ends_process: bool = False
    tells_platform: bool = False

    def recipe(self):
        return {"source": "toy", "seed": self.seed, "num_damaged": self.num_damaged}

    def num_scenes(self, split):
        return None if self.endless else {"train": 20, "eval_heldout": 4}.get(split, 0)

    def scene(self, split, index):
        time.sleep(self.seconds)
        if self.tells_platform:
            raise InvalidInput(f"platform is {os.environ.get('JAX_PLATFORMS')}")
        if split == "train" and index == self.breaks_at:
            if self.ends_process:
                os._exit(7)
            raise InvalidInput(f"scene {index} is broken; allowed: whole ones")
        if index == 5:
            raise SkippedScene(f"{split}/5.jpg", "not in focus\neverywhere", damaged=False)
        if 9 <= index < 9 + self.num_damaged:
            raise SkippedScene(f"{split}/{index}.jpg", "cut short", damaged=True)
        rng = np.random.default_rng([self.seed, check_split(split), index])
        height, width = SQUARE if index % 3 else WIDE
        if index % 2:
            return photo(rng, height, width)
        count = 2 + index % 3
        layers = rng.integers(0, 256, (count, height, width, 4), np.uint8)
        layers[-1, ..., 3] = 255
        return LayeredScene(
            layers=layers,
            layer_disparity=rng.random((count, 3), np.float32),
            layer_gain=1 + rng.random(count, np.float32),
            caption=f"noise {index}",
            provenance={"index": index},
        )


def photo(rng, height, width):
    """A photograph of noise with all there is beside one."""
    return PhotoScene(
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        disparity=rng.random((height, width), np.float32),
        defocused=rng.integers(0, 256, (height, width, 3), np.uint8),
        mask=rng.integers(0, 2, (height, width), np.uint8) * np.uint8(255),
        disparity_range_per_m=(0.25, 2.0),
        caption="noise",
        camera=CameraExif(focal_length_mm=50.0, f_number=1.5),
        hidden=HiddenTruth(focus_distance_m=2.5, subject_xy=(0.25, 0.75)),
        provenance={"photograph": "noise.jpg"},
    )


def stored_indices(count):
    """The candidates of `count` that are stored."""
    return [index for index in range(count) if index not in (5, 9)]
