import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bokeh_jax.pytree import pytree_dataclass, static_field


@pytree_dataclass
class Point:
    x: jax.Array
    y: jax.Array
    name: str = static_field(default="p")

    def __post_init__(self):
        if not isinstance(self.x, jax.Array):
            raise TypeError("x is checked where people make a point")


def test_leaves_names_and_static_parts():
    point = Point(jnp.float32(1), jnp.float32(2), name="q")
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(point)]
    assert names == [".x", ".y"]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, point)
    assert (float(doubled.x), float(doubled.y), doubled.name) == (2.0, 4.0, "q")
    other = Point(jnp.float32(1), jnp.float32(2), name="r")
    assert jax.tree.structure(point) != jax.tree.structure(other)


def test_transformations_go_around_the_checks():
    with pytest.raises(TypeError, match="x is checked"):
        Point(1.0, 2.0)
    batched = jax.vmap(lambda p: Point(p.x + 1, p.y))(Point(jnp.arange(3.0), jnp.zeros(3)))
    assert batched.x.tolist() == [1.0, 2.0, 3.0]
    assert jax.tree.map(lambda _: None, batched).x is None


def test_frozen():
    point = Point(jnp.float32(1), jnp.float32(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = jnp.float32(3)
