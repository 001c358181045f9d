"""Aperture shapes and the blur kernels that they cast.

A point of light away from the focus plane is imaged as a copy of the aperture, scaled by the
signed radius of its circle of confusion. The kernel of radius r holds, for every pixel, the light
that the scaled opening sends there, divided by the sum.

A shape is a sum of outlines with weights: closed polygons inside the unit circle, each of which can
be seen whole from the centre. A uniformly lit opening is one outline of weight 1. An opening of
radial brightness I(q), where q in [0, 1] scales the outline to the point, is cut into rings between
q_0 = hole < q_1 < ... < q_n = 1 of mean brightness b_i::

    light = sum over i of (b_(i-1) - b_i) area(q_i * outline),     b_(-1) = b_n = 0

so that every pixel's share is a sum of exact areas (`polygon_area`). A kernel picture is
resampled by area as well (`kernel_image`).

An opening may be cut by the lens's rim: a second disc of radius 1 whose centre lies off the axis.
An outline seen whole from the centre keeps that property, so each vertex moves towards the centre
until the rim lets it pass. `zones` makes cat eyes of it.

Orientation: kernels are point-spread functions in the photograph (x right, y down). What is farther
than the focus plane (negative radius) shows the aperture upright; what is nearer shows it turned by
half a turn, because its rays have not crossed yet when they meet the sensor.

**Derivatives.** Every real-valued field may be traced, or be any JAX scalar: kernels are then made
by jax.numpy, with the derivatives of the exact areas, instead of NumPy. So may the picture of a
`KernelImage`. A traced field is not checked, and what holds one cannot be hashed: use it in a
closure, not as a static argument::

    jax.grad(lambda r: loss(render_radius(..., aperture=Polygon(6, roundness=r), ...)))(0.3)

Where an opening has a kink, as `Squeezed` at 1, the slope is the mean of both sides.

To add a shape, write a frozen dataclass with an `outlines` method and name it in `Shape`.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.kernel_image import KernelImage
from bokeh_jax.optics.namespace import Scalar, in_one_namespace, is_traced, require
from bokeh_jax.optics.outlines import Outlines, RimCenter, outline_light
from bokeh_jax.optics.polygon_area import CIRCLE_SIDES, unit_circle

# Rings of constant brightness that stand for a brightness that varies with the radius.
_BRIGHTNESS_STEPS = 16
# Sides of each ring's edge; the rings are many, and 3e-5 of their area is all that this costs.
_RING_SIDES = 512


@dataclass(frozen=True)
class Disc:
    """A wide-open round aperture."""

    def outlines(self, sides: int = CIRCLE_SIDES) -> Outlines:
        """The unit circle as a polygon of many sides."""
        return Outlines(unit_circle(sides)[None], np.ones(1), 2 * math.pi / sides)


@dataclass(frozen=True)
class Polygon:
    """A stopped-down aperture of straight or bowed blades, with its corners on the unit circle.

    Args:
        blades: number of sides, at least 3.
        rotation_rad: turn of the first corner from the x axis towards the y axis (clockwise in
            the photograph).
        roundness: 0 for straight sides, 1 for the full circle; in between, the distance from the
            centre is blended linearly.

    Raises:
        ValueError: a field outside its range.
    """

    blades: int
    rotation_rad: Scalar = 0.0
    roundness: Scalar = 0.0

    def __post_init__(self) -> None:
        if self.blades < 3:
            raise ValueError(f"blades must be at least 3, got {self.blades}")
        require("roundness", self.roundness, lambda value: 0 <= value <= 1, "lie in [0, 1]")
        require("rotation_rad", self.rotation_rad, math.isfinite, "be finite")

    def outlines(self, sides: int = CIRCLE_SIDES) -> Outlines:
        """One outline in or on the unit circle; a bowed side is one of many straight ones."""
        xp, (rotation_rad, roundness) = in_one_namespace(self.rotation_rad, self.roundness)
        half_side_rad = math.pi / self.blades
        per_side = -(-sides // self.blades)
        turn = np.arange(per_side * self.blades) * (2 * half_side_rad / per_side)
        # Distance of a straight side, seen from the centre in the direction `turn`.
        straight = math.cos(half_side_rad) / np.cos(turn % (2 * half_side_rad) - half_side_rad)
        distance = straight + roundness * (1 - straight)
        angle = turn + rotation_rad
        vertices = xp.stack([distance * xp.cos(angle), distance * xp.sin(angle)], axis=-1)
        # The same turn is the longest at a corner of straight sides.
        longest_step = 2 * math.pi / len(turn) / math.cos(half_side_rad)
        return Outlines(vertices[None], np.ones(1), longest_step)


@dataclass(frozen=True)
class Ring:
    """A shape whose brightness varies from the centre to the rim: I(q) = 1 + (rim - 1) q^power.

    A rim brighter than 1 gives the "soap bubbles" of an over-corrected lens, a rim of 0 the soft
    discs of an apodised one, a hole the rings of a mirror lens.

    Args:
        shape: outline of the opening.
        rim: brightness at the rim, relative to the centre's; at least 0.
        power: how steeply the brightness changes towards the rim; above 0.
        hole: radius of the dark centre, in units of the opening's; in [0, 1).

    Raises:
        ValueError: a field outside its range.
    """

    shape: Disc | Polygon = Disc()
    rim: Scalar = 2.0
    power: Scalar = 4.0
    hole: Scalar = 0.0

    def __post_init__(self) -> None:
        require("rim", self.rim, lambda value: 0 <= value < math.inf, "be finite and >= 0")
        require("power", self.power, lambda value: 0 < value < math.inf, "be finite and > 0")
        require("hole", self.hole, lambda value: 0 <= value < 1, "lie in [0, 1)")

    def outlines(self) -> Outlines:
        """Scaled copies of the shape's outline; see the module's head."""
        xp, (rim, power, hole) = in_one_namespace(self.rim, self.power, self.hole)
        edges = xp.linspace(hole, 1.0, _BRIGHTNESS_STEPS + 1)
        exponent = power + 2
        # The mean of I over the area between two edges, so that no light is lost to the steps.
        mean = 1 + (rim - 1) * 2 / exponent * xp.diff(edges**exponent) / xp.diff(edges**2)
        weights = -xp.diff(mean, prepend=0.0, append=0.0)
        # A hole that is known to be none needs no outline.
        first = 1 if not is_traced(self.hole) and self.hole == 0 else 0
        (outline,), _, longest_step = self.shape.outlines(_RING_SIDES)
        return Outlines(outline[None] * edges[first:, None, None], weights[first:], longest_step)


@dataclass(frozen=True)
class Squeezed:
    """A shape as an anamorphic lens shows it.

    Args:
        shape: the opening without the squeeze.
        squeeze: width relative to height, above 0. Below 1 the width shrinks, above 1 the height
            does, so that the shape stays within the unit circle.

    Raises:
        ValueError: a squeeze outside its range.
    """

    shape: Disc | Polygon | Ring
    squeeze: Scalar

    def __post_init__(self) -> None:
        require("squeeze", self.squeeze, lambda value: 0 < value < math.inf, "be finite and > 0")

    def outlines(self) -> Outlines:
        """The shape's outlines, scaled along x or y."""
        vertices, weights, longest_step = self.shape.outlines()
        xp, (squeeze,) = in_one_namespace(self.squeeze)
        scale = xp.stack([xp.minimum(1.0, squeeze), xp.minimum(1.0, 1 / squeeze)])
        return Outlines(vertices * scale[None, None], weights, longest_step)


Shape = Disc | Polygon | Ring | Squeezed | KernelImage


@dataclass(frozen=True)
class CatEye:
    """An opening that the lens's rim cuts more and more towards the frame's corners.

    In the corners the rim's centre lies `amount` opening radii off the axis. The frame is split
    into zones, see `zones`. Kernels keep a sum of one: the shape changes, not the exposure.

    Args:
        shape: the opening in the frame's middle.
        amount: 0 for none; below 1.
        zones: nodes along each side of the frame, at least 2; the time grows with their square.

    Raises:
        ValueError: a field outside its range.
    """

    shape: Shape = Disc()
    amount: Scalar = 0.6
    zones: int = 3

    def __post_init__(self) -> None:
        require("amount", self.amount, lambda value: 0 <= value < 1, "lie in [0, 1)")
        if self.zones < 2:
            raise ValueError(f"zones must be at least 2, got {self.zones}")


Aperture = Disc | Polygon | Ring | Squeezed | KernelImage | CatEye


def squeezed(shape: Shape, squeeze: Scalar) -> Shape:
    """Any shape with its width multiplied by `squeeze` relative to its height."""
    match shape:
        case KernelImage():
            return dataclasses.replace(shape, pixel_aspect=shape.pixel_aspect * squeeze)
        case Squeezed():
            return Squeezed(shape.shape, shape.squeeze * squeeze)
        case _:
            return Squeezed(shape, squeeze)


def is_point_symmetric(aperture: Aperture) -> bool:
    """Whether half a turn leaves the opening as it is, so near and far blur look alike.

    False where that depends on a traced value.
    """
    match aperture:
        case Disc():
            return True
        case Polygon(blades=blades, roundness=roundness):
            return blades % 2 == 0 or (not is_traced(roundness) and bool(roundness == 1))
        case Ring(shape=shape) | Squeezed(shape=shape):
            return is_point_symmetric(shape)
        case KernelImage():
            picture = aperture.array()
            return not is_traced(picture) and bool(np.array_equal(picture, picture[::-1, ::-1]))
        case CatEye():
            return False


def aperture_kernel(
    aperture: Shape,
    signed_radius_px: Scalar,
    half_size_px: int,
    *,
    rim_center: RimCenter | None = None,
) -> Float[Array | np.ndarray, "k k"]:
    """The kernel of one signed radius: unit sum, area-antialiased, k = 2 * half_size_px + 1.

    Computed with NumPy in float64, or with jax.numpy where anything is traced; see the module's
    head. Traced values are not checked.

    Args:
        aperture: the shape.
        signed_radius_px: radius of the circle of confusion; negative beyond the focus plane. Zero
            only where it is not traced.
        half_size_px: pixels on either side of the kernel's centre.
        rim_center: (x, y) of the rim's centre in units of the opening's radius, less than 1 from
            the axis; None where no rim cuts the opening.

    Raises:
        ValueError: the shape does not fit into the kernel, or the rim hides the axis.
    """
    most_px = half_size_px + 0.5
    rule = f"lie within half_size_px + 0.5 = {most_px}"
    require("signed_radius_px", signed_radius_px, lambda value: abs(value) <= most_px, rule)
    if rim_center is not None and not is_traced(rim_center) and not math.hypot(*rim_center) < 1:
        raise ValueError(f"rim_center must lie less than 1 from the axis, got {rim_center}")
    size = 2 * half_size_px + 1
    if not is_traced(signed_radius_px) and signed_radius_px == 0:
        kernel = np.zeros((size, size))
        kernel[half_size_px, half_size_px] = 1.0
        return kernel
    # Pixel i covers [i, i + 1] here, so the kernel's centre lies at half_size_px + 0.5.
    if isinstance(aperture, KernelImage):
        light = aperture.light(-signed_radius_px, size, rim_center)
    else:
        light = outline_light(aperture.outlines(), -signed_radius_px, size, rim_center)
    xp, (light,) = in_one_namespace(light)
    # Differences of areas may leave -1e-17 where a hole covers a pixel.
    light = xp.maximum(light, 0.0)
    if not is_traced(light) and not light.sum() > 0:
        raise ValueError(f"no light of the kernel picture passes a rim at {rim_center}")
    return light / light.sum()
