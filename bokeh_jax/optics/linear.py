"""Linear maps whose transposes are given rather than derived, and whose results are kept.

XLA's CPU backend fuses element-wise code into whatever reads it, again for every reader. A chain of
resamplings, where every pixel reads several of the one before, would be computed many times over,
and an optimisation barrier does not survive to the fusion. A conditional does: its branches are
computations of their own. The condition is whether the first value is finite; where it is not, the
result is not a number.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact


def with_transpose(forward: Callable, transpose: Callable, *, keep: bool = True) -> Callable:
    """A linear function with its transpose for reverse mode; forward mode is not defined.

    Args:
        forward: linear, of one argument (an array or a tuple of them).
        transpose: of one argument like the result, giving one like the argument.
        keep: whether results are kept; not worth it for a mere reordering.
    """
    # Compiled functions are traced once for every shape, however often they are used.
    run, run_transpose = (
        jax.jit(functools.partial(kept, part) if keep else part) for part in (forward, transpose)
    )
    function = jax.custom_vjp(run)
    function.defvjp(lambda x: (run(x), None), lambda _, cotangent: (run_transpose(cotangent),))
    return function


def kept(function: Callable, *arguments):
    """`function(*arguments)` as a computation of its own; arrays are what it returns."""
    return jax.lax.platform_dependent(
        *arguments, cpu=functools.partial(_in_its_own_computation, function), default=function
    )


def _in_its_own_computation(function: Callable, *arguments):
    def not_a_number(*arguments):
        shapes = jax.eval_shape(function, *arguments)
        return jax.tree.map(lambda like: jnp.full(like.shape, jnp.nan, like.dtype), shapes)

    is_finite = jnp.isfinite(jax.tree.leaves(arguments)[0].ravel()[0])
    return jax.lax.cond(is_finite, function, not_a_number, *arguments)


def stepwise(function: Callable) -> Callable:
    """A function of arrays whose results and whose slopes are kept; reverse mode only.

    Its slopes are computed from its arguments again, apart from those of what uses it: a chain of
    such steps is computed once for every step, a fused one many times over.
    """

    def forward(*arguments):
        return kept(function, *arguments), arguments

    def backward(arguments, cotangents):
        return kept(lambda *both: jax.vjp(function, *both[0])[1](both[1]), arguments, cotangents)

    step = jax.custom_vjp(functools.partial(kept, function))
    step.defvjp(forward, backward)
    return step


def _apart(planes):
    return tuple(planes[:, i] for i in range(planes.shape[1]))


def _together(planes):
    return jnp.stack(planes, axis=1)


_channels = with_transpose(_apart, _together, keep=False)


def channels(planes: Inexact[Array, "b c *n"]) -> tuple[Inexact[Array, "b *n"], ...]:
    """Planes one by one. Sums over them are then additions, which are fused; reductions are not."""
    return _channels(planes)


def from_channels(planes: tuple[Inexact[Array, "b *n"], ...]) -> Inexact[Array, "b c *n"]:
    """Planes in one array, as they were before `channels`."""
    return _together(planes)


def _rows(stacked):
    return tuple(stacked[i] for i in range(stacked.shape[0]))


_unstacked = with_transpose(_rows, lambda rows: jnp.stack(rows), keep=False)


def unstack(stacked: Inexact[Array, "r *n"]) -> tuple[Inexact[Array, "*n"], ...]:
    """Rows of an array; their cotangents are stacked, not padded and added."""
    return _unstacked(stacked)


_color_planes = with_transpose(
    lambda image: tuple(image[..., i] for i in range(image.shape[-1])),
    lambda planes: jnp.stack(planes, axis=-1),
    keep=False,
)


def color_planes(image: Inexact[Array, "*n c"]) -> tuple[Inexact[Array, "*n"], ...]:
    """Colours of an image, one by one."""
    return _color_planes(image)


_image_of = with_transpose(
    lambda planes: jnp.stack(planes, axis=-1),
    lambda image: tuple(image[..., i] for i in range(image.shape[-1])),
    keep=False,
)


def image_of(planes: tuple[Inexact[Array, "*n"], ...]) -> Inexact[Array, "*n c"]:
    """An image of its colours, as they were before `color_planes`."""
    return _image_of(planes)
