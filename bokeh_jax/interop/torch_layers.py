"""Rows of the weight tables for torch's layers, as every table of names uses them."""

import math
from collections.abc import Iterator

from bokeh_jax.interop.weight_map import Index, Part

Pair = tuple[str, Part]


def linear(
    leaf: str,
    module: str,
    inward: int | tuple[int, ...],
    outward: int | tuple[int, ...],
    place: Index = (),
    bias_place: Index | None = None,
) -> Iterator[Pair]:
    """Torch's weight [out, in] at a place of our kernel [*in, *out], and its bias.

    Args:
        leaf: our layer's name.
        module: torch's.
        inward, outward: channels, along one or several axes of ours.
        place: in the kernel's first axes, such as the block's number where blocks are stacked.
        bias_place: in the bias's; None for the same.
    """
    inward = inward if isinstance(inward, tuple) else (inward,)
    outward = outward if isinstance(outward, tuple) else (outward,)
    axes = tuple(range(len(outward) + len(inward)))
    size_out, size_in = math.prod(outward), math.prod(inward)
    yield (
        f"{leaf}/kernel",
        Part(
            f"{module}.weight",
            split=(*outward, *inward),
            order=(*axes[len(outward) :], *axes[: len(outward)]),
            place=place,
            tensor_shape=(size_out, size_in),
        ),
    )
    bias_place = place if bias_place is None else bias_place
    yield f"{leaf}/bias", vector(f"{module}.bias", outward, bias_place)


def vector(tensor: str, ends: int | tuple[int, ...], place: Index = ()) -> Part:
    """A vector [channels] of torch, whose channels may lie along several axes of ours."""
    ends = ends if isinstance(ends, tuple) else (ends,)
    return Part(tensor, ends, tuple(range(len(ends))), place, (), (math.prod(ends),))
