"""Laying sparse changes over frozen dataclasses: names are known, values have the field's type.

What is laid over is nested mappings whose leaves are plain values (from a file, JSON or the command
line); what comes out is a dataclass of the same type. An unknown key or a value that does not fit
is refused with the key spelled out, with its groups.
"""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bokeh_jax.errors import InvalidInput


def _describe(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is tuple:
        return "a list of " + _describe(args[0])
    return {int: "an integer", float: "a number", bool: "true or false", str: "a text"}.get(
        kind, "nothing (None)" if kind is type(None) else str(kind)
    )


def _fits(kind: Any, value: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(_fits(arg, value) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        return len(kinds) == len(value) and all(map(_fits, kinds, value))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as the field's type, or InvalidInput naming key, value and what is allowed."""
    named_none = typing.get_origin(kind) is Literal and "none" in typing.get_args(kind)
    if isinstance(value, list):
        value = tuple(value)
    elif named_none and isinstance(value, types.NoneType):
        value = "none"  # The name, which a command line cannot tell from nothing.
    if not _fits(kind, value):
        raise InvalidInput(f"config key {key} is {value!r}; allowed: {_describe(kind)}")
    return float(value) if kind is float else value


def lay_over(base: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of the frozen dataclass `base` with `changes` (nested) laid over it.

    Raises:
        InvalidInput: unknown key, wrong type, or a value that a dataclass's own checks refuse.
    """
    hints = typing.get_type_hints(type(base))
    names = [field.name for field in dataclasses.fields(base)]
    updates = {}
    for name, value in changes.items():
        key = f"{prefix}{name}"
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise InvalidInput(f"unknown config key {key}; allowed: {', '.join(names)}{hint}")
        current = getattr(base, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise InvalidInput(f"config key {key} is {value!r}; allowed: a group of keys")
            updates[name] = lay_over(current, value, f"{key}.")
        else:
            updates[name] = _typed(hints[name], value, key)
    try:
        return dataclasses.replace(base, **updates)
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(f"config{' ' + prefix.rstrip('.') if prefix else ''}: {error}") from None


def _parse_value(text: str) -> Any:
    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def nested(overrides: Sequence[str]) -> dict[str, Any]:
    """["a.b=1"] -> {"a": {"b": 1}}.

    Raises:
        InvalidInput: one that is not KEY=VALUE.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InvalidInput(f"config override {override!r}; allowed: --config.KEY=VALUE")
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = _parse_value(text)
    return tree


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one, group by group; where both have a value, that of `over`."""
    result = dict(under)
    for key, value in over.items():
        both_groups = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both_groups else value
    return result
