"""Shares of surfaces in a slab, as functions of their signed radius.

With the ramp from u to v, r(p; u, v) = clip((p - u) / (v - u), 0, 1), a surface of signed radius p
belongs to a slab that reaches in full from `first` to `last`, and in part from `before` to `after`,
by

    weight = min(r(p; before, first), 1 - r(p; last, after))
    up to  = 1 - r(p; last, after)             to the slab or to farther ones
    hides  = r(p; hidden_0, hidden_1)          whether it hides the slab
    l_j    = max(0, 1 - |t - j|)               of node j, t = (p - node_0) / step for p held to
                                               [first, last]

All are piecewise linear. The weights of all slabs sum to one, and so do the l_j of each.

A sum of planes times such shares needs each of them in each of its slopes, so the backward pass
computes them once and keeps them (`with_kept_shares`); the forward pass is faster without.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import kept


class Reach(NamedTuple):
    """The radii of a slab, in pixels; a row for each where there are several.

    Attributes:
        before, first, last, after: see the module's head.
        node: signed radius of the first node, counted from the focus.
        step: signed distance from there to the next.
        hidden: signed radii of a surface that begins to hide the slab and of one that hides it.
        indices: 0, 1, ... of the nodes.
    """

    before: Float[Array, "*s"]
    first: Float[Array, "*s"]
    last: Float[Array, "*s"]
    after: Float[Array, "*s"]
    node: Float[Array, "*s"]
    step: Float[Array, "*s"]
    hidden: Float[Array, "*s 2"]
    indices: Float[Array, "*s n"]


class Shares(NamedTuple):
    """What a surface is to a slab; see the module's head.

    Attributes:
        weight, up_to, hides: one value for each surface.
        nodes: l_j of each node.
    """

    weight: Float[Array, "*n"]
    up_to: Float[Array, "*n"]
    hides: Float[Array, "*n"]
    nodes: tuple[Float[Array, "*n"], ...]


Shared = Callable[[Reach, Array], Shares]


def weight(reach: Reach, signed_px: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Share of surfaces that belongs to the slab."""
    rising = _ramp(signed_px, reach.before, reach.first)
    return jnp.minimum(rising, 1 - _ramp(signed_px, reach.last, reach.after))


def node_shares(reach: Reach, signed_px: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], ...]:
    """How much of each node's kernel makes up the kernel of a radius.

    Radii outside the slab have the kernel of its nearest end.
    """
    place = (jnp.clip(signed_px, reach.first, reach.last) - reach.node) / reach.step
    count = reach.indices.shape[-1]
    return tuple(jnp.maximum(0.0, 1 - jnp.abs(place - reach.indices[j])) for j in range(count))


def shares(reach: Reach, signed_px: Float[Array, "*n"]) -> Shares:
    """All shares of surfaces."""
    up_to = 1 - _ramp(signed_px, reach.last, reach.after)
    hides = _ramp(signed_px, reach.hidden[0], reach.hidden[1])
    nodes = node_shares(reach, signed_px)
    return Shares(weight(reach, signed_px), up_to, hides, nodes)


def with_kept_shares(function: Callable) -> Callable:
    """A function of (reach, arrays) that computes shares by its first argument, a `Shared`.

    Differentiable in the arrays, in reverse mode; what they share is then computed once.
    """

    def forward(reach: Reach, *arrays):
        return function(shares, reach, *arrays), (reach, arrays)

    def backward(saved, cotangents):
        reach, arrays = saved
        _, transpose = jax.vjp(lambda *own: function(_kept_shares, reach, *own), *arrays)
        return jax.tree.map(jnp.zeros_like, reach), *transpose(cotangents)

    run = jax.custom_vjp(lambda reach, *arrays: function(shares, reach, *arrays))
    run.defvjp(forward, backward)
    return run


@jax.custom_vjp
def _kept_shares(reach: Reach, signed_px: Array) -> Shares:
    return kept(shares, reach, signed_px)


def _forward(reach: Reach, signed_px: Array):
    return _kept_shares(reach, signed_px), (reach, signed_px)


def _backward(saved: tuple[Reach, Array], cotangents: Shares):
    reach, signed_px = saved

    def slopes(signed_px, cotangents):
        return jax.vjp(lambda px: shares(reach, px), signed_px)[1](cotangents)[0]

    return jax.tree.map(jnp.zeros_like, reach), kept(slopes, signed_px, cotangents)


_kept_shares.defvjp(_forward, _backward)


def _ramp(signed_px, zero_px, one_px) -> Array:
    """From 0 at one radius to 1 at another, constant outside."""
    return jnp.clip((signed_px - zero_px) / (one_px - zero_px), 0.0, 1.0)
