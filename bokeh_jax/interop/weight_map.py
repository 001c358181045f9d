"""How a tensor of another library's file and a parameter of ours are the same numbers.

    (1) leaf[place] = transpose(reshape(tensor[cut], split), order)

A table of such parts is all there is to know of a format: read from left to right it exports, from
right to left it imports, and both ways are exact. A parameter may be put together from several
tensors (stacked blocks; fused queries, keys and values), and a tensor may hold several parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Part:
    """One tensor, or a part of it, and where it lies in a parameter: equation (1).

    Attributes:
        tensor: its name in the file.
        split: the shape that the cut is given before its axes change places.
        order: new order of those axes.
        place: index into the parameter; () is all of it.
        cut: index into the tensor, slices only; () is all of it.
    """

    tensor: str
    split: tuple[int, ...]
    order: tuple[int, ...]
    place: Index = ()
    cut: tuple[slice, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.split))):
            raise ValueError(f"order is {self.order}; allowed: a permutation of {len(self.split)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `leaf[place]`."""
        return tuple(self.split[axis] for axis in self.order)

    def to_leaf(self, cut: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """What belongs at `leaf[place]`, from `tensor[cut]`."""
        return cut.reshape(self.split).transpose(self.order)

    def to_tensor(
        self, placed: Shaped[np.ndarray, "..."], shape: tuple[int, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """What belongs at `tensor[cut]`, of this shape, from `leaf[place]`."""
        if placed.shape != self.shape or math.prod(shape) != placed.size:
            raise ValueError(f"{self.tensor}: part is {placed.shape}; allowed: {self.shape}")
        return placed.transpose(np.argsort(self.order)).reshape(shape)


# Name of a parameter, its keys joined by "/", to the parts that fill it.
WeightMap = Mapping[str, tuple[Part, ...]]
