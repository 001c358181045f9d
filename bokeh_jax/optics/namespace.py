"""One text of the mathematics for constants (NumPy, float64) and for traced values (jax.numpy).

Kernels of known openings are constants: NumPy makes them once, in float64, and nothing of them is
compiled. Where a parameter is a JAX array, the same functions run on jax.numpy, in JAX's default
precision, and are differentiable. Every function takes its namespace from its own arguments.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

# A real parameter: a number that is known, or a traced one.
Scalar = float | int | Float[Array, ""]


def is_traced(*values) -> bool:
    """Whether any value, or any field or entry of one, is a JAX array."""
    for value in values:
        if isinstance(value, jax.Array):
            return True
        if dataclasses.is_dataclass(value) and is_traced(*vars(value).values()):
            return True
        if isinstance(value, tuple | list) and is_traced(*value):
            return True
    return False


def in_one_namespace(*values) -> tuple[ModuleType, list]:
    """NumPy or jax.numpy, and the values as it takes them: JAX arrays all have one precision."""
    if is_traced(*values):
        return jnp, [jnp.asarray(value, float) for value in values]
    return np, list(values)


def require(name: str, value: Scalar, holds: Callable[[float], bool], rule: str) -> None:
    """Raise for a parameter that breaks a rule; a traced one is not known and passes.

    Raises:
        ValueError: "`name` must `rule`, got `value`".
    """
    if not isinstance(value, Tracer) and not holds(float(value)):
        raise ValueError(f"{name} must {rule}, got {value}")


def add_at(
    index: Int[Array | np.ndarray, " n"], values: Float[Array | np.ndarray, " n"], length: int
) -> Float[Array | np.ndarray, " l"]:
    """Sums of the values with the same index, from 0 to length - 1."""
    if is_traced(values):
        return jnp.zeros(length, values.dtype).at[index].add(values)
    return np.bincount(index, values, length)


def constant(values: Float[Array | np.ndarray, "*n"]) -> Float[Array | np.ndarray, "*n"]:
    """The same values, without slopes."""
    return jax.lax.stop_gradient(values) if is_traced(values) else values


def sum_over_rows(
    xp: ModuleType, function: Callable, *arrays: Float[Array | np.ndarray, "n ..."]
) -> Float[Array | np.ndarray, "..."]:
    """Sum of `function(*rows)` over the rows of arrays; traced, it is compiled once for all."""
    if xp is np or len(arrays[0]) == 1:
        return functools.reduce(operator.add, map(function, *arrays))
    return jnp.sum(jax.lax.map(lambda rows: function(*rows), arrays), axis=0)
