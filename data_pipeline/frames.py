"""Which shapes frames are stored in: aspect ratios and sizes, a finite set.

A frame of aspect ratio r = width / height and size S has about S² pixels:

    height = m round(S / sqrt(r) / m),   width = m round(S sqrt(r) / m),

with m the multiple that both sides have. A photograph goes to the ratio nearest to its own on a
logarithmic scale, and to the largest size that it fills without being enlarged, or the smallest.
It is then scaled to cover the frame, and the middle is kept.
"""

import dataclasses
import math
import re

from bokeh_jax.errors import InvalidInput
from data_pipeline.source import check_int

DEFAULT_RATIOS = ("1:1",)
ALL_RATIOS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")


@dataclasses.dataclass(frozen=True)
class FrameSizes:
    """The shapes that frames may have.

    Attributes:
        sizes_px: a square frame's sides, 16 to 4096 pixels.
        ratios: width to height, as "3:2".
        multiple_px: of which both sides are multiples.
    """

    sizes_px: tuple[int, ...] = (256,)
    ratios: tuple[str, ...] = DEFAULT_RATIOS
    multiple_px: int = 1

    def __post_init__(self):
        if not self.sizes_px or not self.ratios:
            raise InvalidInput("sizes_px and ratios are empty; allowed: at least one of each")
        for size_px in self.sizes_px:
            check_int("size_px", size_px, 16, 4096)
        check_int("multiple_px", self.multiple_px, 1, 256)
        for ratio in self.ratios:
            if not re.fullmatch(r"[1-9]\d?:[1-9]\d?", ratio):
                raise InvalidInput(f"ratio is {ratio!r}; allowed: width to height such as 3:2")
        for size_px in self.sizes_px:
            for ratio in self.ratios:
                if min(self._frame(size_px, ratio)) < self.multiple_px:
                    raise InvalidInput(
                        f"size_px is {size_px} with ratio {ratio}; allowed: "
                        f"sides of at least multiple_px={self.multiple_px}"
                    )

    def frames(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every shape."""
        return tuple(
            dict.fromkeys(self._frame(s, r) for s in sorted(self.sizes_px) for r in self.ratios)
        )

    def frame_of(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) of the frame for a photograph of this size."""
        own = math.log(width_px / height_px)
        ratio = min(self.ratios, key=lambda text: (abs(math.log(_ratio(text)) - own), text))
        frames = [self._frame(size_px, ratio) for size_px in sorted(self.sizes_px)]
        filled = [f for f in frames if f[0] <= height_px and f[1] <= width_px]
        return (filled or frames[:1])[-1]

    def _frame(self, size_px: int, ratio: str) -> tuple[int, int]:
        root, multiple = math.sqrt(_ratio(ratio)), self.multiple_px
        height = multiple * round(size_px / root / multiple)
        return height, multiple * round(size_px * root / multiple)


def cover_box(
    height_px: int, width_px: int, frame: tuple[int, int]
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the middle of a photograph that has the frame's proportions."""
    scale = min(height_px / frame[0], width_px / frame[1])
    box_height, box_width = frame[0] * scale, frame[1] * scale
    # Rounding may pass the photograph's edge by a hair, which readers of images refuse.
    left, top = max(0.0, (width_px - box_width) / 2), max(0.0, (height_px - box_height) / 2)
    return (
        left,
        top,
        min(float(width_px), left + box_width),
        min(float(height_px), top + box_height),
    )


def _ratio(text: str) -> float:
    width, height = text.split(":")
    return int(width) / int(height)
