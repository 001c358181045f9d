"""The thin lens: from a camera's settings to signed blur radii in pixels.

A lens of focal length f and f-number N, focused at the distance s_f, images a point at distance z
as a disc on the sensor whose diameter is::

    c = (f / N) |z - s_f| / z * f / (s_f - f)                                   [m]

With disparity d = 1/z and focus disparity d_f = 1/s_f, (z - s_f) / z = s_f (d_f - d). Halved,
signed (positive nearer than the focus plane) and in pixels of an image ``width_px`` wide taken by a
sensor ``sensor_width_m`` wide::

    s = K (d - d_f),     K = f^2 / (2 N) * s_f / (s_f - f) * width_px / sensor_width_m    [px m]

Relative disparity works alike: d and d_f have no unit then and K is in pixels per disparity unit.
Source: the thin-lens law, e.g. Potmesil & Chakravarty, "A lens and aperture camera model for
synthetic image generation", SIGGRAPH 1981.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, init=False)
class Lens:
    """Focus and blur of one camera or of a batch of cameras.

    A pytree of two float arrays. Concrete values are checked when a `Lens` is made by hand; inside
    a compiled function and in tree operations nothing is checked, so gradients of a `Lens` are a
    `Lens`. Python numbers are turned into float32 arrays, and the fields broadcast to one shape.

    Args:
        focus_disparity: disparity of the plane in focus.
        blur_px: K, radius of blur in pixels per unit of disparity.

    Raises:
        ValueError: a value that is not finite, a negative blur, shapes that do not broadcast.
    """

    focus_disparity: Float[Array, "*b"]
    blur_px: Float[Array, "*b"]

    def __init__(
        self,
        focus_disparity: float | int | Float[Array, "*_f"],
        blur_px: float | int | Float[Array, "*_k"],
    ) -> None:
        focus, blur = _as_float(focus_disparity), _as_float(blur_px)
        _check_concrete("focus_disparity", focus, lowest=-math.inf)
        _check_concrete("blur_px", blur, lowest=0.0)
        try:
            shape = np.broadcast_shapes(focus.shape, blur.shape)
        except ValueError:
            raise ValueError(
                f"focus_disparity of shape {focus.shape} and blur_px of shape {blur.shape} "
                "must broadcast together"
            ) from None
        object.__setattr__(self, "focus_disparity", jnp.broadcast_to(focus, shape))
        object.__setattr__(self, "blur_px", jnp.broadcast_to(blur, shape))

    @staticmethod
    def from_camera(
        *,
        focal_length_m: float | int | Float[Array, "*b"],
        f_number: float | int | Float[Array, "*b"],
        focus_distance_m: float | int | Float[Array, "*b"],
        sensor_width_m: float | int | Float[Array, "*b"],
        width_px: int,
    ) -> "Lens":
        """The lens of a camera that looks at metric disparity (1/m).

        A 50 mm lens at f/2, focused at 2 m, on a 36 mm sensor, 512 px wide:
        K = 0.05^2 / (2 * 2) * 2 / (2 - 0.05) * 512 / 0.036 = 9.1168 px m, so a point at infinity
        is blurred with the radius 9.1168 / 2 = 4.558 px.

        Raises:
            ValueError: a length or f-number that is not positive, or a focus distance that is not
                beyond the focal length.
        """
        focal, number = _as_float(focal_length_m), _as_float(f_number)
        distance, sensor = _as_float(focus_distance_m), _as_float(sensor_width_m)
        _check_concrete("focal_length_m", focal, above=0.0)
        _check_concrete("f_number", number, above=0.0)
        _check_concrete("focus_distance_m", distance, above=0.0)
        _check_concrete("sensor_width_m", sensor, above=0.0)
        if width_px < 1:
            raise ValueError(f"width_px must be at least 1, got {width_px}")
        shape = jnp.broadcast_shapes(focal.shape, number.shape, distance.shape, sensor.shape)
        focal, number, distance, sensor = (
            jnp.broadcast_to(value, shape) for value in (focal, number, distance, sensor)
        )
        beyond = distance - focal
        if not isinstance(beyond, Tracer) and not bool(jnp.all(beyond > 0)):
            raise ValueError(
                f"focus_distance_m must be greater than focal_length_m, got {distance} and {focal}"
            )
        blur = focal**2 / (2 * number) * distance / beyond * (width_px / sensor)
        return Lens(1 / distance, blur)

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch shape."""
        return jnp.shape(self.blur_px)

    def signed_radius_px(self, disparity: Float[Array, "*d h w"]) -> Float[Array, "*d h w"]:
        """Signed radius of the circle of confusion, positive nearer than the focus plane.

        Args:
            disparity: maps whose leading dimensions are the lens's batch shape, or any where the
                lens is a single one.

        Raises:
            ValueError: the batch shapes differ.
        """
        batch = disparity.shape[:-2]
        if self.shape not in ((), batch):
            raise ValueError(f"lens of shape {self.shape} does not fit disparity batch {batch}")
        shape = (*self.shape, *(1,) * (disparity.ndim - len(self.shape)))
        focus = self.focus_disparity.astype(disparity.dtype).reshape(shape)
        blur = self.blur_px.astype(disparity.dtype).reshape(shape)
        return blur * (disparity - focus)

    def rescaled(self, scale: float | int) -> "Lens":
        """The same camera for an image resized by `scale`: the blur scales, the focus stays."""
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        return Lens(self.focus_disparity, self.blur_px * scale)

    def blur_fraction(self, width_px: int) -> Float[Array, "*b"]:
        """Blur per unit of disparity as a fraction of the image's width, at any resolution."""
        if width_px < 1:
            raise ValueError(f"width_px must be at least 1, got {width_px}")
        return self.blur_px / width_px

    def tree_flatten_with_keys(self):
        """Fields with their names."""
        names = ("focus_disparity", "blur_px")
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], None

    def tree_flatten(self):
        """Fields."""
        return (self.focus_disparity, self.blur_px), None

    @classmethod
    def tree_unflatten(cls, _, fields):
        """Rebuild without checks: leaves may be cotangents, tracers or placeholders."""
        lens = object.__new__(cls)
        for name, value in zip(("focus_disparity", "blur_px"), fields, strict=True):
            object.__setattr__(lens, name, value)
        return lens


def _as_float(value) -> Array:
    """An array of a floating dtype; anything else becomes float32."""
    if isinstance(value, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(
        value.dtype, jnp.floating
    ):
        return jnp.asarray(value)
    return jnp.asarray(value, jnp.float32)


def _check_concrete(
    name: str, value: Array, *, lowest: float | None = None, above: float | None = None
) -> None:
    """Raise for a value that is not finite or out of range, unless it is being traced."""
    if isinstance(value, Tracer):
        return
    concrete = np.asarray(value)
    bound = above if lowest is None else lowest
    allowed = concrete > bound if lowest is None else concrete >= bound
    if not np.all(allowed & np.isfinite(concrete)):
        bad = concrete[~(allowed & np.isfinite(concrete))].flat[0]
        limit = "" if bound == -math.inf else f" and {'>' if lowest is None else '>='} {bound:g}"
        raise ValueError(f"{name} must be finite{limit}, got {bad}")
