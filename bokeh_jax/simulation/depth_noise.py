"""Damaged disparity: what a monocular network or a phone's sensor gives in place of the truth.

Of a true disparity d in [0, 1] the network is shown, for a share of the scenes,

    1. d^γ                      log γ uniform: the curve of depth is wrong
    2. a d + b                  scale and shift are wrong
    3. min or max over a window of ± r px: things are too thin or too fat by r, or neither
    4. a Gaussian of standard deviation σ: outlines are soft
    5. holes: ellipses in which the value is another constant (0 half of the time, as sensors say)

clipped to [0, 1]. The photographs are still taken with the truth; a camera focused on a point is
described by the damaged disparity of that point, as it would be by a person who clicks on a
photograph and has nothing but that map. A refocuser that has met such maps relies on the reference
where the two disagree (depth dropout and perturbation: DiffCamera, arXiv 2509.26599; the kinds and
amounts are this module's own).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class DepthNoiseConfig:
    """How disparity is damaged.

    Attributes:
        rate: share of scenes whose disparity is damaged; the others stay exact.
        gamma: log γ is uniform in ± log(1 + this).
        scale: a is uniform in 1 ± this.
        shift: b is uniform in ± this.
        erosion_fraction: r over the width; a third of scenes each is eroded, dilated, left.
        blur_fraction: σ over the width is uniform from 0 to this.
        hole_count: ellipses a scene, each there or not with equal chances.
        hole_fraction: an ellipse's half axes over the width are uniform from a fifth of this to it.
    """

    rate: float = 0.0
    gamma: float = 0.4
    scale: float = 0.15
    shift: float = 0.1
    erosion_fraction: float = 0.015
    blur_fraction: float = 0.01
    hole_count: int = 3
    hole_fraction: float = 0.1

    def __post_init__(self):
        for name in ("rate", "scale", "shift", "hole_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        for name in ("erosion_fraction", "blur_fraction"):
            if not 0.0 <= getattr(self, name) <= 0.1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 0.1")
        if not 0.0 <= self.gamma <= 4.0:
            raise ValueError(f"gamma is {self.gamma}; allowed: 0 to 4")
        if not 0 <= self.hole_count <= 16:
            raise ValueError(f"hole_count is {self.hole_count}; allowed: 0 to 16")


def damage_disparity(
    disparity: Float[Array, "b h w"], keys: Key[Array, " b"], config: DepthNoiseConfig
) -> Float[Array, "b h w"]:
    """Damage the disparity of a share of the scenes; pure in the keys, one a scene.

    Args:
        disparity: true, [0, 1].
        keys: typed keys.
        config: how much.

    Returns:
        [0, 1].
    """
    if config.rate == 0:
        return disparity

    def damage(true: Float[Array, "h w"], key: Key[Array, ""]) -> Float[Array, "h w"]:
        stream = lambda index: jax.random.fold_in(key, index)  # noqa: E731 - one key a draw
        damaged = _wrong_curve(true, stream(0), config)
        damaged = _wrong_outlines(damaged, stream(1), config)
        damaged = _soft(damaged, stream(2), config)
        damaged = jnp.clip(_with_holes(damaged, stream(3), config), 0.0, 1.0)
        return jnp.where(jax.random.bernoulli(stream(4), config.rate), damaged, true)

    return jax.vmap(damage)(disparity, keys)


def _symmetric(key: Key[Array, ""], reach: float) -> Float[Array, ""]:
    return jax.random.uniform(key, (), minval=-reach, maxval=reach)


def _wrong_curve(
    disparity: Float[Array, "h w"], key: Key[Array, ""], config: DepthNoiseConfig
) -> Float[Array, "h w"]:
    """Steps 1 and 2."""
    curve, scale, shift = jax.random.split(key, 3)
    gamma = jnp.exp(_symmetric(curve, math.log1p(config.gamma)))
    scaled = (1.0 + _symmetric(scale, config.scale)) * disparity**gamma
    return scaled + _symmetric(shift, config.shift)


def _wrong_outlines(
    disparity: Float[Array, "h w"], key: Key[Array, ""], config: DepthNoiseConfig
) -> Float[Array, "h w"]:
    """Step 3: what is near grows or shrinks."""
    if config.erosion_fraction == 0:
        return disparity
    reach_px = max(1, round(config.erosion_fraction * disparity.shape[1]))
    window = (2 * reach_px + 1, 2 * reach_px + 1)
    fat = jax.lax.reduce_window(disparity, -jnp.inf, jax.lax.max, window, (1, 1), "SAME")
    thin = jax.lax.reduce_window(disparity, jnp.inf, jax.lax.min, window, (1, 1), "SAME")
    kind = jax.random.randint(key, (), 0, 3)
    return jnp.stack([disparity, fat, thin])[kind]


def _soft(
    disparity: Float[Array, "h w"], key: Key[Array, ""], config: DepthNoiseConfig
) -> Float[Array, "h w"]:
    """Step 4, by a matrix on either side: any σ, and nothing from beyond the edge."""
    if config.blur_fraction == 0:
        return disparity
    height_px, width_px = disparity.shape
    sigma_px = width_px * jax.random.uniform(key, (), maxval=config.blur_fraction)

    def averages(length: int) -> Float[Array, "n n"]:
        at = jnp.arange(length, dtype=jnp.float32)
        distance = (at[:, None] - at[None, :]) / jnp.maximum(sigma_px, 1e-3)
        weights = jnp.exp(-0.5 * distance**2)
        return weights / jnp.sum(weights, axis=1, keepdims=True)

    rows, columns = averages(height_px), averages(width_px)
    with jax.default_matmul_precision("highest"):
        return rows @ disparity @ columns.T


def _with_holes(
    disparity: Float[Array, "h w"], key: Key[Array, ""], config: DepthNoiseConfig
) -> Float[Array, "h w"]:
    """Step 5."""
    if config.hole_count == 0 or config.hole_fraction == 0:
        return disparity
    height_px, width_px = disparity.shape
    rows = jnp.arange(height_px, dtype=jnp.float32)[:, None] / width_px
    columns = jnp.arange(width_px, dtype=jnp.float32)[None, :] / width_px
    for hole in range(config.hole_count):
        place, size, there, zero, value = jax.random.split(jax.random.fold_in(key, hole), 5)
        x, y = jax.random.uniform(place, (2,))
        axes = config.hole_fraction * jax.random.uniform(size, (2,), minval=0.2, maxval=1.0)
        down = (rows - y * height_px / width_px) / axes[1]
        inside = ((columns - x) / axes[0]) ** 2 + down**2 < 1
        constant = jnp.where(jax.random.bernoulli(zero), 0.0, jax.random.uniform(value, ()))
        disparity = jnp.where(inside & jax.random.bernoulli(there), constant, disparity)
    return disparity
