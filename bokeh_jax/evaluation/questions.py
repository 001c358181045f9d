"""One example of any benchmark, generated or real: a photograph, what is asked of it, the truth.

    task        the photograph given            the photograph asked for
    refocus     defocused                       focused on another plane, its blur maybe another
    add_bokeh   all in focus                    defocused
    deblur      defocused                       all in focus (blur 0)

What is *told* and what is *true* are two things. The photographs are taken with the true disparity
and the true lenses; a method is told a point (x, y), a blur, and a disparity map that may be
damaged or absent. Focused on a point, a camera is described by what the told map has there:

    told focus disparity = disparity[point],      K as it is.

Blur is the project's one `Lens`: K in pixels per unit of disparity, for this frame's width.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from bokeh_jax.optics import Lens
from bokeh_jax.simulation import disparity_at

TASKS = ("refocus", "add_bokeh", "deblur")
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A photograph, what is asked of it, and the truth; None is unknown.

    Attributes:
        name: unlike that of any other question of its set.
        scene: questions of one scene are not independent: intervals are taken over scenes.
        task: one of `TASKS`.
        subset: `clean`, `damaged_depth` or `no_depth`; of real data the set's name.
        image: the reference, sRGB-encoded, [0, 1].
        truth: the photograph asked for, likewise.
        disparity: what a method is told, relative, [0, 1].
        true_disparity: of the visible surfaces, for regions and for the truth's blur.
        all_in_focus: the same view sharp everywhere, sRGB-encoded, [0, 1].
        reference: the lens of `image`; of blur 0 where that is all in focus.
        target: the lens of `truth`, likewise.
        reference_point: where `image` is focused, (x, y) as fractions of the frame.
        focus_point: where `truth` is focused.
        point_is_measured: `focus_point` was found in the truth itself (`real_images`).
    """

    name: str
    scene: str
    task: str
    subset: str
    image: Float32[np.ndarray, "h w 3"]
    truth: Float32[np.ndarray, "h w 3"]
    disparity: Float32[np.ndarray, "h w"] | None = None
    true_disparity: Float32[np.ndarray, "h w"] | None = None
    all_in_focus: Float32[np.ndarray, "h w 3"] | None = None
    reference: Lens | None = None
    target: Lens | None = None
    reference_point: Point | None = None
    focus_point: Point | None = None
    point_is_measured: bool = False

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; allowed: {', '.join(TASKS)}")
        for name in ("truth", "all_in_focus", "disparity", "true_disparity"):
            value = getattr(self, name)
            if value is not None and value.shape[:2] != self.image.shape[:2]:
                raise ValueError(
                    f"{name} has shape {value.shape}; allowed: that of the image, "
                    f"{self.image.shape[:2]}"
                )

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def blur_fraction(self) -> float | None:
        """K over the width that is asked for: what `Refocuser` calls `blur`."""
        return None if self.target is None else float(self.target.blur_px) / self.frame[1]

    @property
    def told_target(self) -> Lens | None:
        """The lens asked for, in the told map's disparity; None without map, point or blur."""
        return self._told(self.target, self.focus_point)

    @property
    def told_reference(self) -> Lens | None:
        """The photograph's lens, in the told map's disparity; None likewise."""
        return self._told(self.reference, self.reference_point)

    def _told(self, lens: Lens | None, point: Point | None) -> Lens | None:
        if lens is None or point is None or self.disparity is None:
            return None
        focus = disparity_at(jnp.asarray(self.disparity), jnp.asarray([point], jnp.float32))[0]
        return Lens(focus_disparity=focus, blur_px=lens.blur_px)
