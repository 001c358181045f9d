"""Folders that are written: whole or not at all, readable by the library, exact."""

import errno
import json
import math
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop import writing
from bokeh_jax.interop.reading import load_parameters
from bokeh_jax.interop.tensor_files import open_tensor_files, read_config
from bokeh_jax.interop.weight_map import Part, leaf_shapes, tensor_shapes
from bokeh_jax.interop.writing import write_tensors

TABLE = {
    "blocks": tuple(
        Part(f"block.{number}", (2, 3, 4), (2, 0, 1), (number,), (), (6, 4)) for number in range(4)
    ),
    "left": (Part("out", (5, 2), (1, 0), (), (slice(None), slice(0, 2)), (5, 6)),),
    "right": (Part("out", (5, 4), (1, 0), (), (slice(None), slice(2, 6)), (5, 6)),),
    "scale": (Part("scale", (), ()),),
}
FIELDS = {"_class_name": "Some", "b": [1, 2], "a": None}


def parameters(host=False):
    random = np.random.default_rng(0)
    made = {
        name: np.asarray(random.normal(size=shape), np.float32)
        for name, shape in leaf_shapes(TABLE).items()
    }
    return made if host else jax.tree.map(jnp.asarray, made)


def read_back(folder, params):
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
    return load_parameters(open_tensor_files(folder), TABLE, abstract)[0]


@pytest.mark.parametrize("host", [False, True], ids=["devices", "host"])
def test_one_file_gives_the_same_tree_back(tmp_path, host):
    params = parameters(host) | {"not in the table": jnp.zeros(3)}
    write_tensors(tmp_path / "made" / "out", TABLE, params, FIELDS)
    assert sorted(os.listdir(tmp_path / "made")) == ["out"]
    assert sorted(os.listdir(tmp_path / "made" / "out")) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    text = (tmp_path / "made" / "out" / "config.json").read_text()
    assert text == json.dumps(FIELDS, indent=2, sort_keys=True) + "\n"
    assert read_config(tmp_path / "made" / "out") == FIELDS
    found = read_back(tmp_path / "made" / "out", parameters())
    jax.tree.map(np.testing.assert_array_equal, found, parameters())


def test_several_files_above_the_limit(tmp_path):
    write_tensors(tmp_path / "out", TABLE, parameters(), FIELDS, max_shard_bytes=200)
    names = sorted(os.listdir(tmp_path / "out"))
    stem = "diffusion_pytorch_model"
    # Blocks have 96 bytes, two a file; out has 120, and the scalar fits beside it.
    assert names == [
        "config.json",
        *(f"{stem}-0000{number}-of-00003.safetensors" for number in (1, 2, 3)),
        f"{stem}.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 4 * 96 + 120 + 4}
    assert index["weight_map"]["block.2"] == names[2]
    assert index["weight_map"].keys() == tensor_shapes(TABLE).keys()
    jax.tree.map(
        np.testing.assert_array_equal, read_back(tmp_path / "out", parameters()), parameters()
    )
    write_tensors(tmp_path / "each", TABLE, parameters(), FIELDS, max_shard_bytes=1)
    assert len(list((tmp_path / "each").glob("*.safetensors"))) == 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_types_of_files(tmp_path, dtype):
    write_tensors(tmp_path / "out", TABLE, parameters(), FIELDS, dtype)
    known = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    with safe_open(tmp_path / "out" / "diffusion_pytorch_model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        found = file.get_tensor("block.1")
    expected = np.asarray(parameters()["blocks"])[1].transpose(1, 2, 0).reshape(6, 4)
    assert found.dtype == known
    np.testing.assert_array_equal(found, expected.astype(known))
    # A second time nothing is rounded.
    once = read_back(tmp_path / "out", parameters())
    write_tensors(tmp_path / "again", TABLE, once, FIELDS, dtype)
    twice = read_back(tmp_path / "again", parameters())
    jax.tree.map(np.testing.assert_array_equal, once, twice)


def test_what_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(InvalidInput, match=f"{name} exists; allowed: a new or an empty folder"):
            write_tensors(tmp_path / name, TABLE, parameters(), FIELDS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "out"]
    (tmp_path / "empty").mkdir()
    write_tensors(tmp_path / "empty", TABLE, parameters(), FIELDS)
    assert len(os.listdir(tmp_path / "empty")) == 2


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_is_left_of_what_went_wrong(tmp_path, monkeypatch):
    params = parameters()
    del params["right"]
    with pytest.raises(KeyError):
        write_tensors(tmp_path / "out", TABLE, params, FIELDS)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot be written \(Not a directory\); allowed"):
        write_tensors(tmp_path / "file" / "out", TABLE, parameters(), FIELDS)
    monkeypatch.setattr(writing, "fetched", full)
    with pytest.raises(InvalidInput, match=r"cannot be written \(No space left on device\)"):
        write_tensors(tmp_path / "out", TABLE, parameters(), FIELDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_tensors_are_made_one_by_one(tmp_path, monkeypatch):
    """Of a stacked parameter a block at a time comes to the host."""
    sizes = []

    def fetched(leaf, part, real=writing.fetched):
        found = real(leaf, part)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(writing, "fetched", fetched)
    write_tensors(tmp_path / "out", TABLE, parameters(), FIELDS)
    assert sizes == [24, 24, 24, 24, 10, 20, 1]
    assert sum(sizes) == sum(map(math.prod, tensor_shapes(TABLE).values()))
