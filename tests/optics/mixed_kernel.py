"""The kernel that the renderer has for a radius, from those of its nodes."""

import math

import numpy as np

from bokeh_jax.optics.layer_kernels import interpolating_kernel
from bokeh_jax.optics.layer_plan import plan_layers


def mixed_kernel(aperture, radius_px, max_radius_px, half_size_px):
    """The kernels of the two nodes around a radius, in linear shares, at full resolution."""
    slabs = plan_layers(max_radius_px).near
    nodes = np.array([0.0, *(px for slab in slabs for px in slab.nodes_px)])
    outer = max(1, int(np.searchsorted(nodes, abs(radius_px))))
    share = (abs(radius_px) - nodes[outer - 1]) / (nodes[outer] - nodes[outer - 1])
    kernels = [
        interpolating_kernel(aperture, math.copysign(nodes[i], radius_px), half_size_px)
        for i in (outer - 1, outer)
    ]
    return (1 - share) * kernels[0] + share * kernels[1]
