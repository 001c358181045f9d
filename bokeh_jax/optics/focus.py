"""What is in focus beyond a single plane: tilted focus, a range in focus, blur on one side only.

The renderer asks for signed radii alone, so every variant is a function from disparity to radius.
With (x, y) in [0, 1] across the frame (pixel centres; x right, y down), pivot (x_0, y_0), tilt
(t_x, t_y), K and d_f the lens's and R the range in focus::

    f(x, y) = d_f + t_x (x - x_0) + t_y (y - y_0)              the plane in focus
    delta   = d - f
    s       = K sign(delta) max(0, |delta| - R / 2)            what lies in the range is sharp
    s       = max(s, 0)  or  min(s, 0)                         blur in front or behind only

A tilted lens focuses on a plane in space (Scheimpflug), and a plane in space is linear in disparity
over the frame; the radius of a real tilted lens differs from K delta by the slant of the circle of
confusion, which is neglected.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.defocus import compute_dtype
from bokeh_jax.optics.lens import Lens

BLURRED_SIDES = ("both", "foreground", "background")


def focus_radius_px(
    disparity: Float[Array, "*b h w"],
    lens: Lens,
    *,
    tilt: Float[Array, "*_t 2"] | tuple[float | int, float | int] = (0.0, 0.0),
    pivot: Float[Array, "*_p 2"] | tuple[float | int, float | int] = (0.5, 0.5),
    in_focus_range: float | int | Float[Array, "*_r"] = 0.0,
    only: str = "both",
) -> Float[Array, "*b h w"]:
    """Signed radii for `render_radius`. Differentiable in every array.

    Args:
        disparity: of the visible surfaces, larger is nearer, in the lens's unit.
        lens: one for all, or one for each map; its focus disparity is the plane's at the pivot.
        tilt: change of the focus disparity over the frame's width and over its height; one for
            all, or one for each map.
        pivot: point (x, y) in [0, 1] where the focus is the lens's own; as `tilt`.
        in_focus_range: width of the range of disparities around the focus that stays sharp, at
            least 0; one for all, or one for each map.
        only: which blur is kept: "both", that of what is nearer than the focus ("foreground"), or
            that of what is farther ("background").

    Raises:
        ValueError: shapes that do not fit, a negative range given as a number, an unknown side.
    """
    if only not in BLURRED_SIDES:
        raise ValueError(f"only must be one of {', '.join(BLURRED_SIDES)}, got {only!r}")
    if isinstance(in_focus_range, float | int) and not in_focus_range >= 0:
        raise ValueError(f"in_focus_range must be >= 0, got {in_focus_range}")
    dtype = compute_dtype(disparity)
    disparity = disparity.astype(dtype)
    batch, (height, width) = disparity.shape[:-2], disparity.shape[-2:]
    tilt_x, tilt_y = _pair("tilt", tilt, batch, dtype)
    pivot_x, pivot_y = _pair("pivot", pivot, batch, dtype)
    lead = (1,) * len(batch)
    x = _centers(width, dtype).reshape(*lead, 1, width)
    y = _centers(height, dtype).reshape(*lead, height, 1)
    offset = tilt_x * (x - pivot_x) + tilt_y * (y - pivot_y)
    half_range = _per_map("in_focus_range", jnp.asarray(in_focus_range, dtype), batch) / 2
    signed_px = lens.signed_radius_px(disparity - offset)
    # The lens multiplies differences of disparity; half the range becomes a radius the same way.
    sharp_px = _per_map("blur_px", lens.blur_px.astype(dtype), batch) * half_range
    signed_px = jnp.maximum(signed_px - sharp_px, 0) + jnp.minimum(signed_px + sharp_px, 0)
    match only:
        case "foreground":
            return jnp.maximum(signed_px, 0)
        case "background":
            return jnp.minimum(signed_px, 0)
        case _:
            return signed_px


def _centers(size: int, dtype: jnp.dtype) -> Float[Array, " s"]:
    """Positions of pixel centres in [0, 1]."""
    return (jnp.arange(size).astype(dtype) + 0.5) / size


def _pair(name: str, value, batch: tuple[int, ...], dtype: jnp.dtype) -> tuple[Array, Array]:
    """The two numbers of a pair, or of one for each map, in the rank of the maps."""
    pair = jnp.asarray(value, dtype)
    if pair.shape[-1:] != (2,):
        raise ValueError(f"{name} must have 2 numbers along its last axis, got {pair.shape}")
    return _per_map(name, pair[..., 0], batch), _per_map(name, pair[..., 1], batch)


def _per_map(name: str, value: Array, batch: tuple[int, ...]) -> Array:
    """One number, or one for each map, in the rank of the maps."""
    if value.shape not in ((), batch):
        raise ValueError(f"{name} of batch shape {value.shape} does not fit maps of batch {batch}")
    return value.reshape(*(value.shape or (1,) * len(batch)), 1, 1)
