"""The canvas that outlines are drawn on: finer than the stored frame, in the frame's own unit.

A length is given in units of U = sqrt(height · width), so that things are of the same size in
frames of all proportions. The frame reaches from (0, 0) to (width / U, height / U), a square one to
(1, 1). A mask is drawn n = 8 times finer than the frame and averaged down, so alpha is the covered
fraction of each pixel to within 1/n²; for large frames n = 4, which takes a quarter of the time.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

# Frames of up to so many pixels a side are drawn the first number finer, larger ones the second.
SMALL_PX = 128
OVERSAMPLING = (8, 4)

Mask = Image.Image


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A frame of `height_px` by `width_px` stored pixels, drawn on finer."""

    height_px: int
    width_px: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in fine pixels, as Pillow counts."""
        return self.width_px * self.oversampling, self.height_px * self.oversampling

    @property
    def oversampling(self) -> int:
        """Fine pixels along a stored one."""
        return OVERSAMPLING[0] if self.unit_px <= SMALL_PX else OVERSAMPLING[1]

    @property
    def unit_px(self) -> float:
        """U in stored pixels."""
        return math.sqrt(self.height_px * self.width_px)

    @property
    def unit(self) -> float:
        """U in fine pixels."""
        return self.unit_px * self.oversampling

    @property
    def extent(self) -> tuple[float, float]:
        """(width, height) of the frame in units of U."""
        return self.width_px / self.unit_px, self.height_px / self.unit_px

    def blank(self) -> tuple[Mask, ImageDraw.ImageDraw]:
        """Return an empty mask and what draws on it, in fine pixels."""
        mask = Image.new("L", self.size, 0)
        return mask, ImageDraw.Draw(mask)

    def grid(self) -> tuple[Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]]:
        """Return x and y of the fine pixels' centres, in units of U."""
        x, y = ((np.arange(n, dtype=np.float32) + 0.5) / np.float32(self.unit) for n in self.size)
        return x[None, :], y[:, None]

    def point(self, rng: np.random.Generator, border: float) -> tuple[float, float]:
        """Draw a point of the frame, `border` of its sides away from its edges, in units of U."""
        width, height = self.extent
        x = rng.uniform(border, 1 - border)
        return width * x, height * rng.uniform(border, 1 - border)

    def smooth_noise(self, rng: np.random.Generator, cells: int) -> Float[np.ndarray, "h w"]:
        """Return noise on the fine grid that varies over about U / cells, deviation about 1."""
        return smooth_noise(rng, self.size, self.cells(cells))

    def alpha(self, mask: Mask) -> UInt8[np.ndarray, "h w"]:
        """Average a fine mask down to the stored frame."""
        return np.asarray(mask.reduce(self.oversampling))

    def cells(self, cells: int) -> tuple[int, int]:
        """(across, down) so many cells of noise as give `cells` along U."""
        width, height = self.extent
        return max(2, round(cells * width)), max(2, round(cells * height))


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Return noise of `size` (width, height) that interpolates `cells` (across, down) values."""
    coarse = Image.fromarray(rng.normal(size=cells[::-1]).astype(np.float32))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))


def as_mask(inside: Bool[np.ndarray, "h w"]) -> Mask:
    """Turn a boolean array into a mask."""
    return Image.fromarray(inside.astype(np.uint8) * 255)
