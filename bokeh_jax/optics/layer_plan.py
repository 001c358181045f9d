"""Which radii have a kernel, at which resolution each is blurred, and which share an occlusion.

A function of the largest radius alone, fixed when the renderer is compiled.

**Slabs.** Surfaces of nearly the same radius are averaged together and composited at once; what
lies so close in depth does not hide one another. On either side of the focus the slabs reach over
these radii, and surfaces between two slabs belong to both in linear shares::

    0.5 .. 2,    2.5 .. 4.5,    5.5 .. 8.5,    9.5 .. 14,    16 .. 24 px,

    from there on 7/6 of the last slab's end .. 3/2 of the own start

What is in focus is a slab of its own, so that it stays bit for bit. The outermost slab ends at the
largest radius.

**Nodes.** A slab has kernels for three radii, its ends and its middle. In between, the kernel of
radius r is interpolated by Lagrange's polynomials (`Slab.polynomials`)::

    k_r = sum over nodes j of l_j(r) k_j,      l_j(r_i) = 1 if i = j else 0

which costs three kernels where a mixture of the two nearest would need five for the same error.

**Stages.** Kernels up to 2 px are summed pixel by pixel (stage 0). Wider ones go through the
frequency domain: at full resolution up to 4.5 px (stage 1), and because a kernel of radius r passes
little above the frequency 1/r, on halved pictures up to 24 px (stage 2), and one more halving for
every two slabs after that.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# (first radius, last radius, stage) of the slabs on one side of the focus.
_SLABS_PX = ((0.5, 2.0, 0), (2.5, 4.5, 1), (5.5, 8.5, 2), (9.5, 14.0, 2), (16.0, 24.0, 2))
# Beyond the table: where a slab starts, relative to the end of the last one, and where it ends.
_NEXT_START, _NEXT_END = 7 / 6, 3 / 2
_SLABS_A_STAGE = 2
NODES_A_SLAB = 3
# A slab that is cut to less than this share of its width needs no node in its middle.
_NARROW = 0.25
# ... and one cut to less than this is its end alone.
_NOTHING = 0.02


class Slab(NamedTuple):
    """Surfaces that are averaged together.

    Attributes:
        nodes_px: signed radii that have a kernel, from the focus outwards.
        before_px: signed radius, below all nodes', from which on a surface belongs in part.
        after_px: signed radius, above all nodes', up to which a surface belongs in part.
    """

    nodes_px: tuple[float, ...]
    before_px: float
    after_px: float

    @property
    def widest_px(self) -> float:
        """The largest radius."""
        return abs(self.nodes_px[-1])

    @property
    def first_px(self) -> float:
        """Signed radius of the farthest node."""
        return min(self.nodes_px[0], self.nodes_px[-1])

    @property
    def last_px(self) -> float:
        """Signed radius of the nearest node."""
        return max(self.nodes_px[0], self.nodes_px[-1])

    def mirrored(self) -> "Slab":
        """The slab on the other side of the focus."""
        nodes_px = tuple(-node_px for node_px in self.nodes_px)
        return Slab(nodes_px, -self.after_px, -self.before_px)

    def polynomials(self, count: int) -> Float[np.ndarray, "n n"]:
        """Lagrange's polynomials of the nodes, in powers of the place within the slab.

        The place runs from -1 at the farthest node to 1 at the nearest. Rows of zeros stand for the
        nodes that the slab lacks.
        """
        own = len(self.nodes_px)
        result = np.zeros((count, count))
        if own == 1:
            result[0, 0] = 1.0
            return result
        place = np.interp(self.nodes_px, (self.first_px, self.last_px), (-1.0, 1.0))
        result[:own, :own] = np.linalg.inv(np.vander(place, increasing=True)).T
        return result


class LayerPlan(NamedTuple):
    """The slabs of a renderer.

    Attributes:
        in_focus: the slab of radius zero.
        near: those in front of the focus, from the focus on.
        stages: of each.
    """

    in_focus: Slab
    near: tuple[Slab, ...]
    stages: tuple[int, ...]

    @property
    def far(self) -> tuple[Slab, ...]:
        """Those behind the focus, from the focus on."""
        return tuple(slab.mirrored() for slab in self.near)

    @property
    def last_stage(self) -> int:
        """The stage of the widest kernels."""
        return self.stages[-1] if self.stages else 0

    @property
    def widest_px(self) -> float:
        """The largest radius."""
        return self.near[-1].widest_px if self.near else 0.0

    def near_slabs(self, stage: int) -> tuple[Slab, ...]:
        """Slabs of one stage in front of the focus, from the farthest to the nearest."""
        pairs = zip(self.near, self.stages, strict=True)
        return tuple(slab for slab, own in pairs if own == stage)

    def far_slabs(self, stage: int) -> tuple[Slab, ...]:
        """Slabs of one stage behind the focus, from the farthest to the nearest."""
        return tuple(slab.mirrored() for slab in reversed(self.near_slabs(stage)))


def plan_layers(max_radius_px: float | int) -> LayerPlan:
    """The slabs for radii up to `max_radius_px`.

    Raises:
        ValueError: a radius that is negative or not finite.
    """
    check_max_radius(max_radius_px)
    nodes_px: list[tuple[float, ...]] = [(0.0,)]
    stages: list[int] = []
    while nodes_px[-1][-1] < max_radius_px:
        start_px, end_px, stage = _range(len(stages))
        first_px, last_px = min(start_px, max_radius_px), min(end_px, max_radius_px)
        nodes_px.append(_nodes_px(first_px, last_px, (last_px - first_px) / (end_px - start_px)))
        stages.append(stage)
    # Nothing lies beyond the outermost slab, so any distance will do.
    ends_px = [*(nodes[0] for nodes in nodes_px[1:]), nodes_px[-1][-1] + 1.0]
    starts_px = [-ends_px[0], *(nodes[-1] for nodes in nodes_px[:-1])]
    in_focus, *near = map(Slab, nodes_px, starts_px, ends_px)
    return LayerPlan(in_focus, tuple(near), tuple(stages))


def level_of_stage(stage: int) -> int:
    """How often the picture is halved."""
    return max(0, stage - 1)


def check_max_radius(max_radius_px: float | int) -> None:
    """Raise for a largest radius that is negative or not finite."""
    if not (max_radius_px >= 0 and math.isfinite(max_radius_px)):
        raise ValueError(f"max_radius_px must be finite and >= 0, got {max_radius_px}")


def _range(index: int) -> tuple[float, float, int]:
    """First and last radius of a slab, counted from the focus, and its stage."""
    beyond = index - len(_SLABS_PX) + 1
    if beyond <= 0:
        return _SLABS_PX[index]
    _, last_px, last_stage = _SLABS_PX[-1]
    start_px = last_px * _NEXT_START * (_NEXT_START * _NEXT_END) ** (beyond - 1)
    return start_px, start_px * _NEXT_END, last_stage + -(-beyond // _SLABS_A_STAGE)


def _nodes_px(first_px: float, last_px: float, share: float) -> tuple[float, ...]:
    """The radii of a slab that have a kernel, given the share of its width that is left."""
    if share < _NOTHING:
        return (last_px,)
    if share < _NARROW:
        return (first_px, last_px)
    # The ends and, with three nodes, the middle: Chebyshev's points of the second kind.
    turn = np.linspace(np.pi, 0.0, NODES_A_SLAB)
    middle_px, half_px = (first_px + last_px) / 2, (last_px - first_px) / 2
    inner_px = (middle_px + half_px * np.cos(turn))[1:-1]
    return (first_px, *(float(px) for px in inner_px), last_px)
