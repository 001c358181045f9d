"""What a source of scenes is: the one interface between content and the dataset builder.

A source is a frozen, picklable description. `scene(split, index)` is a pure function of the source,
the split and the index, so that scenes can be made in any order, by any process, and made again.
What cannot be made (a damaged file, a photograph that a filter drops) raises `SkippedScene`, which
the builder counts and lists; the indices of a split are therefore candidates.

Disparity is stored relative, in [0, 1], nearer is larger. Where the scale is known, the two metric
disparities (1/m) that 0 and 1 stand for are stored beside it:

    disparity_per_m = low + (high - low) disparity.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from bokeh_jax.errors import InvalidInput

Kind = Literal["layered", "photographs", "latents"]
# Of scenes that are photographed in training; latents are photographs already.
KINDS: tuple[Kind, ...] = ("layered", "photographs")

# `eval_seen`: new scenes of what training has seen; `eval_heldout`: photographs that no training
# scene holds. The position in this tuple is part of a layered scene's random stream.
SPLITS = ("train", "eval_seen", "eval_heldout")


@dataclasses.dataclass(frozen=True)
class CameraExif:
    """What a photograph's file says of its camera; None where it says nothing.

    Attributes:
        focal_length_mm: of the lens.
        focal_length_35mm_mm: of the lens that sees as much on a 36 mm wide frame.
        f_number: focal length over the diameter of the entrance pupil.
        subject_distance_m: as the camera reports it, which is coarse.
    """

    focal_length_mm: float | None = None
    focal_length_35mm_mm: float | None = None
    f_number: float | None = None
    subject_distance_m: float | None = None


@dataclasses.dataclass(frozen=True)
class HiddenTruth:
    """What only an evaluation may know of a photograph; the loader never reads it.

    Attributes:
        focus_distance_m: at which the lens was focused.
        subject_xy: the point that was focused on, (x, y) in [0, 1].
    """

    focus_distance_m: float
    subject_xy: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PhotoScene:
    """A photograph that is in focus everywhere, with the disparity of what is seen.

    Attributes:
        image: sRGB-encoded.
        disparity: relative, [0, 1].
        defocused: the same view through a lens of finite aperture, sRGB-encoded; or None.
        mask: of the subject, 255 inside; or None.
        disparity_range_per_m: metric disparities of 0 and 1; None where the scale is unknown.
        caption: what is seen; empty where unknown.
        camera: of `defocused` where there is one, else of `image`.
        hidden: what `defocused` was focused on; None where unknown.
        provenance: JSON values that name what the scene was made from.
    """

    image: UInt8[np.ndarray, "h w 3"]
    disparity: Float32[np.ndarray, "h w"]
    defocused: UInt8[np.ndarray, "h w 3"] | None = None
    mask: UInt8[np.ndarray, "h w"] | None = None
    disparity_range_per_m: tuple[float, float] | None = None
    caption: str = ""
    camera: CameraExif = CameraExif()
    hidden: HiddenTruth | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the stored frame, pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayeredScene:
    """RGBA layers on planes of disparity: what lies behind an outline is known.

    Attributes:
        layers: sRGB-encoded, straight alpha, nearest first, the last opaque over the whole frame.
        layer_disparity: (a, b, c) of each layer: disparity = a x + b y + c, relative, with x and y
            in pixels of the stored frame.
        layer_gain: linear light of a layer is this times what its pixels say; above 1 for lights.
        caption: what is seen; empty where unknown.
        provenance: JSON values that name what the scene was made from.
    """

    layers: UInt8[np.ndarray, "l h w 4"]
    layer_disparity: Float32[np.ndarray, "l 3"]
    layer_gain: Float32[np.ndarray, " l"]
    caption: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the stored frame, pixels."""
        return self.layers.shape[1], self.layers.shape[2]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentScene:
    """Photographs of a scene as an autoencoder's latents (data_pipeline.latent_records).

    Attributes:
        values: arrays by name.
        frame: height and width of the latents' grid, cells.
        caption: what is seen; empty where unknown.
        provenance: JSON values that name what the scene was made from.
    """

    values: Mapping[str, np.ndarray]
    frame: tuple[int, int]
    caption: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Scene = PhotoScene | LayeredScene | LatentScene


class SkippedScene(Exception):
    """A scene that is left out of the dataset.

    Attributes:
        what: names the file or scene.
        reason: one line.
        damaged: the input is at fault; False where a filter dropped it.
    """

    def __init__(self, what: str, reason: str, *, damaged: bool):
        super().__init__(what, reason)
        self.what, self.reason, self.damaged = what, reason, damaged

    def __reduce__(self):
        return _skipped, (self.what, self.reason, self.damaged)

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


def _skipped(what: str, reason: str, damaged: bool) -> SkippedScene:
    return SkippedScene(what, reason, damaged=damaged)


@runtime_checkable
class SceneSource(Protocol):
    """A description of scenes that the builder can write."""

    @property
    def name(self) -> str:
        """Short name, for logs and the mixture's weights: `layered`, `photos`, ..."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values."""
        ...

    def num_scenes(self, split: str) -> int | None:
        """Return how many candidates the split has, or None where there is no end to them."""
        ...

    def scene(self, split: str, index: int) -> Scene:
        """Return scene `index` of `split`.

        Raises:
            SkippedScene: it cannot be made, or a filter drops it.
        """
        ...


def kind_of(scene: Scene) -> Kind:
    """The kind of a scene."""
    if isinstance(scene, LatentScene):
        return "latents"
    return "layered" if isinstance(scene, LayeredScene) else "photographs"


def check_split(split: str) -> int:
    """Return the split's position in `SPLITS`.

    Raises:
        InvalidInput: for any other name.
    """
    if split not in SPLITS:
        raise InvalidInput(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    return SPLITS.index(split)


def check_int(name: str, value: int, low: int, high: int) -> None:
    """Raise InvalidInput unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value}; allowed: {low} to {high}")
