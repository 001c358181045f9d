"""How a tensor of another library's file and a parameter of ours are the same numbers.

    (1) leaf[place] = transpose(reshape(tensor[cut], split), order)

A table of such parts is all there is to know of a format: read from left to right it exports, from
right to left it imports, and both ways are exact. A parameter may be put together from several
tensors (stacked blocks; fused queries, keys and values), and a tensor may hold several parameters.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

Index = tuple[int | slice, ...]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class Part:
    """One tensor, or a part of it, and where it lies in a parameter: equation (1).

    Attributes:
        tensor: its name in the file.
        split: the shape that the cut is given before its axes change places.
        order: new order of those axes.
        place: index into the parameter; () is all of it. Slices have steps of 1.
        cut: index into the tensor, slices only; () is all of it.
        tensor_shape: of the whole tensor; may be left out where `split` is just that.
    """

    tensor: str
    split: tuple[int, ...]
    order: tuple[int, ...]
    place: Index = ()
    cut: Window = ()
    tensor_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.split))):
            raise ValueError(f"order is {self.order}; allowed: a permutation of {len(self.split)}")
        if not self.tensor_shape and not self.cut:
            object.__setattr__(self, "tensor_shape", self.split)
        if math.prod(self.cut_shape) != math.prod(self.split):
            raise ValueError(
                f"{self.tensor}: cut is {self.cut_shape} of {self.tensor_shape}, split "
                f"{self.split}; allowed: as many elements"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `leaf[place]`."""
        return tuple(self.split[axis] for axis in self.order)

    @property
    def cut_shape(self) -> tuple[int, ...]:
        """Of `tensor[cut]`."""
        return tuple(stop - start for start, stop in self._bounds())

    def _bounds(self) -> list[tuple[int, int]]:
        """First index and end of the cut along every axis of the tensor."""
        cuts = itertools.zip_longest(self.cut, self.tensor_shape, fillvalue=slice(None))
        bounds = []
        for cut, length in cuts:
            if not isinstance(cut, slice) or not isinstance(length, int):
                raise ValueError(f"{self.tensor}: cut is {self.cut} of {self.tensor_shape}")
            start, stop, _ = cut.indices(length)
            bounds.append((start, stop))
        return bounds

    def to_leaf(self, cut: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """What belongs at `leaf[place]`, from `tensor[cut]`."""
        return cut.reshape(self.split).transpose(self.order)

    def to_tensor(self, placed: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """What belongs at `tensor[cut]`, from `leaf[place]`."""
        if placed.shape != self.shape:
            raise ValueError(f"{self.tensor}: part is {placed.shape}; allowed: {self.shape}")
        return placed.transpose(np.argsort(self.order)).reshape(self.cut_shape)

    def source(self, window: Window) -> tuple[Window, tuple[int, ...], Window]:
        """Which of the tensor's elements are needed for `window` of the cut in its split shape.

        Returns:
            (index into the whole tensor, shape to give to what is read, index into that). What is
            read is all that is needed, and no more where the window cuts the first of the axes
            that an axis of the tensor is split into.
        """
        bounds = self._bounds()
        index, shape, rest = [slice(*bound) for bound in bounds], list(self.split), list(window)
        for axes, parts in _groups(self.cut_shape, self.split):
            if len(axes) != 1 or not parts:
                continue
            first, inner = parts[0], math.prod(self.split[part] for part in parts[1:])
            start, stop, _ = window[first].indices(self.split[first])
            offset = bounds[axes[0]][0]
            index[axes[0]] = slice(offset + start * inner, offset + stop * inner)
            shape[first], rest[first] = stop - start, slice(None)
        return tuple(index), tuple(shape), tuple(rest)


def _groups(
    before: tuple[int, ...], after: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of a reshape that become one another: the finest groups with as many elements each."""
    groups, left, right = [], 0, 0
    while left < len(before) or right < len(after):
        first, second = left, right
        size = [1, 1]
        if left < len(before):
            size[0], left = before[left], left + 1
        if right < len(after):
            size[1], right = after[right], right + 1
        while size[0] != size[1]:
            if size[0] < size[1]:
                size[0], left = size[0] * before[left], left + 1
            else:
                size[1], right = size[1] * after[right], right + 1
        groups.append((tuple(range(first, left)), tuple(range(second, right))))
    return groups


# Name of a parameter, its keys joined by "/", to the parts that fill it.
WeightMap = Mapping[str, tuple[Part, ...]]


def under(prefix: str, weight_map: WeightMap) -> dict[str, tuple[Part, ...]]:
    """The same table for a tree that holds these parameters at the key `prefix`."""
    return {f"{prefix}/{name}": parts for name, parts in weight_map.items()}


def tensor_shapes(weight_map: WeightMap) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors by name, in the table's order."""
    found: dict[str, tuple[int, ...]] = {}
    for part in itertools.chain.from_iterable(weight_map.values()):
        if found.setdefault(part.tensor, part.tensor_shape) != part.tensor_shape:
            raise ValueError(f"{part.tensor} is {found[part.tensor]} and {part.tensor_shape}")
    return found


def leaf_shapes(weight_map: WeightMap) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by name.

    Raises:
        ValueError: parts of a parameter leave some of it empty, or lie in the same place.
    """
    return {name: _leaf_shape(name, parts) for name, parts in weight_map.items()}


def _leaf_shape(name: str, parts: tuple[Part, ...]) -> tuple[int, ...]:
    ends = [tuple(stop for _, stop in place_bounds(part)) for part in parts]
    shape = tuple(map(max, zip(*ends, strict=True)))
    starts = {tuple(start for start, _ in place_bounds(part)) for part in parts}
    filled = sum(math.prod(part.shape) for part in parts)
    if filled != math.prod(shape) or len(starts) != len(parts):
        raise ValueError(f"parts of {name} fill {filled} of {shape}; allowed: all of it, once")
    return shape


def place_bounds(part: Part) -> list[tuple[int, int]]:
    """First index and end of the part's place along every axis of the parameter."""
    lengths = iter(part.shape)
    bounds = []
    for index in part.place:
        if isinstance(index, int):
            bounds.append((index, index + 1))
        else:
            start = index.start or 0
            bounds.append((start, start + next(lengths)))
    return bounds + [(0, length) for length in lengths]


def by_tensor(weight_map: WeightMap) -> dict[str, list[tuple[str, Part]]]:
    """The table the other way round: which parts of which parameters a tensor holds."""
    found: dict[str, list[tuple[str, Part]]] = {}
    for name, parts in weight_map.items():
        for part in parts:
            found.setdefault(part.tensor, []).append((name, part))
    return found


def assemble(
    held: list[tuple[str, Part]],
    placed: Callable[[str, Part], Shaped[np.ndarray, "..."]],
    dtype: np.dtype,
) -> Shaped[np.ndarray, "..."]:
    """A tensor from what it holds; `placed` gives `leaf[place]` of a parameter's name and part.

    Raises:
        ValueError: the parts do not fill the tensor.
    """
    shape = held[0][1].tensor_shape
    if sum(math.prod(part.split) for _, part in held) != math.prod(shape):
        raise ValueError(f"parts of {held[0][1].tensor} do not fill {shape}")
    tensor = np.empty(shape, dtype)
    for name, part in held:
        tensor[part.cut] = part.to_tensor(placed(name, part)).astype(dtype)
    return tensor


def leaves_of(
    weight_map: WeightMap, tensors: Mapping[str, Shaped[np.ndarray, "..."]]
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Parameters by name from whole tensors in memory."""
    found = {}
    for name, shape in leaf_shapes(weight_map).items():
        leaf = np.empty(shape, tensors[weight_map[name][0].tensor].dtype)
        for part in weight_map[name]:
            leaf[part.place] = part.to_leaf(tensors[part.tensor][(*part.cut, ...)])
        found[name] = leaf
    return found
