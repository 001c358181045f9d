"""The network by the names of the exported torch modules (`torch_model/modeling_bokeh.py`).

    dit/double_blocks/img_attn/qkv/kernel     [block, in, 3, head, channel]
    dit.double_blocks.1.img_attn.qkv.weight   [(3, head, channel), in]

Names follow by rule from ours, so that the table has every parameter of a config: stacked blocks
become modules with a number, kernels and scales become weights, and what a kernel has as several
axes in or out is one axis of torch's `[out, in]`. The autoencoder has diffusers' names.
"""

import dataclasses
import math

import jax

from bokeh_jax.interop.autoencoder_names import autoencoder_map
from bokeh_jax.interop.weight_map import Index, Part, WeightMap, under
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models import CodecConfig, RefocusConfig, init_params
from bokeh_jax.models.codec import CODEC

_STACKED = ("double_blocks", "single_blocks")
# Layers whose kernel has heads and their channels coming in; all others have one axis there.
_FROM_HEADS = ("proj", "linear2_attn")
_LEAVES = {"kernel": "weight", "scale": "weight"}


def torch_map(model: RefocusConfig, codec: CodecConfig) -> WeightMap:
    """Every parameter of a network without adapters, and the tensors that it is.

    Args:
        model: the network; its `lora.rank` is 0.
        codec: its codec.
    """
    shapes = jax.eval_shape(
        lambda key: init_params(model, key, model.patch_size, model.patch_size), jax.random.key(0)
    )
    table = {name: _parts(name, leaf.shape) for name, leaf in leaves_by_name(shapes).items()}
    if codec.kind == "autoencoder":
        table |= {
            name: tuple(dataclasses.replace(p, tensor=f"{CODEC}.{p.tensor}") for p in parts)
            for name, parts in under(CODEC, autoencoder_map(codec.autoencoder)).items()
        }
    return table


def added_map(model: RefocusConfig) -> WeightMap:
    """The part of the table that FLUX does not have: `camera` and `defocus_in`."""
    table = torch_map(model, CodecConfig())
    return {name: parts for name, parts in table.items() if not name.startswith("dit/")}


def _parts(name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    keys = name.split("/")
    for level, key in enumerate(keys):
        if key in _STACKED:
            before, after = keys[: level + 1], keys[level + 1 :]
            return tuple(
                _part([*before, str(number), *after], shape[1:], (number,))
                for number in range(shape[0])
            )
    return (_part(keys, shape, ()),)


def _part(keys: list[str], shape: tuple[int, ...], place: Index) -> Part:
    """One module's tensor; `shape` is that of our parameter at `place`."""
    *path, leaf = keys
    tensor = ".".join((*path, _LEAVES.get(leaf, leaf)))
    axes = tuple(range(len(shape)))
    if leaf != "kernel":
        # A learned table keeps its axes, a bias over heads has one.
        whole = (math.prod(shape),) if leaf == "bias" else shape
        return Part(tensor, shape, axes, place, tensor_shape=whole)
    num_in = len(shape) - 1 if path[-1] in _FROM_HEADS else 1
    inward, outward = shape[:num_in], shape[num_in:]
    return Part(
        tensor,
        split=(*outward, *inward),
        order=(*axes[len(outward) :], *axes[: len(outward)]),
        place=place,
        tensor_shape=(math.prod(outward), math.prod(inward)),
    )
