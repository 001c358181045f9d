"""Transfer functions between linear light and display-encoded values.

sRGB (IEC 61966-2-1), for a linear value x and its encoded value y::

    y = 12.92 x                          x <= 0.0031308
    y = 1.055 x^(1/2.4) - 0.055          otherwise

    x = y / 12.92                        y <= 0.04045
    x = ((y + 0.055) / 1.055)^2.4        otherwise

The straight piece also serves values below zero, and values above one follow the power law, so
both functions are monotone bijections of the reals. The pure power law is the older convention,
kept for data that were encoded with it.

A derivative of ``where(c, f(x), g(x))`` is NaN when the branch not taken has an infinite slope, so
each power sees an argument that is moved out of the other branch's way first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

_LINEAR_KNEE = 0.0031308
_ENCODED_KNEE = 0.04045
# Below this linear value the power law is replaced by its chord, so that its slope stays finite.
_GAMMA_FLOOR = 1e-6


def srgb_to_linear(encoded: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Decode sRGB values (1 is display white) to linear light; any real value is allowed."""
    power = ((jnp.maximum(encoded, _ENCODED_KNEE) + 0.055) / 1.055) ** 2.4
    return jnp.where(encoded <= _ENCODED_KNEE, encoded / 12.92, power)


def linear_to_srgb(linear: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Encode linear light (1 is display white) as sRGB values; any real value is allowed."""
    power = 1.055 * jnp.maximum(linear, _LINEAR_KNEE) ** (1 / 2.4) - 0.055
    return jnp.where(linear <= _LINEAR_KNEE, 12.92 * linear, power)


def decode_gamma(
    encoded: Float[Array, "*shape"], gamma: float | int = 2.2
) -> Float[Array, "*shape"]:
    """Decode values of the power law ``linear = encoded ** gamma``; inverse of `encode_gamma`."""
    _check_gamma(gamma)
    floor = _GAMMA_FLOOR ** (1 / gamma)
    chord = encoded * (_GAMMA_FLOOR / floor)
    return jnp.where(encoded <= floor, chord, jnp.maximum(encoded, floor) ** gamma)


def encode_gamma(
    linear: Float[Array, "*shape"], gamma: float | int = 2.2
) -> Float[Array, "*shape"]:
    """Encode linear light with the power law ``encoded = linear ** (1 / gamma)``.

    Below 1e-6 the chord through the origin takes the law's place, so the slope at zero is finite.
    """
    _check_gamma(gamma)
    floor = _GAMMA_FLOOR ** (1 / gamma)
    chord = linear * (floor / _GAMMA_FLOOR)
    return jnp.where(
        linear <= _GAMMA_FLOOR, chord, jnp.maximum(linear, _GAMMA_FLOOR) ** (1 / gamma)
    )


def _check_gamma(gamma: float | int) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
