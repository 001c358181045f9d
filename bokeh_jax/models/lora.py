"""Trees of parameters with adapters: which leaves they are, their own tree, and the merge.

    (1) W' = W + s Σ_k w_k B_k A_k

for adapters k with weights w_k, in float32, then in W's own type. A network with W' and without
adapters is the one with W and adapters, up to rounding. `linear.py` says what the parameters are.

The transformer's parameters are a tree of dicts. What is trained and what is frozen are two such
trees without a leaf in common, and the network's is their union.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models.config import LoraConfig

Tree = dict[str, Any]

_DOWN, _UP = "lora_a", "lora_b"
# Adapters over the parts of a matrix, and where the parts are.
_JOINED = {"linear2": {"lora_a_attn": "linear2_attn", "lora_a_mlp": "linear2_mlp"}}


def is_adapter(path: str) -> bool:
    """Whether a parameter's name, its keys joined by "/", is that of an adapter's leaf."""
    return any(key.startswith("lora_") for key in path.split("/"))


def split_trainable(params: Tree, extra_prefixes: Sequence[str] = ()) -> tuple[Tree, Tree]:
    """(frozen, trained): adapters, and what lies under the prefixes, is trained.

    Args:
        params: a tree of dicts.
        extra_prefixes: names of whole subtrees or leaves, such as "camera" or "dit/img_in".

    Raises:
        InvalidInput: a prefix that names nothing.
    """
    leaves = leaves_by_name(params)

    def under(name: str, prefix: str) -> bool:
        return name == prefix or name.startswith(f"{prefix}/")

    for prefix in extra_prefixes:
        if not any(under(name, prefix) for name in leaves):
            allowed = ", ".join(sorted(params))
            raise InvalidInput(f"trained parameters {prefix!r} are none; allowed: under {allowed}")
    trained = {
        name
        for name in leaves
        if is_adapter(name) or any(under(name, prefix) for prefix in extra_prefixes)
    }
    return (
        tree_by_name({name: leaf for name, leaf in leaves.items() if name not in trained}),
        tree_by_name({name: leaf for name, leaf in leaves.items() if name in trained}),
    )


def joined(frozen: Tree, trained: Tree) -> Tree:
    """The union of two trees of dicts.

    Raises:
        ValueError: a leaf that both have, or a leaf of one that is a subtree of the other.
    """
    return _joined(frozen, trained, "")


def _joined(first: Tree, second: Tree, prefix: str) -> Tree:
    union = dict(first)
    for key, value in second.items():
        if key not in union:
            union[key] = value
        elif isinstance(union[key], dict) and isinstance(value, dict):
            union[key] = _joined(union[key], value, f"{prefix}{key}/")
        else:
            raise ValueError(f"parameter {prefix}{key} is in both trees; allowed: in one")
    return union


def num_adapter_parameters(params: Tree) -> int:
    """Elements of all adapters together."""
    return sum(
        math.prod(leaf.shape) for name, leaf in leaves_by_name(params).items() if is_adapter(name)
    )


def weighted(params: Tree, config: LoraConfig, weights: Mapping[str, float]) -> Tree:
    """The same tree with every adapter's B times its weight; 1 where none is given.

    Raises:
        InvalidInput: a weight of an adapter that the config does not have.
    """
    _check_weights(config, weights)

    def scaled(name: str, leaf: Any) -> Any:
        *_, kind, adapter = ("", *name.split("/"))
        return leaf * weights.get(adapter, 1.0) if kind == _UP else leaf

    return tree_by_name({name: scaled(name, leaf) for name, leaf in leaves_by_name(params).items()})


def merge(params: Tree, config: LoraConfig, weights: Mapping[str, float] | None = None) -> Tree:
    """Equation (1) everywhere: the parameters of the same network without adapters.

    Args:
        params: the network's parameters, or any part of them that holds whole layers.
        config: the adapters'.
        weights: by adapter; 1 where none is given.

    Raises:
        InvalidInput: a weight of an adapter that the config does not have.
    """
    weights = {} if weights is None else weights
    _check_weights(config, weights)
    scales = {name: config.scale * weights.get(name, 1.0) for name in config.adapters}
    return _merged(params, scales, stacked=False)


def _check_weights(config: LoraConfig, weights: Mapping[str, float]) -> None:
    for name in weights:
        if name not in config.adapters:
            raise InvalidInput(
                f"weight of adapter {name!r} is given; allowed: {', '.join(config.adapters)}"
            )


def _merged(node: Tree, scales: Mapping[str, float], stacked: bool) -> Tree:
    """A subtree without its adapters; blocks of a kind are stacked along the first axis."""
    found: Tree = {}
    for key, value in node.items():
        if key.startswith("lora_") or key in _JOINED:
            continue
        if isinstance(value, dict):
            value = _merged(value, scales, stacked or key.endswith("_blocks"))
        found[key] = value
    if _DOWN in node:
        found["kernel"] = _with_products(node["kernel"], node[_DOWN], node[_UP], scales, stacked)
    for name, parts in _JOINED.items():
        for factor, layer in parts.items() if name in node else ():
            kernel, adapters = node[layer]["kernel"], node[name]
            kernel = _with_products(kernel, adapters[factor], adapters[_UP], scales, stacked)
            found[layer] = found[layer] | {"kernel": kernel}
    return found


def _with_products(
    kernel: Array,
    down: Mapping[str, Array],
    up: Mapping[str, Array],
    scales: Mapping[str, float],
    stacked: bool,
) -> Array:
    """W + Σ s_k B_k A_k; block by block where stacked, so that one product is held at a time."""
    factors = [(down[name], up[name], scale) for name, scale in scales.items()]

    def one(kernel: Array, factors: list[tuple[Array, Array, Any]]) -> Array:
        wide = kernel.astype(jnp.float32)
        for a, b, scale in factors:
            wide = wide + scale * _product(a, b, kernel.shape)
        return wide.astype(kernel.dtype)

    if not stacked:
        return one(kernel, factors)
    pairs = [(a, b) for a, b, _ in factors]

    def of_block(block: tuple[Array, list[tuple[Array, Array]]]) -> Array:
        kernel, pairs = block
        return one(kernel, [(a, b, f[2]) for (a, b), f in zip(pairs, factors, strict=True)])

    return jax.lax.map(of_block, (kernel, pairs))


def _product(
    down: Float[Array, "..."], up: Float[Array, "..."], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """B A in the kernel's shape: A is [*in, (count), rank], B [(count), rank, *out]."""
    # A and B have the kernel's axes between them and `rank` twice; `count`, if any, twice too.
    count = (up.shape[0],) if down.ndim + up.ndim == len(shape) + 3 else ()
    rank = down.shape[-1]
    a = down.astype(jnp.float32).reshape(-1, *(count or (1,)), rank)
    b = up.astype(jnp.float32).reshape(*(count or (1,)), rank, -1)
    # TPUs would round the factors to bfloat16.
    return jnp.einsum("igr,gro->igo", a, b, precision="highest").reshape(shape)
