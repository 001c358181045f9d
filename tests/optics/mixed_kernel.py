"""Kernels as the renderer has them: of any radius, and by zone."""

import math

import numpy as np

from bokeh_jax.optics.layer_kernels import interpolating_kernel, slab_kernels
from bokeh_jax.optics.layer_plan import Slab, plan_layers


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


def zone_kernels(aperture, signed_radii_px, half_size_px, frame):
    """Kernels at full resolution, by radius and zone."""
    slabs = tuple(Slab((float(px),), 0.0, 0.0) for px in signed_radii_px)
    return slab_kernels(aperture, slabs, 0, half_size_px, frame)[:, 0]
