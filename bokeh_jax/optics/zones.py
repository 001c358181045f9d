"""Apertures that change over the frame, within a scheme of constant kernels.

The rim of a lens barrel cuts the opening as the pixel at the field position p = (x, y) sees it,
measured from the frame's middle with the corners at |p| = 1. A ray through the point u of the
opening (in units of its radius) meets the rim at u + amount p, so the rim lets the disc of radius 1
around -amount p pass: the blur of what is far is cut on the side away from the middle.

The frame carries n x n nodes, from edge to edge. Each has one kernel a layer, and a pixel takes the
blurs of the four nodes around it, weighted with bilinear hat functions h_z, which sum to one::

    B(plane) = sum over z of h_z B_z(plane)

The weights stand where the light arrives: which rays the rim stops depends on their direction, and
that is given by the pixel that they reach. Constants stay constants. Between the nodes kernels are
mixed linearly: exact at the nodes, the closer the more nodes. A plane costs one transform and one
inverse transform a zone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bokeh_jax.optics.aperture import Aperture, CatEye, Shape
from bokeh_jax.optics.namespace import in_one_namespace, is_traced
from bokeh_jax.optics.outlines import RimCenter


class ZoneHats(NamedTuple):
    """Hat functions of the zones: h_z(y, x) = rows[z, y] columns[z, x]; they sum to one.

    Attributes:
        rows, columns: one line for each zone.
    """

    rows: Float[np.ndarray, "z h"]
    columns: Float[np.ndarray, "z w"]


def zone_shape(aperture: Aperture) -> Shape:
    """The opening before the rim cuts it."""
    return aperture.shape if isinstance(aperture, CatEye) else aperture


def rim_centers(aperture: Aperture, frame: tuple[int, int]) -> list[RimCenter] | list[None]:
    """Where the rim's centre lies for each zone of a photograph of (h, w) pixels.

    One None for an opening that does not change over the frame; JAX arrays for a traced amount.
    """
    if not isinstance(aperture, CatEye):
        return [None]
    _, (amount,) = in_one_namespace(aperture.amount)
    nodes = -amount * node_positions(aperture.zones, frame)
    if is_traced(nodes):
        return list(nodes)
    return [(float(x), float(y)) for x, y in nodes]


def zone_hats(aperture: Aperture, frame: tuple[int, int]) -> ZoneHats:
    """The zones' hat functions over a photograph of (h, w) pixels."""
    height, width = frame
    if not isinstance(aperture, CatEye):
        return ZoneHats(np.ones((1, height)), np.ones((1, width)))
    rows, columns = (_line_hats(size, aperture.zones) for size in frame)
    return ZoneHats(np.repeat(rows, aperture.zones, axis=0), np.tile(columns, (aperture.zones, 1)))


def node_positions(count: int, frame: tuple[int, int]) -> Float[np.ndarray, "z 2"]:
    """Field positions (x, y) of count x count nodes, row by row; the corners have length 1."""
    along = np.linspace(-1.0, 1.0, count)
    y, x = np.meshgrid(along * frame[0], along * frame[1], indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1) / np.hypot(*frame)


def _line_hats(size: int, count: int) -> Float[np.ndarray, "n s"]:
    """Hat functions of `count` nodes from edge to edge of a line of `size` pixels."""
    position = (np.arange(size) + 0.5) / size * (count - 1)
    return np.maximum(0.0, 1 - np.abs(position - np.arange(count)[:, None]))
