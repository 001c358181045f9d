"""Names of a tree's leaves, and how the names and shapes of two trees fit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

Shapes = Mapping[str, tuple[int, ...]]


def leaf_name(path: tuple[Any, ...]) -> str:
    """`params/dit/img_in/kernel`: the same for dataclasses, tuples and what a checkpoint lists."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by their names, in the tree's order."""
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def tree_by_name(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of dicts whose leaves have these names."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree


@dataclasses.dataclass(frozen=True)
class Match:
    """How the parameters of a source and of this run fit.

    Attributes:
        matched: names and shapes that are in both.
        other_shape: names that are in both, with the shape there and here.
        only_here: names and shapes that start fresh.
        only_there: names and shapes that are left out.
        source: what the source is called.
    """

    matched: Shapes
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    only_here: Shapes
    only_there: Shapes
    source: str = "the checkpoint"

    def lines(self) -> list[str]:
        """One line a parameter, what matches first."""
        return (
            [f"  taken       {name} {shape_text(shape)}" for name, shape in self.matched.items()]
            + [
                f"  fresh       {name} {shape_text(here)}: {shape_text(there)} in {self.source}"
                for name, (there, here) in self.other_shape.items()
            ]
            + [
                f"  fresh       {name} {shape_text(shape)}: not in {self.source}"
                for name, shape in self.only_here.items()
            ]
            + [
                f"  left out    {name} {shape_text(shape)}: only in {self.source}"
                for name, shape in self.only_there.items()
            ]
        )


def match(there: Shapes, here: Shapes) -> Match:
    """Compares by name and shape."""
    both = [name for name in here if name in there]
    return Match(
        matched={name: here[name] for name in both if there[name] == here[name]},
        other_shape={name: (there[name], here[name]) for name in both if there[name] != here[name]},
        only_here={name: shape for name, shape in here.items() if name not in there},
        only_there={name: shape for name, shape in there.items() if name not in here},
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """`3072x64`."""
    return "x".join(map(str, shape)) or "scalar"
