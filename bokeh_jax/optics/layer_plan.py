"""Which radii have a layer, at which resolution each is blurred, and which share an occlusion.

A function of the largest radius alone, fixed when the renderer is compiled.

**Radii.** A pixel whose radius lies between two layers is blurred with a mixture of both kernels.
What that costs falls with the radius, so the layers move apart::

    0, 0.5, ... 4 px,    5, ... 12 px,    14, ... 20 px,    24, 28 ... 64 px,    72, 80 ... px

**Stages.** Kernels up to 2 px are summed pixel by pixel (stage 0). Wider ones go through the
frequency domain: at full resolution up to 6 px (stage 1), and because a kernel of radius r passes
little above the frequency 1/r, on halved pictures up to 32 px (stage 2), and one more halving for
every doubling of that.

**Slabs.** Two neighbouring layers of one stage and side are composited at once: what lies so close
together in depth does not hide one another. The layer in focus is a slab of its own, so that what
is in focus stays bit for bit.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

# (largest radius, distance of the layers up to it); the last distance doubles with the radius.
_SPACINGS_PX = ((4.0, 0.5), (12.0, 1.0), (20.0, 2.0), (64.0, 4.0))
_SUMMED_PX = 2.0
_FULL_RESOLUTION_PX = 6.0
_HALF_RESOLUTION_PX = 32.0
_LAYERS_A_SLAB = 2


class Slab(NamedTuple):
    """Neighbouring layers that are composited at once.

    Attributes:
        first, last: positions of the farthest and the nearest layer, see `LayerPlan`.
    """

    first: int
    last: int


class LayerPlan(NamedTuple):
    """The layers of a renderer.

    Attributes:
        radii_px: not negative, ascending from 0; the layer of signed radius +- radii_px[i] has
            the position +- i.
        stages: of each radius.
    """

    radii_px: tuple[float, ...]
    stages: tuple[int, ...]

    @property
    def last_stage(self) -> int:
        """The stage of the widest kernels."""
        return self.stages[-1]

    def near_slabs(self, stage: int) -> tuple[Slab, ...]:
        """Slabs of one stage in front of the focus, from the farthest to the nearest."""
        indices = [i for i, own in enumerate(self.stages) if own == stage and i > 0]
        groups = [indices[i : i + _LAYERS_A_SLAB] for i in range(0, len(indices), _LAYERS_A_SLAB)]
        return tuple(Slab(group[0], group[-1]) for group in groups)

    def far_slabs(self, stage: int) -> tuple[Slab, ...]:
        """Slabs of one stage behind the focus, from the farthest to the nearest."""
        return tuple(Slab(-slab.last, -slab.first) for slab in reversed(self.near_slabs(stage)))

    def focus_slabs(self) -> tuple[Slab, ...]:
        """Those of stage 0 and the layer in focus, from the farthest to the nearest."""
        return (*self.far_slabs(0), Slab(0, 0), *self.near_slabs(0))

    def signed_radius_px(self, position: int) -> float:
        """Signed radius of a layer."""
        return math.copysign(self.radii_px[abs(position)], position)

    def position(self, signed_radius_px: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Where signed radii lie among the layers, linearly in between; smooth through zero."""
        dtype = signed_radius_px.dtype
        total = jnp.zeros_like(signed_radius_px)
        for start, stop, layers in self._runs():
            slope = jnp.asarray(layers / (stop - start), dtype)
            if start == 0:
                total += slope * jnp.clip(signed_radius_px, -stop, stop)
            else:
                near = jnp.clip(signed_radius_px, start, stop) - start
                far = jnp.clip(signed_radius_px, -stop, -start) + start
                total += slope * (near + far)
        return total

    def _runs(self) -> list[tuple[float, float, int]]:
        """Stretches of evenly spaced layers: (first radius, last radius, number of spaces)."""
        runs: list[tuple[float, float, int]] = []
        for low, high in zip(self.radii_px, self.radii_px[1:], strict=False):
            if runs and math.isclose((runs[-1][1] - runs[-1][0]) / runs[-1][2], high - low):
                runs[-1] = (runs[-1][0], high, runs[-1][2] + 1)
            else:
                runs.append((low, high, 1))
        return runs


def plan_layers(max_radius_px: float | int) -> LayerPlan:
    """The layers for radii up to `max_radius_px`; the last layer lies at it or beyond.

    Raises:
        ValueError: a radius that is negative or not finite.
    """
    check_max_radius(max_radius_px)
    radii_px = [0.0]
    while radii_px[-1] < max_radius_px:
        radii_px.append(radii_px[-1] + _spacing_px(radii_px[-1]))
    return LayerPlan(tuple(radii_px), tuple(_stage(radius_px) for radius_px in radii_px))


def level_of_stage(stage: int) -> int:
    """How often the picture is halved."""
    return max(0, stage - 1)


def check_max_radius(max_radius_px: float | int) -> None:
    """Raise for a largest radius that is negative or not finite."""
    if not (max_radius_px >= 0 and math.isfinite(max_radius_px)):
        raise ValueError(f"max_radius_px must be finite and >= 0, got {max_radius_px}")


def _spacing_px(radius_px: float) -> float:
    for stop_px, spacing_px in _SPACINGS_PX:
        if radius_px < stop_px:
            return spacing_px
    last_px, spacing_px = _SPACINGS_PX[-1]
    return spacing_px * 2.0 ** (1 + math.floor(math.log2(radius_px / last_px)))


def _stage(radius_px: float) -> int:
    if radius_px <= _SUMMED_PX:
        return 0
    if radius_px <= _FULL_RESOLUTION_PX:
        return 1
    return 2 + max(0, math.ceil(math.log2(radius_px / _HALF_RESOLUTION_PX)))
