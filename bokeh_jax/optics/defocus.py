"""Lens blur of a photograph with a disparity map: slabs of nearly equal signed radius.

Every pixel has the signed radius s(x) = K (d(x) - d_f). Slabs of fixed signed radii share the
pixels out between them (`layer_plan`). The kernels are constants of the slabs (`layer_kernels`), so
K and d_f act through weights alone, and all derivatives are those of piecewise smooth sums.

1. Pixels on a silhouette hold light of two surfaces and enter every sum with both (`matting`).
2. The scene is halved as often as the widest kernels allow (`surfaces`).
3. Each slab is averaged over its kernels, with content invented where something nearer hides it,
   and normalised (`slabs`).
4. Slabs are composited with "over": F from the widest far kernels on, doubling the resolution on
   the way; N from the widest near ones on, alone; what is in focus, over F, in between::

       out = N + (1 - coverage of N) (focus over F),     divided by the coverage of all

Where nothing is blurred, only the slab in focus takes part, and the image returns bit for bit.

The layered view with conditional opacities follows Ikoma, Nguyen, Metzler, Peng & Wetzstein, "Depth
from defocus with learned optics", ICCP 2021; fixed signed radii, interpolated kernels, continuing
surfaces and invented hidden content are this module's own.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture, Disc, is_point_symmetric
from bokeh_jax.optics.layer_kernels import kernel_half_size_px
from bokeh_jax.optics.layer_plan import LayerPlan, check_max_radius, level_of_stage, plan_layers
from bokeh_jax.optics.lens import Lens
from bokeh_jax.optics.linear import (
    channels,
    color_planes,
    from_channels,
    image_of,
    kept,
    unstack,
)
from bokeh_jax.optics.matting import split_silhouettes
from bokeh_jax.optics.resample import double_smoothly
from bokeh_jax.optics.slabs import (
    LEAST_COVERAGE,
    SAME_SURFACE_PX,
    Picture,
    Slabs,
    coarse_hats,
    draw_focus,
    draw_slabs,
    over,
    padded_scene,
    slab_arrays,
)
from bokeh_jax.optics.small_kernels import small_kernel_taps
from bokeh_jax.optics.surfaces import Scene, coarsen, make_scene
from bokeh_jax.optics.zones import zone_hats


def render_defocus(
    image: Float[Array, "*b h w 3"],
    disparity: Float[Array, "*b h w"],
    lens: Lens,
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
) -> Float[Array, "*b h w 3"]:
    """Photograph an all-in-focus image through a lens.

    Differentiable in the image, the disparity, the lens and the aperture's real-valued fields (see
    `aperture`). Computed in float32 (in float64 for a float64 image). Memory does not depend on the
    number of layers; layers without any pixel are skipped. The image goes on beyond its frame with
    its edge pixels. Where every radius is zero, the result is the image bit for bit.

    Args:
        image: all in focus, linear light, [0, inf).
        disparity: of the visible surfaces, larger is nearer, in the lens's unit.
        lens: one for all, or one for each image (batch shape `*b`).
        aperture: shape of the blur; static, or with traced fields.
        max_radius_px: static. Signed radii beyond it raise where they are known, and are clamped
            to it within compiled functions.

    Raises:
        ValueError: shapes that do not fit, an image of integers, radii that are not finite or
            beyond `max_radius_px` (where they are known), a bad `max_radius_px`.
    """
    dtype = compute_dtype(image)
    _check_shapes(image, disparity, "disparity")
    return render_radius(
        image,
        lens.signed_radius_px(disparity.astype(dtype)),
        aperture=aperture,
        max_radius_px=max_radius_px,
    )


def render_radius(
    image: Float[Array, "*b h w 3"],
    signed_radius_px: Float[Array, "*b h w"],
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
) -> Float[Array, "*b h w 3"]:
    """Photograph an all-in-focus image whose signed blur radii are given, pixel by pixel.

    `render_defocus` is this with the radii of a lens; `focus` makes other radii. What is said of
    `render_defocus` holds here too.

    Args:
        image: all in focus, linear light, [0, inf).
        signed_radius_px: of the visible surfaces, positive nearer than the focus; a surface of
            greater radius is taken to hide one of smaller radius.
        aperture: shape of the blur; static, or with traced fields.
        max_radius_px: static. Signed radii beyond it raise where they are known, and are clamped
            to it within compiled functions.

    Raises:
        ValueError: shapes that do not fit, an image of integers, radii that are not finite or
            beyond `max_radius_px` (where they are known), a bad `max_radius_px`.
    """
    _check_shapes(image, signed_radius_px, "signed_radius_px")
    _check_values(image, signed_radius_px, max_radius_px)
    frame = (image.shape[-3], image.shape[-2])
    hats, dtype = zone_hats(aperture, frame), compute_dtype(image)
    return render_window(
        image,
        signed_radius_px,
        (jnp.asarray(hats.rows, dtype), jnp.asarray(hats.columns, dtype)),
        frame=frame,
        aperture=aperture,
        max_radius_px=max_radius_px,
    )


def render_window(
    image: Float[Array, "*b h w 3"],
    signed_radius_px: Float[Array, "*b h w"],
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    *,
    frame: tuple[int, int],
    aperture: Aperture,
    max_radius_px: float | int,
) -> Float[Array, "*b h w 3"]:
    """`render_radius` of a part of a photograph: its own hats, the whole photograph's frame."""
    plan = plan_layers(max_radius_px)
    dtype = compute_dtype(image)
    height, width = signed_radius_px.shape[-2:]
    signed = signed_radius_px.astype(dtype).reshape(-1, 1, height, width)
    signed = jnp.clip(signed, -max_radius_px, max_radius_px)
    colors = color_planes(image.astype(dtype).reshape(-1, height, width, 3))
    planes = from_channels(colors)
    surfaces = split_silhouettes(planes, signed, SAME_SURFACE_PX)
    scene = make_scene(planes, surfaces)
    rendered = _render_levels(scene, plan, aperture, hats, frame)
    return image_of(rendered).reshape(image.shape)


def _check_shapes(image: Array, plane: Array, name: str) -> None:
    if image.shape[-1:] != (3,) or image.shape[:-1] != plane.shape:
        raise ValueError(
            f"image must have the shape of {name} and 3 colours, "
            f"got image {image.shape} and {name} {plane.shape}"
        )


def _check_values(image: Array, signed_radius_px: Array, max_radius_px: float | int) -> None:
    """Raise for what no lens makes; radii are known outside compiled functions only."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image must be linear light in floating point, got {image.dtype}; srgb_to_linear "
            "decodes what files hold"
        )
    check_max_radius(max_radius_px)
    if isinstance(signed_radius_px, Tracer) or signed_radius_px.size == 0:
        return
    # On the host: within a compiled function jnp would make a tracer of what is known.
    greatest_px = float(np.abs(jax.device_get(signed_radius_px)).max())
    if not math.isfinite(greatest_px):
        raise ValueError(
            f"signed radii must be finite, got {greatest_px}: NaN or infinity in the disparity, or "
            "a huge blur"
        )
    if greatest_px > max_radius_px * (1 + 1e-5):
        raise ValueError(
            f"max_radius_px must be at least the greatest radius, {greatest_px:g} px, got "
            f"{max_radius_px:g}; within compiled functions radii are clamped to it"
        )


def compute_dtype(array: Array) -> jnp.dtype:
    """float64 stays, every other type is computed in float32."""
    return jnp.dtype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)


def _render_levels(
    scene: Scene,
    plan: LayerPlan,
    aperture: Aperture,
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    frame: tuple[int, int],
) -> tuple[Float[Array, "b h w"], ...]:
    """Composite the stages: far and near blur from the widest on, and what is in focus between."""
    height, width = scene.frame
    last_level = level_of_stage(plan.last_stage)
    block_px = 2 ** (last_level + 1)
    scene = scene.padded((-(-height // block_px) * block_px, -(-width // block_px) * block_px))
    scenes = [scene]
    for _ in range(last_level + 1):
        scenes.append(kept(coarsen, scenes[-1]))

    widest = scenes[last_level]
    far = near = jax.tree.map(jnp.zeros_like, Picture(widest.image, widest.near))
    for level in range(last_level, -1, -1):
        if level < last_level:
            far, near = _double(far), _double(near)
        level_hats = coarse_hats(hats, scenes[level].frame, level)
        stages = _stages(plan, level, aperture, frame, near.coverage.dtype)
        far, near = _draw_level(
            scenes[level],
            scenes[level + 1],
            stages,
            level_hats,
            is_point_symmetric(aperture),
            far=far,
            near=near,
        )
    light, coverage = over(near, draw_focus(scenes[0], scenes[1], plan.in_focus, far))
    # Rounding in the transforms may leave less than black, which powers turn into NaN.
    gain = 1 / jnp.maximum(coverage, LEAST_COVERAGE)
    picture = kept(
        lambda light, gain: [jnp.maximum(color, 0.0) * gain for color in light], light, gain
    )
    return tuple(color[..., :height, :width] for color in picture)


def _stages(
    plan: LayerPlan, level: int, aperture: Aperture, frame: tuple[int, int], dtype: jnp.dtype
) -> list[Slabs]:
    """Slabs of every stage of a level, from the widest on: far ones, then as many near ones."""
    stages = sorted({own for own in plan.stages if level_of_stage(own) == level}, reverse=True)
    sides = [(*plan.far_slabs(stage), *plan.near_slabs(stage)) for stage in stages]
    half_size_px = kernel_half_size_px(sum(sides, ()), level)
    return [slab_arrays(slabs, level, half_size_px, aperture, frame, dtype) for slabs in sides]


def _draw_level(
    scene: Scene,
    coarser: Scene,
    stages: list[Slabs],
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    symmetric: bool,
    *,
    far: Picture,
    near: Picture,
) -> tuple[Picture, Picture]:
    """Draw the slabs of one resolution on either side of the focus; see `draw_slabs`."""
    if not stages:
        return far, near
    taps = [small_kernel_taps(slabs.kernels) for slabs in stages]
    half_size_px = stages[0].kernels.shape[-1] // 2
    padded = padded_scene(scene, half_size_px, for_transforms=None in taps)
    for slabs, own_taps in zip(stages, taps, strict=True):
        draw = functools.partial(draw_slabs, scene, padded, coarser, own_taps, symmetric, hats)
        # One loop over the two sides, so that its body is compiled once.
        sides = jax.tree.map(lambda rows: rows.reshape(2, -1, *rows.shape[1:]), slabs)
        behind = jax.tree.map(
            lambda *rows: jnp.stack(rows), far, jax.tree.map(jnp.zeros_like, near)
        )
        both = jax.lax.map(lambda side, draw=draw: draw(*side), (sides, behind))
        rows = [unstack(planes) for planes in jax.tree.leaves(both)]
        far, this = (
            jax.tree.unflatten(jax.tree.structure(near), row) for row in zip(*rows, strict=True)
        )
        near = over(near, this)
    return far, near


def _double(picture: Picture) -> Picture:
    planes = channels(double_smoothly(from_channels((*picture.light, picture.coverage))))
    return Picture((planes[0], planes[1], planes[2]), planes[3])
