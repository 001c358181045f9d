"""An aperture given as a picture, resampled by area.

A pixel of the picture is a rectangle of even brightness in the photograph, scaled with the circle
of confusion. Rectangles on a grid overlap the photograph's pixels by products of lengths, so the
light in every pixel is a product of three matrices::

    light = R P C^T,    R_yi = length of the picture's row i within the photograph's row y
"""

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from bokeh_jax.optics.namespace import Scalar, in_one_namespace, is_traced, require
from bokeh_jax.optics.outlines import RimCenter
from bokeh_jax.optics.polygon_area import CIRCLE_SIDES, polygon_areas, unit_circle

# A traced ratio of a picture's pixels is taken to lie between this and its inverse where a rim cuts
# the picture; beyond, the cut is booked to pixels nearby.
_LEAST_TRACED_ASPECT = 1 / 8


@dataclass(frozen=True)
class KernelImage:
    """An opening given as a picture, such as a photographed point of light.

    The picture's longer side spans the circle of confusion; its middle is the centre. It is
    resampled by area to every radius. Make one with `KernelImage.from_array`. The fields of a
    NumPy picture are hashable, so that it may be a static argument of a compiled function; a JAX
    array stays what it is, and kernels are differentiable in it.

    Args:
        levels: brightness; the bytes of float32 values, row by row, or a JAX array "h w".
        height, width: of the picture.
        pixel_aspect: width of a pixel relative to its height.

    Raises:
        ValueError: a picture without light, values that are negative or not finite.
    """

    levels: bytes | Float[Array, "h w"] = dataclasses.field(repr=False)
    height: int
    width: int
    pixel_aspect: Scalar = 1.0

    def __post_init__(self) -> None:
        aspect_rule = "be finite and > 0"
        require("pixel_aspect", self.pixel_aspect, lambda value: 0 < value < math.inf, aspect_rule)
        if isinstance(self.levels, bytes):
            if len(self.levels) != 4 * self.height * self.width:
                raise ValueError(
                    f"levels must hold {self.height} x {self.width} float32 values, "
                    f"got {len(self.levels)} bytes"
                )
        elif self.levels.shape != (self.height, self.width):
            raise ValueError(
                f"levels must be {self.height} x {self.width}, got {self.levels.shape}"
            )
        if isinstance(self.levels, Tracer):
            return
        values = np.asarray(self.array())
        if not (np.isfinite(values).all() and values.min(initial=0.0) >= 0 and values.sum() > 0):
            raise ValueError("a kernel picture must be finite, not negative and not all dark")

    @classmethod
    def from_array(cls, picture: Float[Array | np.ndarray, "h w"]) -> "KernelImage":
        """A kernel picture, far blur upright; any positive scale means the same."""
        if isinstance(picture, jax.Array):
            return cls(picture, *picture.shape)
        values = np.ascontiguousarray(picture, np.float32)
        return cls(values.tobytes(), *values.shape)

    def array(self) -> Float[Array | np.ndarray, "h w"]:
        """The picture in float64; a JAX array in JAX's default precision."""
        if not isinstance(self.levels, bytes):
            return jnp.asarray(self.levels, float)
        values = np.frombuffer(self.levels, np.float32).reshape(self.height, self.width)
        return values.astype(np.float64)

    def light(
        self, scale_px: Scalar, size: int, rim_center: RimCenter | None = None
    ) -> Float[Array | np.ndarray, "k k"]:
        """Light in each pixel of a size x size grid, the picture scaled about the grid's middle."""
        extent = self._extent()
        picture = self.array()
        if rim_center is not None:
            picture = picture * self._passed_share(rim_center)
        rows, columns = (
            _overlaps(count, scale_px * half_side, size)
            for count, half_side in zip(picture.shape, extent, strict=True)
        )
        return rows @ picture @ columns.T

    def _extent(self) -> Float[Array | np.ndarray, "2"]:
        """Half the height and half the width, of which the longer is 1."""
        xp, (aspect,) = in_one_namespace(self.pixel_aspect)
        height, width = xp.asarray(self.height, float), self.width * aspect
        return xp.stack([height, width]) / xp.maximum(height, width)

    def _passed_share(self, rim_center: RimCenter) -> Float[Array | np.ndarray, "h w"]:
        """Share of each pixel that the rim lets pass."""
        longer = max(self.height, self.width)
        center = rim_center if is_traced(rim_center) else np.array(rim_center)
        xp, (extent, center) = in_one_namespace(self._extent(), center)
        # From the unit circle's coordinates to pixels of the picture.
        pixels_per_unit = np.array([self.width, self.height]) / (2 * extent[::-1])
        middle = np.array([self.width, self.height]) / 2
        rim = (unit_circle() + center[None]) * pixels_per_unit[None] + middle[None]
        longest_px = math.pi / CIRCLE_SIDES * longer / _LEAST_TRACED_ASPECT
        covered = polygon_areas(xp.clip(rim, 0.0, longer), longer, longest_px)
        return covered[: self.height, : self.width]


def _overlaps(count: int, half_side_px: Scalar, size: int) -> Float[Array | np.ndarray, "k n"]:
    """Length of each of `count` equal parts of a side within each of `size` pixels of a line."""
    xp, (half_side_px,) = in_one_namespace(half_side_px)
    ends = size / 2 + half_side_px * (2 * np.arange(count + 1) / count - 1)
    low, high = xp.minimum(ends[:-1], ends[1:])[None], xp.maximum(ends[:-1], ends[1:])[None]
    pixel = np.arange(size)[:, None]
    return xp.maximum(0.0, xp.minimum(high, pixel + 1.0) - xp.maximum(low, 1.0 * pixel))
