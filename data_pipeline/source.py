"""What a source of scenes is: the one interface between content and the dataset builder.

A source is a frozen, picklable description. `scene(split, index)` is a pure function of the source,
the split and the index, so that scenes can be made in any order, by any process, and made again.

A scene is a dictionary of arrays and one string:

- layered: `layers` uint8 [l, h, w, 4] (sRGB-encoded, straight alpha, nearest first, the last opaque
  over the whole frame) and `layer_disparity` float32 [l, 3], the plane (a, b, c) of
  disparity = a·x + b·y + c with x and y in pixels of the stored frame;
- photographs: `image` uint8 [h, w, 3] (sRGB-encoded) and `disparity` float32 [h, w];
- both: `provenance`, a line of JSON that names the photographs the scene was made from.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from bokeh_jax.errors import InvalidInput

Kind = Literal["layered", "photographs"]
DisparityUnit = Literal["relative", "metric"]

# `eval_seen`: new scenes of what training has seen; `eval_heldout`: photographs that no training
# scene holds. The position in this tuple is part of a layered scene's random stream.
SPLITS = ("train", "eval_seen", "eval_heldout")

Scene = Mapping[str, Any]


@runtime_checkable
class SceneSource(Protocol):
    """A description of scenes that the builder can write."""

    @property
    def kind(self) -> Kind:
        """Which arrays a scene holds."""
        ...

    @property
    def disparity_unit(self) -> DisparityUnit:
        """`relative` ([0, 1], nearer is larger) or `metric` (1/m)."""
        ...

    @property
    def size_px(self) -> int:
        """Height and width of every stored frame, pixels."""
        ...

    @property
    def max_layers(self) -> int:
        """The most layers a scene can have; 0 for photographs."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values."""
        ...

    def num_scenes(self, split: str) -> int | None:
        """Return how many scenes the split has, or None where there is no end to them."""
        ...

    def scene(self, split: str, index: int) -> Scene:
        """Return scene `index` of `split`."""
        ...


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
