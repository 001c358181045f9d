"""The table of parts: equation (1) both ways, and windows of it."""

import itertools
import math

import numpy as np
import pytest

from bokeh_jax.interop.weight_map import (
    Part,
    assemble,
    by_tensor,
    leaf_shapes,
    leaves_of,
    place_bounds,
    tensor_shapes,
    under,
)

PARTS = {
    "same": Part("t", (4, 6), (0, 1)),
    "heads": Part("t", (2, 3, 4), (2, 0, 1), tensor_shape=(6, 4)),
    "heads in": Part("t", (5, 2, 3), (1, 2, 0), tensor_shape=(5, 6)),
    "cut heads in": Part("t", (5, 2, 3), (1, 2, 0), (0,), (slice(None), slice(2, 8)), (5, 9)),
    "cut rows": Part("t", (2, 3, 4), (0, 1, 2), (), (slice(3, 9),), (12, 4)),
    "joined": Part("t", (12, 5), (1, 0), tensor_shape=(3, 4, 5)),
    "convolution of one pixel": Part("t", (4, 6), (1, 0), tensor_shape=(4, 6, 1, 1)),
    "ones": Part("t", (1, 4, 1, 6), (3, 1, 0, 2), tensor_shape=(4, 6)),
    "across": Part("t", (3, 4), (1, 0), tensor_shape=(2, 6)),
    "scalar": Part("t", (), ()),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_window_of_what_is_read_is_that_of_the_whole(name):
    part = PARTS[name]
    tensor = np.arange(math.prod(part.tensor_shape)).reshape(part.tensor_shape)
    whole = tensor[(*part.cut, ...)].reshape(part.split)
    axes = [
        [slice(None)] + [slice(a, b) for a in range(n) for b in range(a + 1, n + 1)]
        for n in part.split
    ]
    windows = list(itertools.product(*axes))
    for window in windows[:: 1 + len(windows) // 500]:
        index, shape, rest = part.source(window)
        np.testing.assert_array_equal(tensor[index].reshape(shape)[rest], whole[window])
    np.testing.assert_array_equal(
        part.to_leaf(tensor[(*part.cut, ...)]), whole.transpose(part.order)
    )
    back = part.to_tensor(whole.transpose(part.order))
    np.testing.assert_array_equal(back, tensor[part.cut])


@pytest.mark.parametrize(
    ("name", "window", "index"),
    [
        ("same", (slice(1, 2), slice(2, 4)), (slice(1, 2), slice(2, 4))),
        ("heads", (slice(1, 2), slice(None), slice(0, 2)), (slice(3, 6), slice(0, 2))),
        ("cut heads in", (slice(0, 5), slice(1, 2), slice(None)), (slice(0, 5), slice(5, 8))),
        ("cut rows", (slice(1, 2), slice(None), slice(None)), (slice(6, 9), slice(0, 4))),
    ],
)
def test_no_more_is_read_than_the_window_holds(name, window, index):
    assert PARTS[name].source(window)[0] == index


TABLE = {
    "qkv": tuple(
        Part(f"{name}.{number}", (2, 3, 4), (2, 0, 1), (number, slice(None), which), (), (6, 4))
        for number in range(2)
        for which, name in enumerate("qkv")
    ),
    "swapped": (
        Part("norm", (3,), (0,), (slice(0, 3),), (slice(3, 6),), (6,)),
        Part("norm", (3,), (0,), (slice(3, 6),), (slice(0, 3),), (6,)),
    ),
    "left": (Part("out", (5, 2), (1, 0), (), (slice(None), slice(0, 2)), (5, 6)),),
    "right": (Part("out", (5, 4), (1, 0), (), (slice(None), slice(2, 6)), (5, 6)),),
}


def test_both_ways_are_exact():
    shapes = tensor_shapes(TABLE)
    assert shapes["v.1"] == (6, 4)
    assert shapes["out"] == (5, 6)
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=shape) for name, shape in shapes.items()}
    leaves = leaves_of(TABLE, tensors)
    assert {name: leaf.shape for name, leaf in leaves.items()} == leaf_shapes(TABLE)
    assert leaves["qkv"].shape == (2, 4, 3, 2, 3)
    expected = tensors["k.1"].reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(leaves["qkv"][1, :, 1], expected)
    np.testing.assert_array_equal(leaves["swapped"], np.roll(tensors["norm"], 3))
    np.testing.assert_array_equal(leaves["right"], tensors["out"][:, 2:].T)
    for name, held in by_tensor(TABLE).items():
        back = assemble(
            held, lambda leaf, part: leaves[leaf][(*part.place, ...)], np.dtype(np.float64)
        )
        np.testing.assert_array_equal(back, tensors[name])


def test_a_table_under_a_key():
    assert under("dit", TABLE)["dit/left"] == TABLE["left"]
    assert len(under("dit", TABLE)) == len(TABLE)


def test_places():
    assert place_bounds(TABLE["qkv"][4]) == [(1, 2), (0, 4), (1, 2), (0, 2), (0, 3)]
    assert place_bounds(TABLE["swapped"][1]) == [(3, 6)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((2, 3), (0, 0)), r"order is \(0, 0\); allowed: a permutation of 2"),
        (((2, 3), (0, 1), (), (), (5,)), r"cut is \(5,\) of \(5,\), split \(2, 3\)"),
        (((2,), (0,), (), (slice(0, 3),), (9,)), r"cut is \(3,\) of \(9,\)"),
        (((2,), (0,), (), (slice(0, 2),)), r"cut is .* of \(\)"),
    ],
)
def test_parts_that_do_not_fit(arguments, named):
    with pytest.raises(ValueError, match=named):
        Part("t", *arguments)


def test_tables_with_gaps():
    half = {"a": (Part("t", (3,), (0,), (1,)),)}
    with pytest.raises(ValueError, match=r"parts of a fill 3 of \(2, 3\)"):
        leaf_shapes(half)
    twice = {"a": (Part("t", (3,), (0,), (0,)), Part("u", (3,), (0,), (0,)))}
    with pytest.raises(ValueError, match="allowed: all of it, once"):
        leaf_shapes(twice)
    other = {"a": (Part("t", (3,), (0,)),), "b": (Part("t", (4,), (0,)),)}
    with pytest.raises(ValueError, match=r"t is \(3,\) and \(4,\)"):
        tensor_shapes(other)
    with pytest.raises(ValueError, match=r"parts of out do not fill \(5, 6\)"):
        assemble([("left", TABLE["left"][0])], lambda *_: np.zeros((2, 5)), np.dtype(np.float32))
    with pytest.raises(ValueError, match=r"t: part is \(3, 2\); allowed: \(2, 3\)"):
        Part("t", (2, 3), (0, 1)).to_tensor(np.zeros((3, 2)))
