"""Light, lenses and their blur: linear colour, thin lens, apertures, defocus, focal stacks.

Everything here is a pure, batched, differentiable function of arrays. It imports nothing else of
this project and raises `ValueError`.
"""

from bokeh_jax.optics.aperture import Aperture, Disc, Polygon, aperture_kernel
from bokeh_jax.optics.color import decode_gamma, encode_gamma, linear_to_srgb, srgb_to_linear
from bokeh_jax.optics.defocus import render_defocus
from bokeh_jax.optics.focal_stack import in_focus_weights, stack
from bokeh_jax.optics.layers import composite_layers, render_layers, visible_disparity
from bokeh_jax.optics.lens import Lens

__all__ = [
    "Aperture",
    "Disc",
    "Lens",
    "Polygon",
    "aperture_kernel",
    "composite_layers",
    "decode_gamma",
    "encode_gamma",
    "in_focus_weights",
    "linear_to_srgb",
    "render_defocus",
    "render_layers",
    "srgb_to_linear",
    "stack",
    "visible_disparity",
]
