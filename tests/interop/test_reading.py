"""Tensors from files into parameters that lie on many devices, and files that do not fit."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.flux_names import diffusers_config, flux_map
from bokeh_jax.interop.reading import load_parameters, problems
from bokeh_jax.interop.tensor_files import open_tensor_files
from bokeh_jax.interop.weight_map import Part, leaf_shapes
from bokeh_jax.interop.writing import write_tensors
from bokeh_jax.leaf_names import tree_by_name
from bokeh_jax.models import DiTConfig

TESTS = Path(__file__).parent.parent


def write_random(folder, config, **options):
    random, table = np.random.default_rng(0), flux_map(config)
    params = {
        name: random.standard_normal(shape, np.float32)
        for name, shape in leaf_shapes(table).items()
    }
    write_tensors(folder, table, tree_by_name(params), diffusers_config(config), **options)


def num_bytes(config):
    return 4 * sum(map(math.prod, leaf_shapes(flux_map(config)).values()))


def jobs(*arguments, devices, processes=1):
    """What every process of a job told."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        # Huge pages, which `make` asks for, and what malloc keeps of freed memory would be counted.
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000",
    }
    program = str(Path(__file__).parent / "reading_job.py")
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    joined = [] if processes == 1 else [f"localhost:{port}", str(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, program, *map(str, arguments), *joined, *[str(index)][: len(joined)]],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip
    told = []
    for process in started:
        said, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]
        told.append(json.loads(said.splitlines()[-1]))
    return told


SMALL = DiTConfig(
    in_channels=8,
    out_channels=8,
    hidden_dim=32,
    num_heads=2,
    num_double_blocks=2,
    num_single_blocks=3,
    rope_axes_dim=(4, 6, 6),
    context_dim=12,
    pooled_dim=10,
    guidance_embed=True,
)


def test_every_device_gets_its_part_and_nothing_is_read_twice(tmp_path):
    write_random(tmp_path / "m", SMALL, max_shard_bytes=100_000)
    (told,) = jobs(tmp_path / "m", 2, 2, 2, devices=8)
    # The devices along `data` hold the same, and so do those of what is not sharded.
    assert told["read_bytes"] == num_bytes(SMALL)
    # The largest tensor [32, 256] is cut in two, the others in two, four or not at all.
    assert told["largest_bytes"] == 4 * 32 * 256 // 2
    assert told["loaded"] == 55
    assert told["sharded"] > 40
    # One compiled update for each kind of part, not for each block.
    assert told["updates"] < 45


@pytest.mark.long
def test_every_process_reads_only_what_its_devices_hold(tmp_path):
    write_random(tmp_path / "m", SMALL)
    told = jobs(tmp_path / "m", 1, 2, 1, devices=1, processes=2)
    for process in told:
        assert 0.5 < process["read_bytes"] / num_bytes(SMALL) < 0.55


def test_the_host_holds_one_tensor_beside_the_parameters(tmp_path):
    config = DiTConfig(
        in_channels=8,
        out_channels=8,
        hidden_dim=512,
        num_heads=4,
        num_double_blocks=0,
        num_single_blocks=24,
        rope_axes_dim=(32, 48, 48),
        context_dim=12,
        pooled_dim=10,
    )
    write_random(tmp_path / "m", config)
    (told,) = jobs(tmp_path / "m", 1, 1, 1, devices=1)
    largest_leaf = 4 * max(map(math.prod, leaf_shapes(flux_map(config)).values()))
    largest_tensor = 4 * 512 * (512 + 2048)
    assert num_bytes(config) > 380e6
    # A whole parameter would not fit into that.
    room = 2 * largest_tensor + 70e6
    assert room < largest_leaf
    assert told["peak_bytes"] - num_bytes(config) < room


# Two parameters of four tensors; one is stacked, one has its halves the other way round.
TABLE = {
    "blocks/kernel": (
        Part("b.0", (2, 3, 4), (2, 0, 1), (0,), tensor_shape=(6, 4)),
        Part("b.1", (2, 3, 4), (2, 0, 1), (1,), tensor_shape=(6, 4)),
    ),
    "last": (
        Part("last", (3,), (0,), (slice(0, 3),), (slice(3, 6),), (6,)),
        Part("last", (3,), (0,), (slice(3, 6),), (slice(0, 3),), (6,)),
    ),
    "scale": (Part("scale", (), ()),),
}


def tensors(dtype=np.float32):
    random = np.random.default_rng(3)
    shapes = {"b.0": (6, 4), "b.1": (6, 4), "last": (6,), "scale": ()}
    return {name: np.asarray(random.normal(size=shape), dtype) for name, shape in shapes.items()}


def abstract_tree(dtype=jnp.float32, **more):
    shapes = leaf_shapes(TABLE) | more
    return tree_by_name({n: jax.ShapeDtypeStruct(shape, dtype) for n, shape in shapes.items()})


def saved(tmp_path, changes=None):
    given = tensors() | (changes or {})
    path = tmp_path / "some.safetensors"
    save_file({name: value for name, value in given.items() if value is not None}, path)
    return open_tensor_files(path)


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", [jnp.float32, jnp.bfloat16])
def test_types_are_those_of_the_parameters(tmp_path, stored, wanted):
    given = tensors(stored)
    params, _ = load_parameters(saved(tmp_path, given), TABLE, abstract_tree(wanted))
    kernel = np.stack([given[f"b.{i}"].reshape(2, 3, 4).transpose(2, 0, 1) for i in range(2)])
    expected = {
        "blocks": {"kernel": kernel},
        "last": np.concatenate([given["last"][3:], given["last"][:3]]),
        "scale": given["scale"],
    }
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for found, value in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert found.dtype == wanted
        np.testing.assert_array_equal(np.asarray(found), value.astype(found.dtype))


def test_what_was_loaded_what_is_fresh_what_was_ignored(tmp_path):
    files = saved(tmp_path, {"vision.more": np.zeros((2, 2), np.float32)})
    abstract = abstract_tree(**{"camera/kernel": (5, 7)})
    params, match = load_parameters(files, TABLE, abstract, ignored=("vision.",))
    assert "camera" not in params
    assert match.lines() == [
        "  taken       blocks/kernel 2x4x2x3",
        "  taken       last 6",
        "  taken       scale scalar",
        f"  fresh       camera/kernel 5x7: not in {files.source}",
        f"  left out    vision.more 2x2: only in {files.source}",
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"b.1": None}, r"tensor b.1 is missing in .*; allowed: \[6, 4\] for blocks/kernel$"),
        (
            {"b.1": np.zeros((4, 6), np.float32)},
            r"tensor b.1 of .*some.safetensors is \[4, 6\]; allowed: \[6, 4\] for blocks/kernel$",
        ),
        ({"last": np.zeros(6, np.int32)}, "tensor last of .* is I32; allowed: F32, F16, BF16$"),
        (
            {"more": np.zeros((2, 3), np.float32)},
            r"tensor more \[2, 3\] of .* has no place in the model; allowed: the model's 4",
        ),
        ({"scale": None, "more": np.zeros(1, np.float32)}, r"scale is .* \(and 1 more such tens"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_is_read(
    tmp_path, monkeypatch, changes, named
):
    files = saved(tmp_path, changes)
    monkeypatch.setattr(type(files), "read", None)
    with pytest.raises(InvalidInput, match=named) as caught:
        load_parameters(files, TABLE, abstract_tree())
    assert "\n" not in str(caught.value)
    assert len(problems(files, TABLE)) == len(changes)
    assert str(caught.value).startswith(problems(files, TABLE)[0])


def test_a_table_for_another_tree_is_a_bug(tmp_path):
    abstract = abstract_tree()
    abstract["last"] = jax.ShapeDtypeStruct((5,), jnp.float32)
    with pytest.raises(ValueError, match=r"parameter last is \(5,\); allowed: \(6,\)"):
        load_parameters(saved(tmp_path), TABLE, abstract)
    del abstract["last"]
    with pytest.raises(ValueError, match="parameter last is absent"):
        load_parameters(saved(tmp_path), TABLE, abstract)
