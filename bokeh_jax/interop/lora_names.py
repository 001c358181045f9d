"""Adapters as PEFT names and lays them out, derived from the table of the base's weights.

Beside a base matrix `<module>.weight`, [out, in] and x to W x, PEFT keeps

    <module>.lora_A.weight   [rank, in]
    <module>.lora_B.weight   [out, rank]

for W + s B A. Ours lie where our kernel lies (`models/linear.py`): A has the kernel's axes in, B
its axes out. So where a part of the base's table says how a cut of `<module>.weight` and a place in
our kernel are the same numbers, the columns of that cut say the same of A, and its rows of B. A
kernel of ours made of three modules (queries, keys, values) has all three in one A and one B; a
module that we keep in two kernels (`proj_out` of a single block) has A in two leaves, and one B.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bokeh_jax.interop.flux_names import flux_map
from bokeh_jax.interop.weight_map import Index, Part
from bokeh_jax.models.config import DiTConfig, LoraTarget

A_SUFFIX, B_SUFFIX, ALPHA_SUFFIX = ".lora_A.weight", ".lora_B.weight", ".alpha"
# What stands before the modules' names in a file.
DIFFUSERS_PREFIX, PEFT_PREFIX = "transformer.", "base_model.model."

# Kernels that are parts of one matrix: the layer that has its adapters, and A's name there.
_PARTS = {
    "single_blocks/linear2_attn": ("single_blocks/linear2", "lora_a_attn"),
    "single_blocks/linear2_mlp": ("single_blocks/linear2", "lora_a_mlp"),
}


@dataclass(frozen=True)
class Module:
    """A linear layer of the base that may have adapters.

    Attributes:
        num_in: features coming in.
        num_out: features going out.
        targets: groups of `LoraConfig.targets` that it belongs to.
    """

    num_in: int
    num_out: int
    targets: tuple[LoraTarget, ...]


def modules(config: DiTConfig) -> dict[str, Module]:
    """All linear layers of the base by their names in diffusers, with adapters or without.

    Raises:
        InvalidInput: diffusers has no such transformer.
    """
    found = {}
    for name, parts in _kernels(config).items():
        for part in parts:
            num_out, num_in = part.tensor_shape
            found[_module(part)] = Module(num_in, num_out, _targets(name))
    return found


def lora_map(config: DiTConfig, adapter: str) -> dict[str, tuple[Part, ...]]:
    """The table of one adapter, for the parameters of `DiT`; tensors at the config's rank.

    Raises:
        InvalidInput: diffusers has no such transformer.
    """
    rank = config.lora.rank
    found: dict[str, list[Part]] = {}
    for name, parts in _kernels(config).items():
        if config.lora.on(*_targets(name)) is None:
            continue
        layer, down = _PARTS.get(name, (name, "lora_a"))
        for part in parts:
            factors = {down: _part_of_a(name, part, rank), "lora_b": _part_of_b(name, part, rank)}
            for factor, made in factors.items():
                held = found.setdefault(f"{layer}/{factor}/{adapter}", [])
                # Two cuts of a matrix may have their columns, or rows, in common.
                if made not in held:
                    held.append(made)
    return {name: tuple(parts) for name, parts in found.items()}


def _kernels(config: DiTConfig) -> dict[str, tuple[Part, ...]]:
    """Parts of the base's kernels by the layer's name."""
    suffix = "/kernel"
    table: Mapping[str, tuple[Part, ...]] = flux_map(config)
    return {name.removesuffix(suffix): p for name, p in table.items() if name.endswith(suffix)}


def _module(part: Part) -> str:
    return part.tensor.removesuffix(".weight")


def _targets(layer: str) -> tuple[LoraTarget, ...]:
    """Groups of a layer, as `models/blocks.py` and `models/dit.py` give them."""
    if layer in _PARTS:
        return ("attention", "mlp")
    if "_mod/" in layer or "modulation" in layer:
        return ("modulation",)
    if "_attn/" in layer or layer.endswith("_qkv"):
        return ("attention",)
    return ("mlp",) if "_mlp" in layer else ("embedders",)


def _axes_out(part: Part) -> int:
    """How many of the first axes of `split` are the rows'."""
    rows = part.cut_shape[0]
    return next(n for n in range(1, len(part.split)) if math.prod(part.split[:n]) == rows)


def _place(layer: str, part: Part) -> tuple[Index, Index, Index]:
    """The kernel's place cut into (block and axes in, which of several matrices, axes out)."""
    lead = 1 if "_blocks/" in layer else 0
    num_in = len(part.split) - _axes_out(part)
    inward, rest = part.place[: lead + num_in], part.place[lead + num_in :]
    apart = rest[:1] if rest and isinstance(rest[0], int) else ()
    return inward, apart, rest[len(apart) :]


def _part_of_a(layer: str, part: Part, rank: int) -> Part:
    """[rank, in] to [*in, rank]."""
    inward, apart, _ = _place(layer, part)
    ends = part.split[_axes_out(part) :]
    return Part(
        f"{_module(part)}{A_SUFFIX}",
        split=(rank, *ends),
        order=(*range(1, 1 + len(ends)), 0),
        place=(*inward, *apart),
        cut=(slice(None), *part.cut[1:]),
        tensor_shape=(rank, part.tensor_shape[1]),
    )


def _part_of_b(layer: str, part: Part, rank: int) -> Part:
    """[out, rank] to [rank, *out]."""
    inward, apart, outward = _place(layer, part)
    block = inward[:1] if "_blocks/" in layer else ()
    ends = part.split[: _axes_out(part)]
    return Part(
        f"{_module(part)}{B_SUFFIX}",
        split=(*ends, rank),
        order=(len(ends), *range(len(ends))),
        place=(*block, *apart, *((slice(None), *outward) if outward else ())),
        cut=part.cut[:1],
        tensor_shape=(part.tensor_shape[0], rank),
    )
