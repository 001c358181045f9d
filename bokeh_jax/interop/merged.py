"""Parameters on their way into files, with adapters merged layer by layer.

A tree with adapters is never merged as a whole: where a tensor is written, its layer of its block
is fetched, brought to float32 and merged (`models/lora.py`), and rounded once, to the file's type.
Beside the tree itself that takes the memory of one layer.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from bokeh_jax.interop.weight_map import Part
from bokeh_jax.interop.writing import fetched
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models.config import LoraConfig
from bokeh_jax.models.lora import is_adapter, merge

Fetch = Callable[[str, Part], Shaped[np.ndarray, "..."]]


def merged_parts(params: Any, lora: LoraConfig) -> Fetch:
    """(name, part) -> `leaf[place]` on the host, of the network without adapters.

    Args:
        params: the network's tree, or a part of it that holds whole layers.
        lora: of its adapters.
    """
    leaves = leaves_by_name(params)

    def fetch(name: str, part: Part) -> Shaped[np.ndarray, "..."]:
        layer = _layer(leaves, name)
        if not any(is_adapter(other) for other in layer):
            return fetched(leaves[name], part)
        # Blocks are stacked, and a part is of one of them; layers outside of blocks are whole.
        number, rest = None, part.place
        if _stacked(name):
            first, *rest = part.place
            assert isinstance(first, int)
            number = np.int32(first)
        kernel = _merged(layer, number, name=name, lora=lora)
        return np.asarray(kernel)[tuple(rest)].reshape(part.shape)

    return fetch


def _stacked(name: str) -> bool:
    return any(key.endswith("_blocks") for key in name.split("/"))


def _layer(leaves: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The kernel of this name and its adapters: by name."""
    module, _, leaf = name.rpartition("/")
    if leaf != "kernel":
        return {name: leaves[name]}
    # A matrix that is kept in two parts has the adapters of both beside them: linear2_attn's and
    # linear2_mlp's are linear2's, and the merge is of all three.
    joint = module.rpartition("_")[0]
    owners, parts = [module], [name]
    if any(other.startswith(f"{joint}/lora_") for other in leaves):
        owners.append(joint)
        parts = [key for key in leaves if key.startswith(f"{joint}_") and key.endswith("/kernel")]
    adapters = [key for key in leaves if is_adapter(key) and key.rpartition("/lora_")[0] in owners]
    return {key: leaves[key] for key in (*parts, *adapters)}


@functools.partial(jax.jit, static_argnames=("name", "lora"))
def _merged(
    layer: dict[str, Float[Array, "..."]],
    number: Int[np.int32, ""] | Int[Array, ""] | None,
    *,
    name: str,
    lora: LoraConfig,
) -> Float[Array, "..."]:
    """The kernel of one block, or of a layer outside of blocks, float32."""

    def one(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
        whole = number is None
        block = leaf if whole else jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)
        return block.astype(np.float32)

    # Relative to the layer's own place, so that nothing is taken for stacked any more.
    above = name.rsplit("/", 2)[0] if name.count("/") > 1 else ""
    relative = {key.removeprefix(f"{above}/"): one(value) for key, value in layer.items()}
    merged = leaves_by_name(merge(tree_by_name(relative), lora))
    return merged[name.removeprefix(f"{above}/")]
