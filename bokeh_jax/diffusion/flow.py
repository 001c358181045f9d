"""Rectified flow between images and a source (Liu et al. 2023, "Flow Straight and Fast").

With x the image, z the source and t in [0, 1] (0 is the image, 1 is the source):

    (1) x_t = (1 − t) x + t z                 the straight path
    (2) v   = dx_t / dt = z − x               its constant velocity
    (3) x   = x_t − t v                       the sample that a velocity means
    (4) v   = (x_t − x) / t                   the velocity that a sample means, t > 0
    (5) z   = x_t + (1 − t) v                 the source that a velocity means

The source is Gaussian noise, or the image to edit plus scaled noise: z = reference + σ ε. The
second one starts the path beside its end, which suits edits that keep most of the picture.

(4) is singular at t = 0, where x_t holds nothing of the source. `velocity_from_sample` divides by
max(t, TIME_FLOOR): exact from the floor on, and finite below it.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

SourceKind = Literal["noise", "reference"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("noise", "reference")

# An eighth of a step of an 8-bit image at unit velocity: what lies below cannot be seen.
TIME_FLOOR = 1e-3


def source(
    kind: SourceKind,
    reference: Float[Array, "b *d"],
    noise: Float[Array, "b *d"],
    noise_scale: float = 1.0,
) -> Float[Array, "b *d"]:
    """The path's far end z: `noise`, or `reference + noise_scale · noise`.

    Args:
        kind: 'noise' ignores the reference and the scale; 'reference' starts from the reference.
        reference: The image to edit, in the model's values.
        noise: Standard normal draws.
        noise_scale: Standard deviation σ of what is added to the reference, ≥ 0.

    Raises:
        ValueError: for another kind or a negative scale.
    """
    if kind not in SOURCE_KINDS:
        raise ValueError(f"source kind is {kind!r}; allowed: {', '.join(SOURCE_KINDS)}")
    if not noise_scale >= 0:
        raise ValueError(f"noise_scale is {noise_scale}; allowed: 0 or more")
    return noise if kind == "noise" else reference + noise_scale * noise


def interpolate(
    sample: Float[Array, "b *d"], source: Float[Array, "b *d"], time: Float[Array, " b"]
) -> Float[Array, "b *d"]:
    """The point x_t of the straight path, equation (1); exactly the ends at t = 0 and t = 1."""
    t = per_example(time, sample.ndim)
    return (1.0 - t) * sample + t * source


def velocity(sample: Float[Array, "b *d"], source: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
    """The path's velocity z − x, equation (2)."""
    return source - sample


def sample_from_velocity(
    x_t: Float[Array, "b *d"], velocity: Float[Array, "b *d"], time: Float[Array, " b"]
) -> Float[Array, "b *d"]:
    """The sample that a velocity at x_t means, equation (3)."""
    return x_t - per_example(time, x_t.ndim) * velocity


def source_from_velocity(
    x_t: Float[Array, "b *d"], velocity: Float[Array, "b *d"], time: Float[Array, " b"]
) -> Float[Array, "b *d"]:
    """The source that a velocity at x_t means, equation (5)."""
    return x_t + (1.0 - per_example(time, x_t.ndim)) * velocity


def velocity_from_sample(
    x_t: Float[Array, "b *d"],
    sample: Float[Array, "b *d"],
    time: Float[Array, " b"],
    time_floor: float = TIME_FLOOR,
) -> Float[Array, "b *d"]:
    """The velocity that a sample at x_t means, equation (4).

    Args:
        x_t: The point of the path.
        sample: The (predicted) sample.
        time: Its time.
        time_floor: Times below it count as it. A loss on the velocity of a predicted sample weighs
            errors by 1 / max(t, time_floor)², so this also bounds that weight.

    Raises:
        ValueError: where the floor is not positive.
    """
    if not time_floor > 0:
        raise ValueError(f"time_floor is {time_floor}; allowed: more than 0")
    return (x_t - sample) / jnp.maximum(per_example(time, x_t.ndim), time_floor)


def per_example(values: Float[Array, " b"], ndim: int) -> Float[Array, "b ..."]:
    """One value an example, shaped `[b, 1, ...]` with `ndim` axes so that it broadcasts."""
    return values.reshape(values.shape[0], *(1,) * (ndim - 1))
