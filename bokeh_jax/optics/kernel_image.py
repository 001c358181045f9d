"""An aperture given as a picture, resampled by area.

A pixel of the picture is a rectangle of even brightness in the photograph, scaled with the circle
of confusion. Rectangles on a grid overlap the photograph's pixels by products of lengths, so the
light in every pixel is a product of three matrices::

    light = R P C^T,    R_yi = length of the picture's row i within the photograph's row y
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bokeh_jax.optics.polygon_area import polygon_areas, unit_circle


@dataclass(frozen=True)
class KernelImage:
    """An opening given as a picture, such as a photographed point of light.

    The picture's longer side spans the circle of confusion; its middle is the centre. It is
    resampled by area to every radius. Make one with `KernelImage.from_array`; the fields are
    hashable so that it may be a static argument of a compiled function.

    Args:
        levels: float32 brightness, row by row.
        height, width: of the picture.
        pixel_aspect: width of a pixel relative to its height.

    Raises:
        ValueError: a picture without light, values that are negative or not finite.
    """

    levels: bytes = dataclasses.field(repr=False)
    height: int
    width: int
    pixel_aspect: float | int = 1.0

    def __post_init__(self) -> None:
        if not (self.pixel_aspect > 0 and math.isfinite(self.pixel_aspect)):
            raise ValueError(f"pixel_aspect must be finite and > 0, got {self.pixel_aspect}")
        if len(self.levels) != 4 * self.height * self.width:
            raise ValueError(
                f"levels must hold {self.height} x {self.width} float32 values, "
                f"got {len(self.levels)} bytes"
            )
        values = self.array()
        if not (np.isfinite(values).all() and values.min(initial=0.0) >= 0 and values.sum() > 0):
            raise ValueError("a kernel picture must be finite, not negative and not all dark")

    @classmethod
    def from_array(cls, picture: Float[np.ndarray, "h w"]) -> "KernelImage":
        """A kernel picture, far blur upright; any positive scale means the same."""
        values = np.ascontiguousarray(picture, np.float32)
        return cls(values.tobytes(), *values.shape)

    def array(self) -> Float[np.ndarray, "h w"]:
        """The picture in float64."""
        values = np.frombuffer(self.levels, np.float32).reshape(self.height, self.width)
        return values.astype(np.float64)

    def light(
        self, scale_px: float, size: int, rim_center: tuple[float, float] | None = None
    ) -> Float[np.ndarray, "k k"]:
        """Light in each pixel of a size x size grid, the picture scaled about the grid's middle."""
        extent = np.array([self.height, self.width * self.pixel_aspect])
        extent = extent / extent.max()
        picture = self.array()
        if rim_center is not None:
            picture = picture * self._passed_share(extent, rim_center)
        rows, columns = (
            _overlaps(count, scale_px * float(half_side), size)
            for count, half_side in zip(picture.shape, extent, strict=True)
        )
        return rows @ picture @ columns.T

    def _passed_share(
        self, extent: Float[np.ndarray, "2"], rim_center: tuple[float, float]
    ) -> Float[np.ndarray, "h w"]:
        """Share of each pixel that the rim lets pass."""
        longer = max(self.height, self.width)
        # From the unit circle's coordinates to pixels of the picture.
        pixels_per_unit = np.array([self.width, self.height]) / (2 * extent[::-1])
        middle = np.array([self.width, self.height]) / 2
        rim = (unit_circle() + np.array(rim_center)) * pixels_per_unit + middle
        covered = polygon_areas(np.clip(rim, 0.0, longer), longer)
        return covered[: self.height, : self.width]


def _overlaps(count: int, half_side_px: float, size: int) -> Float[np.ndarray, "k n"]:
    """Length of each of `count` equal parts of a side within each of `size` pixels of a line."""
    ends = size / 2 + half_side_px * (2 * np.arange(count + 1) / count - 1)
    low, high = np.minimum(ends[:-1], ends[1:]), np.maximum(ends[:-1], ends[1:])
    pixel = np.arange(size)[:, None]
    return np.maximum(0.0, np.minimum(high, pixel + 1) - np.maximum(low, pixel))
