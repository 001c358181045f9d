"""Flips and colours drawn for every scene of every step: the same scenes, seen more than once.

A flip mirrors the stored frame before it is cropped; planes of disparity follow. With
x' = W - 1 - x

    a x + b y + c = -a x' + b y + (c + a (W - 1)).

Colours change in linear light, before any photograph is taken, by one linear map of the colours,

    rgb -> g (Y + s (w rgb - Y)),      Y = luminance of w rgb,

with exposure g = 2^u, white balance w (three factors 2^v of mean exponent zero) and saturation s.
The map is the same at every pixel and for every layer, so blurring and compositing layers commute
with it: the photographs are those of a scene with other paint. Y has Rec. 709's weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far scenes are varied; zeros leave them as they are.

    Attributes:
        flip_rate: share of scenes that are mirrored.
        exposure_stops: u is uniform in ± this.
        white_balance_stops: the exponents v are uniform in ± this, before their mean is taken off.
        saturation: s is uniform in 1 ± this.
    """

    flip_rate: float = 0.5
    exposure_stops: float = 0.0
    white_balance_stops: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        for name in ("flip_rate", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        for name in ("exposure_stops", "white_balance_stops"):
            if not 0.0 <= getattr(self, name) <= 4.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 4")

    @property
    def changes_colors(self) -> bool:
        """Whether any colour is changed."""
        return max(self.exposure_stops, self.white_balance_stops, self.saturation) > 0


def flip_record(
    record: dict[str, Array], key: Key[Array, ""], config: AugmentConfig
) -> dict[str, Array]:
    """Mirror a scene record (no batch axis; keys of the scene batch) left to right, or not."""
    if config.flip_rate == 0:
        return record
    flip = jax.random.bernoulli(key, config.flip_rate)
    flipped = {}
    for name, value in record.items():
        if name == "layer_disparity":
            a, b, c = value.T
            width_px = record["layers"].shape[2]
            mirrored = jnp.stack([-a, b, c + a * (width_px - 1)], axis=-1)
        elif name in ("layers", "image", "disparity"):
            # Columns: the last axis but the channels'.
            mirrored = jnp.flip(value, axis=-1 if name == "disparity" else -2)
        else:
            mirrored = value
        flipped[name] = jnp.where(flip, mirrored, value)
    return flipped


def draw_color_map(key: Key[Array, ""], config: AugmentConfig) -> Float[Array, "3 3"]:
    """The linear map of one scene's colours, [out, in]; see the module's header."""
    exposure, balance, saturation = jax.random.split(key, 3)
    gain = 2.0 ** jax.random.uniform(
        exposure, (), minval=-config.exposure_stops, maxval=config.exposure_stops
    )
    stops = jax.random.uniform(
        balance, (3,), minval=-config.white_balance_stops, maxval=config.white_balance_stops
    )
    white = 2.0 ** (stops - jnp.mean(stops))
    amount = jax.random.uniform(
        saturation, (), minval=1.0 - config.saturation, maxval=1.0 + config.saturation
    )
    luminance = jnp.broadcast_to(jnp.asarray(_LUMINANCE, jnp.float32), (3, 3))
    mixed = amount * jnp.eye(3) + (1.0 - amount) * luminance
    return gain * mixed * white[None, :]


def apply_color_map(
    image: Float[Array, "*n h w 3"], color_map: Float[Array, "3 3"]
) -> Float[Array, "*n h w 3"]:
    """Change the colours of linear light; what would be less than black is black."""
    mapped = jnp.einsum("...i,oi->...o", image, color_map, precision="highest")
    return jnp.maximum(mapped, 0.0)
