"""A scene on the device: what a camera can be pointed at.

Two kinds, told apart by the keys of the batch (a static fact, so each compiles once):

* layered: full RGBA layers on planes; what lies behind an edge is known and every photograph is
  exact (`optics.render_layers`). Stored wider than the working frame, so that light from beyond the
  frame is real: a crop takes `margin_px` more on every side. A layer's light is `layer_gain` times
  what its pixels say, so that small lights are brighter than white.
* photograph: an all-in-focus image with a disparity map; hidden content is invented by
  `optics.render_defocus`.
"""

import dataclasses
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
from bokeh_jax.simulation.augment import apply_color_map


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


def largest_frame(stored: tuple[int, int], *, side_px: float, multiple_px: int) -> tuple[int, int]:
    """(height, width) of about side_px² pixels in the proportions of a stored frame.

    Both sides are multiples of `multiple_px`, at least one of it; they need not fit.
    """
    height_px, width_px = stored
    scale = side_px / math.sqrt(height_px * width_px)
    sides = (max(1, round(length * scale / multiple_px)) for length in (height_px, width_px))
    height, width = (multiple_px * count for count in sides)
    return height, width


def _crop_offset(key: Key[Array, ""] | None, slack_px: tuple[int, int]) -> Integer[Array, "2"]:
    """(row, column) of the crop: uniform with a key, centred without."""
    if key is None:
        return jnp.array([slack_px[0] // 2, slack_px[1] // 2], jnp.int32)
    high = jnp.array([slack_px[0] + 1, slack_px[1] + 1], jnp.int32)
    return jax.random.randint(key, (2,), 0, high)


def crop_scene(
    record: dict[str, Array],
    key: Key[Array, ""] | None,
    *,
    frame: tuple[int, int],
    max_radius_px: float,
) -> Scene:
    """Crops one scene record (no batch axis) to the working frame and decodes it to linear light.

    Args:
        record: keys as in docs/architecture.md, "Scene batch", without the leading axis.
        key: draws the crop; None takes the centre (evaluation).
        frame: (height, width) of the working frame.
        max_radius_px: largest blur radius that will be asked of the scene.

    Raises:
        ValueError: the stored record is too small for the frame and its margin.
    """
    layered = "layers" in record
    margin_px = margin_for(max_radius_px) if layered else 0
    stored = record["layers"].shape[1:3] if layered else record["image"].shape[:2]
    outer = (frame[0] + 2 * margin_px, frame[1] + 2 * margin_px)
    if stored[0] < outer[0] or stored[1] < outer[1]:
        raise ValueError(
            f"stored scenes are {stored[0]}x{stored[1]} px; a working frame of "
            f"{frame[0]}x{frame[1]} px with blur radii up to {max_radius_px:.1f} px needs at least "
            f"{outer[0]}x{outer[1]} px"
        )
    row, column = _crop_offset(key, (stored[0] - outer[0], stored[1] - outer[1]))
    if not layered:
        image = jax.lax.dynamic_slice(record["image"], (row, column, 0), (*outer, 3))
        disparity = jax.lax.dynamic_slice(record["disparity"], (row, column), outer)
        return Scene(_decode(image), disparity.astype(jnp.float32) / 65535.0, None, None)
    count = record["layers"].shape[0]
    zero = jnp.int32(0)
    window = jax.lax.dynamic_slice(record["layers"], (zero, row, column, zero), (count, *outer, 4))
    alpha = window[..., 3:].astype(jnp.float32) / 255.0
    light = record["layer_gain"][:, None, None, None] * _decode(window[..., :3])
    layers = jnp.concatenate([light, alpha], axis=-1)
    # The plane a x + b y + c, with the origin moved to the first pixel of the working frame.
    a, b, c = record["layer_disparity"].T
    x0, y0 = (column + margin_px).astype(jnp.float32), (row + margin_px).astype(jnp.float32)
    planes = jnp.stack([a, b, c + a * x0 + b * y0], axis=-1)
    rows, columns = (slice(margin_px, margin_px + length) for length in frame)
    return Scene(
        image=composite_layers(layers[:, rows, columns]),
        disparity=visible_disparity(layers[:, rows, columns, 3], planes),
        layers=layers,
        layer_disparity=planes,
        margin_px=margin_px,
    )


def recolor(scene: Scene, color_map: Float[Array, "3 3"]) -> Scene:
    """One scene with other colours; see `augment`."""
    if scene.layers is None:
        return dataclasses.replace(scene, image=apply_color_map(scene.image, color_map))
    light = apply_color_map(scene.layers[..., :3], color_map)
    layers = jnp.concatenate([light, scene.layers[..., 3:]], axis=-1)
    image = composite_layers(layers, margin_px=scene.margin_px)
    return dataclasses.replace(scene, image=image, layers=layers)


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
