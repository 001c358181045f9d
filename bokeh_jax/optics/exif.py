"""From what EXIF says of a camera to the blur of a photograph whose depth has no scale.

Let the subject stand at the distance s, where the frame shows the width F of it, and let relative
disparity d stand for D = low + m d in 1/m (Δ = 1/s is that of the focus δ). With focal length f,
f-number N, a part of the sensor W wide in the frame, and images w pixels wide, the thin lens
(`lens`) says::

    (1) F = W (s − f) / f,    s = f (1 + F / W)
    (2) r = f² / (2 N) · s / (s − f) · w / W · m |d − δ|
          = w · (f / 2N) / F · (m s) |d − δ|
          = K |d − δ|,        K = w f / (2 N σ),    σ = F / (m s)

The second line is geometry: the opening's radius over the field's width, times how far off the
focus a thing is in units of 1/s. So of a photograph with EXIF and relative depth two numbers are
unknown: the focus δ and the length σ, here `scale_m`. Neither the sensor nor the distance enter K
beside them, and no photograph tells F and m s apart. Metres follow where m s is known; where the
relative disparity 0 is infinitely far, low = 0 and m s = 1 / δ::

    (3) F = σ / δ,            s = f (1 + σ / (δ W))
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.lens import Lens

FULL_FRAME_WIDTH_M = 0.036


class Exif(NamedTuple):
    """What the photographs' files say of their cameras; positive numbers.

    Attributes:
        focal_length_m: f.
        f_number: N.
        sensor_width_m: W, of the part of the sensor that the frame's width shows.
    """

    focal_length_m: Float[Array, "*b"]
    f_number: Float[Array, "*b"]
    sensor_width_m: Float[Array, "*b"]

    @classmethod
    def from_fields(cls, fields: Float[Array, "*b 3"]) -> "Exif":
        """From focal length (mm), that of a frame 36 mm wide that shows as much (mm), f-number."""
        focal_m, equivalent_m = 1e-3 * fields[..., 0], 1e-3 * fields[..., 1]
        return cls(focal_m, fields[..., 2], FULL_FRAME_WIDTH_M * focal_m / equivalent_m)

    @property
    def opening_radius_m(self) -> Float[Array, "*b"]:
        """f / 2N, of the entrance pupil."""
        return self.focal_length_m / (2.0 * self.f_number)

    def lens(
        self,
        focus_disparity: Float[Array, "*b"],
        scale_m: Float[Array, "*b"],
        width_px: int,
    ) -> Lens:
        """The lens of relative disparity, equation (2).

        Args:
            focus_disparity: δ, relative.
            scale_m: σ.
            width_px: of the images.
        """
        return Lens(focus_disparity, width_px * self.opening_radius_m / scale_m)

    def focus_distance_m(
        self, focus_disparity: Float[Array, "*b"], scale_m: Float[Array, "*b"]
    ) -> Float[Array, "*b"]:
        """s of equation (3): where the relative disparity 0 is infinitely far."""
        field_m = scale_m / jnp.maximum(focus_disparity, 1e-6)
        return self.focal_length_m * (1.0 + field_m / self.sensor_width_m)
