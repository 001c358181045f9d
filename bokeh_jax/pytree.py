"""Frozen dataclasses as pytrees whose shapes are checked where people make them, and only there.

Tree transformations rebuild a node with placeholders for leaves (None, object(), axis numbers). A
constructor that checks shapes must not see those, so unflattening goes around it. That is the one
difference to `flax.struct.dataclass`.
"""

import dataclasses
import typing
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def static_field(**keywords: Any) -> Any:
    """A field that is part of the tree's structure and not a leaf; hashable."""
    return dataclasses.field(metadata={"static": True}, **keywords)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static_field))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass, registered as a pytree node with named children."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(typing.cast(Any, cls))
    static = tuple(field.name for field in fields if field.metadata.get("static", False))
    data = tuple(field.name for field in fields if field.name not in static)

    def flatten_with_keys(node: T):
        children = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in data]
        return children, tuple(getattr(node, name) for name in static)

    def flatten(node: T):
        return [getattr(node, name) for name in data], tuple(getattr(node, name) for name in static)

    def unflatten(structure: tuple[Any, ...], children) -> T:
        node = object.__new__(cls)
        for name, value in (
            *zip(static, structure, strict=True),
            *zip(data, children, strict=True),
        ):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
