"""Light, lenses and their blur: linear colour, thin lens, apertures, defocus, focal stacks.

Everything here is a pure, batched, differentiable function of arrays (`render_tiled`, for large
photographs, works on the host). It imports nothing else of this project and raises `ValueError`.
"""

from bokeh_jax.optics.aperture import (
    Aperture,
    CatEye,
    Disc,
    KernelImage,
    Polygon,
    Ring,
    Shape,
    Squeezed,
    aperture_kernel,
    squeezed,
)
from bokeh_jax.optics.color import decode_gamma, encode_gamma, linear_to_srgb, srgb_to_linear
from bokeh_jax.optics.defocus import render_defocus, render_radius
from bokeh_jax.optics.exif import Exif
from bokeh_jax.optics.focal_stack import all_in_focus, focal_stack, in_focus_weights, stack
from bokeh_jax.optics.focus import focus_radius_px
from bokeh_jax.optics.highlights import expand_highlights
from bokeh_jax.optics.layers import composite_layers, render_layers, visible_disparity
from bokeh_jax.optics.lens import Lens
from bokeh_jax.optics.tiles import render_tiled

__all__ = [
    "Aperture",
    "CatEye",
    "Disc",
    "Exif",
    "KernelImage",
    "Lens",
    "Polygon",
    "Ring",
    "Shape",
    "Squeezed",
    "all_in_focus",
    "aperture_kernel",
    "composite_layers",
    "decode_gamma",
    "encode_gamma",
    "expand_highlights",
    "focal_stack",
    "focus_radius_px",
    "in_focus_weights",
    "linear_to_srgb",
    "render_defocus",
    "render_layers",
    "render_radius",
    "render_tiled",
    "squeezed",
    "srgb_to_linear",
    "stack",
    "visible_disparity",
]
