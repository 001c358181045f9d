"""Tensors of a network that is only ever run, by the names that its file gives them.

The networks of this package are functions of such tensors, in torch's layout: [out, in, k, k] for
convolutions on [b, c, h, w], [out, in] for linear layers. Nothing is renamed or turned, so a file
is right when its names and shapes are.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.reading import problems
from bokeh_jax.interop.tensor_files import TensorFiles, open_tensor_files
from bokeh_jax.interop.weight_map import Part

Tensors = dict[str, Float[Array, "..."]]
Shapes = Mapping[str, tuple[int, ...]]
# Of a metric's own arithmetic: nothing is rounded on the way, on any machine.
EXACT = jax.lax.Precision.HIGHEST


def read_tensors(files: TensorFiles, shapes: Shapes, ignored: tuple[str, ...] = ()) -> Tensors:
    """The tensors that a network has, in float32.

    Args:
        files: where they are.
        shapes: of all that are needed, by their names.
        ignored: beginnings of the names of others that may be there.

    Raises:
        InvalidInput: one is missing, has another shape or type, or has no place.
    """
    table = {name: (Part(name, shape, tuple(range(len(shape)))),) for name, shape in shapes.items()}
    found = problems(files, table, ignored)
    if found:
        more = f" (and {len(found) - 1} more such tensors)" if len(found) > 1 else ""
        raise InvalidInput(found[0] + more)
    return {name: jnp.asarray(files.read(name).astype(np.float32)) for name in shapes}


def read_file(path: Path, shapes: Shapes, ignored: tuple[str, ...] = ()) -> Tensors:
    """`read_tensors` of one safetensors file."""
    return read_tensors(open_tensor_files(path), shapes, ignored)


def linear(tensors: Tensors, name: str, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    """x Wᵀ + b; b where there is one."""
    out = jnp.matmul(x, tensors[f"{name}.weight"].T, precision=EXACT)
    bias = tensors.get(f"{name}.bias")
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + (-1,))


def layer_norm(
    tensors: Tensors, name: str, x: Float[Array, "*b c"], epsilon: float
) -> Float[Array, "*b c"]:
    """Normalised over the last axis, scaled and shifted."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)
    shape = (1,) * (x.ndim - 1) + (-1,)
    return x * tensors[f"{name}.weight"].reshape(shape) + tensors[f"{name}.bias"].reshape(shape)


def attention(
    query: Float[Array, "b n c"],
    key: Float[Array, "b n c"],
    value: Float[Array, "b n c"],
    num_heads: int,
) -> Float[Array, "b n c"]:
    """Softmax attention of every token to every token, in heads that share out the channels."""
    heads = (*query.shape[:2], num_heads, query.shape[2] // num_heads)
    query, key, value = (x.reshape(heads) for x in (query, key, value))
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision=EXACT) * heads[-1] ** -0.5
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value, precision=EXACT)
    return mixed.reshape(*mixed.shape[:2], -1)
