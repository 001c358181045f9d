"""What a layered scene is put together from."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

# A thing has a photograph on it, a backdrop is a photograph over the whole frame.
Role = Literal["thing", "translucent", "lights", "backdrop"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One layer before it has its place in depth.

    Attributes:
        role: what it does in the scene.
        kind: its silhouette or what it is, for the record.
        alpha: the opacity of each pixel, 255 is all.
        words: what a caption calls its shape.
        rgb: sRGB-encoded; None where a photograph is to be put on it.
        gain: its linear light is so many times what its pixels say.
    """

    role: Role
    kind: str
    alpha: UInt8[np.ndarray, "h w"]
    words: str
    rgb: UInt8[np.ndarray, "h w 3"] | None = None
    gain: float = 1.0


def to_uint8(value: Float[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    """Round values in [0, 1] to 255 levels; what lies beyond is cut off."""
    return np.round(255 * np.clip(value, 0, 1)).astype(np.uint8)
