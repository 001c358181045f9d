"""Which radii have a kernel, at which resolution each is blurred, and which share an occlusion.

A function of the largest radius alone, fixed when the renderer is compiled.

**Slabs.** Surfaces of nearly the same radius are averaged together and composited at once; what
lies so close in depth does not hide one another. On either side of the focus the slabs reach over
these radii, and surfaces between two slabs belong to both in linear shares::

    0.5 .. 2,    2.5 .. 4.5,    5.5 .. 8.5,    9.5 .. 14,    16 .. 24 px,

    from there on 7/6 of the last slab's end .. 3/2 of the own start

What is in focus is a slab of its own, so that it stays bit for bit. The outermost slab ends at the
largest radius.

**Nodes.** A slab has kernels for a few evenly spaced radii, and the kernel of a radius in between
is a mixture of the two nearest, in linear shares. (Lagrange's polynomials would need fewer nodes,
but where a share is negative, a light's disc gets a dark rim.)

**Stages** are slabs of one resolution with as many nodes. Kernels up to 4.5 px are summed pixel by
pixel, at full resolution (stages 0 and 1). Wider ones go through the frequency domain; because a
kernel of radius r passes little above the frequency 1/r, on halved pictures up to 24 px (stages 2
and 3), and on pictures halved once more for every two slabs after that.
"""

import math
from typing import NamedTuple

import numpy as np

# (first radius, last radius, nodes, stage) of the slabs on one side of the focus.
_SLABS_PX = (
    (0.5, 2.0, 4, 0),
    (2.5, 4.5, 4, 1),
    (5.5, 8.5, 4, 2),
    (9.5, 14.0, 3, 3),
    (16.0, 24.0, 3, 3),
)
# How often the picture is halved for each of these stages.
_LEVELS = (0, 0, 1, 1)
# Beyond the table: where a slab starts, relative to the end of the last one, and where it ends.
_NEXT_START, _NEXT_END = 7 / 6, 3 / 2
_SLABS_A_STAGE = 2
_NODES_BEYOND = 3
# A slab that is cut to less than this share of its width is its end alone.
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

    @property
    def step_px(self) -> float:
        """Signed distance from one node to the next."""
        if len(self.nodes_px) == 1:
            return 1.0
        return (self.nodes_px[-1] - self.nodes_px[0]) / (len(self.nodes_px) - 1)


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
        start_px, end_px, count, stage = _range(len(stages))
        first_px, last_px = min(start_px, max_radius_px), min(end_px, max_radius_px)
        share = (last_px - first_px) / (end_px - start_px)
        # As many spaces as the same distance between nodes asks for.
        spaces = math.ceil(share * (count - 1)) if share > _NOTHING else 0
        own_px = np.linspace(last_px, first_px, spaces + 1)[::-1]
        nodes_px.append(tuple(float(px) for px in own_px))
        stages.append(stage)
    # Nothing lies beyond the outermost slab, so any distance will do.
    ends_px = [*(nodes[0] for nodes in nodes_px[1:]), nodes_px[-1][-1] + 1.0]
    starts_px = [-ends_px[0], *(nodes[-1] for nodes in nodes_px[:-1])]
    in_focus, *near = map(Slab, nodes_px, starts_px, ends_px)
    return LayerPlan(in_focus, tuple(near), tuple(stages))


def level_of_stage(stage: int) -> int:
    """How often the picture is halved."""
    return _LEVELS[stage] if stage < len(_LEVELS) else _LEVELS[-1] + stage + 1 - len(_LEVELS)


def check_max_radius(max_radius_px: float | int) -> None:
    """Raise for a largest radius that is negative or not finite."""
    if not (max_radius_px >= 0 and math.isfinite(max_radius_px)):
        raise ValueError(f"max_radius_px must be finite and >= 0, got {max_radius_px}")


def _range(index: int) -> tuple[float, float, int, int]:
    """First and last radius of a slab, counted from the focus, its nodes and its stage."""
    beyond = index - len(_SLABS_PX) + 1
    if beyond <= 0:
        return _SLABS_PX[index]
    _, last_px, _, last_stage = _SLABS_PX[-1]
    start_px = last_px * _NEXT_START * (_NEXT_START * _NEXT_END) ** (beyond - 1)
    stage = last_stage + -(-beyond // _SLABS_A_STAGE)
    return start_px, start_px * _NEXT_END, _NODES_BEYOND, stage
