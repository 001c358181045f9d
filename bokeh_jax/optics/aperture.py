"""Aperture shapes and the blur kernels that they cast.

A point of light away from the focus plane is imaged as a copy of the aperture, scaled by the
signed radius of its circle of confusion. A shape is described by its boundary alone: a closed
polygon inside the unit circle. The kernel of radius r holds, for every pixel, the exact area of the
scaled shape inside that pixel, divided by the sum: the light that a uniformly lit aperture
sends there.

The areas come from Green's theorem, one row at a time. Cut the boundary at every grid line. A piece
that lies in row y and column x, climbs by dy and has its midpoint at the fraction f of the pixel's
width adds dy * (1 - f) to the area of its own pixel and dy to that of every pixel right of it;
summing the pieces and accumulating along the row gives the covered area, whatever the shape.

Orientation: kernels are point-spread functions in the photograph (x right, y down). What is farther
than the focus plane (negative radius) shows the aperture upright; what is nearer shows it turned by
half a turn, because its rays have not crossed yet when they meet the sensor.

To add a shape, write a frozen dataclass with a `boundary` method and name it in `Aperture`.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# A regular polygon of n sides lacks 2 pi^2 / (3 n^2) of its circle's area: 4e-7 here.
_CIRCLE_SIDES = 4096


@dataclass(frozen=True)
class Disc:
    """A wide-open round aperture."""

    def boundary(self) -> Float[np.ndarray, "n 2"]:
        """Vertices (x, y) on the unit circle, in order."""
        turn = np.linspace(0.0, 2 * math.pi, _CIRCLE_SIDES, endpoint=False)
        return np.stack([np.cos(turn), np.sin(turn)], axis=-1)


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
    rotation_rad: float | int = 0.0
    roundness: float | int = 0.0

    def __post_init__(self) -> None:
        if self.blades < 3:
            raise ValueError(f"blades must be at least 3, got {self.blades}")
        if not 0 <= self.roundness <= 1:
            raise ValueError(f"roundness must lie in [0, 1], got {self.roundness}")
        if not math.isfinite(self.rotation_rad):
            raise ValueError(f"rotation_rad must be finite, got {self.rotation_rad}")

    def boundary(self) -> Float[np.ndarray, "n 2"]:
        """Vertices (x, y) in or on the unit circle, in order."""
        half_side_rad = math.pi / self.blades
        per_side = -(-_CIRCLE_SIDES // self.blades)
        turn = np.arange(per_side * self.blades) * (2 * half_side_rad / per_side)
        # Distance of a straight side, seen from the centre in the direction `turn`.
        straight = math.cos(half_side_rad) / np.cos(turn % (2 * half_side_rad) - half_side_rad)
        distance = straight + self.roundness * (1 - straight)
        angle = turn + self.rotation_rad
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=-1)


Aperture = Disc | Polygon


def is_point_symmetric(aperture: Aperture) -> bool:
    """Whether half a turn leaves the shape as it is, so near and far blur look alike."""
    match aperture:
        case Disc():
            return True
        case Polygon(blades=blades, roundness=roundness):
            return blades % 2 == 0 or roundness == 1


def aperture_kernel(
    aperture: Aperture, signed_radius_px: float | int, half_size_px: int
) -> Float[np.ndarray, "k k"]:
    """The kernel of one signed radius: unit sum, area-antialiased, k = 2 * half_size_px + 1.

    Computed with NumPy in float64: a radius is a constant of its layer, never traced.

    Args:
        aperture: the shape.
        signed_radius_px: radius of the circle of confusion; negative beyond the focus plane.
        half_size_px: pixels on either side of the kernel's centre.

    Raises:
        ValueError: the shape does not fit into the kernel.
    """
    if not abs(signed_radius_px) <= half_size_px + 0.5:
        raise ValueError(
            f"signed_radius_px must lie within half_size_px + 0.5 = {half_size_px + 0.5}, "
            f"got {signed_radius_px}"
        )
    size = 2 * half_size_px + 1
    if signed_radius_px == 0:
        kernel = np.zeros((size, size))
        kernel[half_size_px, half_size_px] = 1.0
        return kernel
    # Pixel i covers [i, i + 1] here, so the kernel's centre lies at half_size_px + 0.5.
    covered = _polygon_areas(aperture.boundary() * -signed_radius_px + half_size_px + 0.5, size)
    return covered / covered.sum()


def kernel_stack(
    aperture: Aperture, signed_radii_px: Float[np.ndarray, " j"], half_size_px: int
) -> Float[np.ndarray, "j k k"]:
    """`aperture_kernel` of every radius, stacked."""
    return np.stack([aperture_kernel(aperture, float(r), half_size_px) for r in signed_radii_px])


def _polygon_areas(vertices: Float[np.ndarray, "n 2"], size: int) -> Float[np.ndarray, "k k"]:
    """Area of a simple closed polygon inside each pixel of a size x size grid."""
    start, stop = _cut_at_grid_lines(vertices)
    middle = (start + stop) / 2
    column, row = np.clip(np.floor(middle).astype(int), 0, size - 1).T
    climb = stop[:, 1] - start[:, 1]
    own = np.zeros((size, size))
    np.add.at(own, (row, column), climb * (1 - (middle[:, 0] - column)))
    climbs = np.zeros((size, size))
    np.add.at(climbs, (row, column), climb)
    right = np.cumsum(climbs, axis=1) - climbs
    # The sign depends on the direction of travel only; cancellation may leave -1e-17.
    return np.abs(own + right)


def _cut_at_grid_lines(
    vertices: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m 2"]]:
    """Straight pieces of a closed boundary, none of which crosses a pixel's edge."""
    start, stop = vertices, np.roll(vertices, -1, axis=0)
    longest = np.abs(stop - start).max()
    parts = np.arange(math.ceil(longest) + 1) / (math.ceil(longest) or 1)
    # Steps of at most one pixel cross at most one line of either direction.
    points = start[:, None] + (stop - start)[:, None] * parts[:, None]
    start, stop = points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
    line = np.maximum(np.floor(start), np.floor(stop))
    step = stop - start
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = np.where(np.floor(start) == np.floor(stop), 0.0, (line - start) / step)
    cut = np.sort(np.clip(cut, 0.0, 1.0), axis=-1)
    ends = np.concatenate([np.zeros((len(cut), 1)), cut, np.ones((len(cut), 1))], axis=-1)
    points = start[:, None] + step[:, None] * ends[..., None]
    return points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
