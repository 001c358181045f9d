"""A scene on the device: what a camera can be pointed at.

Two kinds, told apart by the keys of the batch (a static fact, so each compiles once):

* layered: full RGBA layers on planes; what lies behind an edge is known and every photograph is
  exact (`optics.render_layers`). Stored wider than the working frame, so that light from beyond the
  frame is real: a crop takes `margin_px` more on every side.
* photograph: an all-in-focus image with a disparity map; hidden content is invented by
  `optics.render_defocus`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from bokeh_jax.optics import (
    Disc,
    Lens,
    composite_layers,
    render_defocus,
    render_layers,
    srgb_to_linear,
    visible_disparity,
)
from bokeh_jax.pytree import pytree_dataclass, static_field


@pytree_dataclass
class Scene:
    """One scene, cropped to the working frame; a batch carries a leading axis `b` everywhere.

    Attributes:
        image: all-in-focus photograph, linear light, [h, w, 3].
        disparity: disparity of the visible surface, [h, w].
        layers: linear light, straight alpha, nearest first, [l, h + 2 margin, w + 2 margin, 4];
            None for photographs.
        layer_disparity: planes (a, b, c) in pixels of the working frame, [l, 3]; None likewise.
        margin_px: static; pixels of `layers` beyond the frame on each side.
    """

    image: Float[Array, "*b h w 3"]
    disparity: Float[Array, "*b h w"]
    layers: Float[Array, "*b l hm wm 4"] | None
    layer_disparity: Float[Array, "*b l 3"] | None
    margin_px: int = static_field(default=0)


def margin_for(max_radius_px: float) -> int:
    """Pixels needed beyond the frame so that no blur of at most `max_radius_px` sees its end."""
    return math.ceil(max_radius_px) + 1


def _decode(image: Integer[Array, "*s"]) -> Float[Array, "*s"]:
    return srgb_to_linear(image.astype(jnp.float32) / 255.0)


def _crop_offset(key: Key[Array, ""] | None, slack_px: tuple[int, int]) -> Integer[Array, "2"]:
    """(row, column) of the crop: uniform with a key, centred without."""
    if key is None:
        return jnp.array([slack_px[0] // 2, slack_px[1] // 2], jnp.int32)
    high = jnp.array([slack_px[0] + 1, slack_px[1] + 1], jnp.int32)
    return jax.random.randint(key, (2,), 0, high)


def crop_scene(
    record: dict[str, Array], key: Key[Array, ""] | None, *, size_px: int, max_radius_px: float
) -> Scene:
    """Crops one scene record (no batch axis) to the working frame and decodes it to linear light.

    Args:
        record: keys as in docs/architecture.md, "Scene batch", without the leading axis.
        key: draws the crop; None takes the centre (evaluation).
        size_px: height and width of the working frame.
        max_radius_px: largest blur radius that will be asked of the scene.

    Raises:
        ValueError: the stored record is too small for the frame and its margin.
    """
    layered = "layers" in record
    margin_px = margin_for(max_radius_px) if layered else 0
    stored = record["layers"].shape[1:3] if layered else record["image"].shape[:2]
    outer_px = size_px + 2 * margin_px
    if min(stored) < outer_px:
        raise ValueError(
            f"stored scenes are {stored[0]}x{stored[1]} px; a working size of {size_px} px with "
            f"blur radii up to {max_radius_px:.1f} px needs at least {outer_px} px"
        )
    row, column = _crop_offset(key, (stored[0] - outer_px, stored[1] - outer_px))
    if not layered:
        image = jax.lax.dynamic_slice(record["image"], (row, column, 0), (outer_px, outer_px, 3))
        disparity = jax.lax.dynamic_slice(record["disparity"], (row, column), (outer_px, outer_px))
        return Scene(_decode(image), disparity, None, None)
    count = record["layers"].shape[0]
    zero = jnp.int32(0)
    window = jax.lax.dynamic_slice(
        record["layers"], (zero, row, column, zero), (count, outer_px, outer_px, 4)
    )
    alpha = window[..., 3:].astype(jnp.float32) / 255.0
    layers = jnp.concatenate([_decode(window[..., :3]), alpha], axis=-1)
    # The plane a x + b y + c, with the origin moved to the first pixel of the working frame.
    a, b, c = record["layer_disparity"].T
    x0, y0 = (column + margin_px).astype(jnp.float32), (row + margin_px).astype(jnp.float32)
    planes = jnp.stack([a, b, c + a * x0 + b * y0], axis=-1)
    inner = slice(margin_px, margin_px + size_px)
    return Scene(
        image=composite_layers(layers[:, inner, inner]),
        disparity=visible_disparity(layers[..., 3], planes, margin_px=margin_px),
        layers=layers,
        layer_disparity=planes,
        margin_px=margin_px,
    )


def photograph(scenes: Scene, lenses: Lens, *, max_radius_px: float) -> Float[Array, "b c h w 3"]:
    """Takes c photographs of every scene of a batch, with lenses of batch shape [b, c].

    One batched call of the renderer, and no `vmap` around it: the renderer skips layers that no
    scene uses, which `vmap` would turn into computing and discarding them.

    Returns:
        Linear light, [b, c, h, w, 3].
    """
    count = lenses.blur_px.shape[1]

    def per_camera(value: Float[Array, "b *s"]) -> Float[Array, "b c *s"]:
        return jnp.broadcast_to(value[:, None], (value.shape[0], count, *value.shape[1:]))

    if scenes.layers is not None and scenes.layer_disparity is not None:
        return render_layers(
            per_camera(scenes.layers),
            per_camera(scenes.layer_disparity),
            lenses,
            aperture=Disc(),
            max_radius_px=max_radius_px,
            margin_px=scenes.margin_px,
        )
    return render_defocus(
        per_camera(scenes.image),
        per_camera(scenes.disparity),
        lenses,
        aperture=Disc(),
        max_radius_px=max_radius_px,
    )
