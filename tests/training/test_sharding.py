"""Every layout of the mesh computes what one device computes; who holds what."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from tiny_experiment import BOTH_BLOCKS, TINY

from bokeh_jax import config as config_lib
from bokeh_jax.config import MeshConfig, resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.training import overview, sharding
from bokeh_jax.training.state import abstract_state, make_optimizer
from bokeh_jax.training.step import mean_over_parts

TESTS = Path(__file__).parent.parent


def computed(dataset, out, *arguments):
    """Arrays and places of layouts, from one process with eight devices."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parent / "layouts.py"),
            *(str(dataset), str(out), *arguments),
        ],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    places = {entry["layout"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    return {name: (dict(np.load(out / f"{name}.npz")), places[name]) for name in places}


@pytest.fixture(scope="module")
def tiny(dataset):
    return resolve(TINY | {"model": BOTH_BLOCKS, "data": {"path": str(dataset)}})


@pytest.fixture(scope="module")
def layouts(dataset, tmp_path_factory):
    """One device, and a mesh cut along all three axes at once with two parts accumulated."""
    return computed(dataset, tmp_path_factory.mktemp("layouts"), "plain", "one", "mixed")


def test_a_mesh_cut_along_all_axes_computes_what_one_device_does(layouts):
    assert_same(layouts, "mixed")


@pytest.mark.long
def test_every_layout_computes_what_one_device_does(dataset, tmp_path):
    """Along one axis at a time, with the guide; `make test` has all three without."""
    found = computed(dataset, tmp_path, "guide", "one", "data", "fsdp")
    for name in ("data", "fsdp"):
        assert_same(found, name)


def assert_same(layouts, name):
    one, found = layouts["one"][0], layouts[name][0]
    assert one.keys() == found.keys()
    for key, expected in one.items():
        value = found[key]
        if key == "noise" or key.startswith("batch:"):
            np.testing.assert_array_equal(value, expected, err_msg=key)
        # Decibels are no means over examples, so those of two parts are others.
        elif key.startswith("part:") and not (name == "mixed" and "psnr" in key):
            np.testing.assert_allclose(value, expected, rtol=2e-5, err_msg=key)
        elif key.startswith("gradient:"):
            # Sums of products in another order. With one example a device 7e-5 of the largest value
            # was seen, in gradients a thousandth of others; wrong ones were 1e-2 and more off.
            close = 2e-4 * np.abs(expected).max()
            np.testing.assert_allclose(value, expected, rtol=0, atol=close, err_msg=key)
    largest = {key: np.abs(value).max() for key, value in one.items() if "gradient:" in key}
    assert min(largest.values()) > 0
    assert len(largest) == 54


def test_parameters_lie_as_the_rules_say(layouts, tiny):
    qkv, out = "dit/single_blocks/linear1_qkv/kernel", "dit/single_blocks/linear2_mlp/kernel"
    mixed = layouts["mixed"][1]["where"]
    assert mixed[qkv] == str(PartitionSpec(None, "fsdp", None, "tensor", None))
    assert mixed[out] == str(PartitionSpec(None, "tensor", "fsdp"))
    assert mixed["dit/double_blocks/txt_mod/lin/kernel"] == str(
        PartitionSpec(None, "fsdp", "tensor")
    )
    cut = resolve(json.loads(config_lib.to_json(tiny)), ["mesh.min_sharded_bytes=0"])
    for sizes, expected in (
        ((2, 2, 2), (None, "fsdp", None, "tensor", None)),
        ((1, 8, 1), (None, "fsdp", None, None, None)),
        ((8, 1, 1), (None,) * 5),
    ):
        params = leaves_by_name(sharding.placed_state(cut, mesh_of(*sizes)).params)
        assert params[qkv].sharding.spec == PartitionSpec(*expected)


def mesh_of(*sizes):
    """A mesh of one device under other sizes' names, for what only reads its shape."""
    return jax.sharding.AbstractMesh(
        sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )


def test_small_and_indivisible_leaves_stay_whole():
    leaf = jax.ShapeDtypeStruct((6, 64), jnp.float32)
    names = ("embed", "mlp")
    spec = sharding.leaf_sharding(mesh_of(1, 2, 2), leaf, names, 0).spec
    assert spec == PartitionSpec("fsdp", "tensor")
    spec = sharding.leaf_sharding(mesh_of(1, 4, 2), leaf, names, 0).spec
    assert spec == PartitionSpec(None, "tensor")
    assert sharding.leaf_sharding(mesh_of(1, 2, 2), leaf, names, 1537).spec == PartitionSpec()
    assert sharding.leaf_sharding(mesh_of(1, 2, 2), leaf, names, 1536).spec != PartitionSpec()


def test_moments_and_average_lie_where_their_parameter_lies(tiny):
    cut = resolve(json.loads(config_lib.to_json(tiny)), ["mesh.fsdp=2", "mesh.min_sharded_bytes=0"])
    placed = sharding.placed_state(cut, mesh_of(1, 2, 1))
    params = [leaf.sharding.spec for leaf in jax.tree.leaves(placed.params)]
    assert sum("fsdp" in spec for spec in params) > 30
    adam = placed.opt_state[1][0]
    for tree in (placed.ema, adam.mu, adam.nu):
        assert [leaf.sharding.spec for leaf in jax.tree.leaves(tree)] == params
    assert adam.count.sharding.spec == placed.step.sharding.spec == PartitionSpec()
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), placed) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), abstract_state(cut)
    )


def test_only_matrices_decay(tiny):
    """Stacked biases look like matrices: without gradients, only kernels may shrink."""
    shapes = abstract_state(tiny).params
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    optimizer = make_optimizer(tiny)

    @jax.jit
    def second_update(params):
        state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
        with jax.numpy_dtype_promotion("standard"):
            _, state = optimizer.update(zeros, state, params)  # The first rate is 0.
            return optimizer.update(zeros, state, params)[0]

    updates = second_update(params)
    for path, update in jax.tree.leaves_with_path(updates):
        assert (float(jnp.abs(update).max()) > 0) == (path[-1].key == "kernel"), path


def test_means_over_parts_take_every_so_many_rows():
    seen = []

    def function(rows):
        jax.debug.callback(lambda x: seen.append(x.tolist()), rows)
        return {"mean": jnp.mean(rows)}

    rows = jnp.arange(12, dtype=jnp.float32)
    found = mean_over_parts(function, rows, 3)
    jax.effects_barrier()
    assert seen == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert float(found["mean"]) == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("sizes", "count", "named"),
    [
        ({"data": 3}, 8, r"mesh .*'data': 3.* does not fit; allowed: .* product is 8 devices"),
        ({"fsdp": 0}, 8, r"allowed: positive sizes, at most one -1"),
        ({"data": -1, "tensor": -1}, 8, r"allowed: positive sizes, at most one -1"),
        ({"data": -1, "tensor": 3}, 8, r"mesh .*does not fit"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(sizes, count, named):
    with pytest.raises(InvalidInput, match=named):
        sharding.mesh_sizes(MeshConfig(**sizes), count)


@pytest.mark.parametrize(
    ("override", "sizes", "named"),
    [
        ("training.global_batch_size=6", (2, 2, 1), r"global_batch_size is 6; allowed: .* 4 = "),
        (
            "training.accumulation_steps=3",
            (2, 1, 1),
            r"global_batch_size is 4; allowed: .* 6 = .*accumulation_steps 3",
        ),
        ("name=wide", (1, 1, 4), r"mesh.tensor is 4; allowed: a divisor of .*num_heads, 2"),
    ],
)
def test_batches_and_models_that_do_not_divide_are_refused(tiny, override, sizes, named):
    config = resolve(json.loads(config_lib.to_json(tiny)), [override])
    with pytest.raises(InvalidInput, match=named):
        sharding.check_fits(config, mesh_of(*sizes))


class Chip:
    """What mesh utilities ask of a device: its slice and process."""

    def __init__(self, number, per_slice):
        self.id, self.slice_index = number, number // per_slice
        self.process_index, self.platform, self.device_kind = number, "cpu", "cpu"

    def __repr__(self):
        return f"chip {self.id}"


def test_only_data_crosses_slices():
    chips = [Chip(number, 4) for number in range(8)]
    grid = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2), chips).devices
    assert grid.shape == (2, 2, 2)
    assert [{chip.slice_index for chip in part.flat} for part in grid] == [{0}, {1}]
    with pytest.raises(InvalidInput, match=r"mesh.data is 1 on 2 slices; allowed: multiples of 2"):
        sharding.make_mesh(MeshConfig(data=1, fsdp=8), chips)


def test_the_table_says_what_lies_where(tiny):
    wide = ["model.hidden_dim=1024", "model.num_heads=64", "mesh.fsdp=2", "mesh.tensor=3"]
    config = resolve(json.loads(config_lib.to_json(tiny)), wide)
    mesh = mesh_of(1, 2, 3)
    placed = sharding.placed_state(config, mesh)
    table = overview.parameter_table(placed, {})
    (line,) = (line for line in table if line.startswith("dit/single_blocks/linear1_mlp/kernel "))
    # 1024 · 4096 · 4 bytes are 16 MiB, cut in two; 4096 does not divide by 3.
    assert line.split() == [
        *("dit/single_blocks/linear1_mlp/kernel", "1", "1024", "4096"),
        *("-", "fsdp", "-", "8.000"),
    ]
    assert len(table) == 1 + len(jax.tree.leaves(placed.params))
    assert len({len(line) for line in table}) == 1
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(placed.params))
    assert whole / 3 < overview.bytes_a_device(placed.params) < whole / 2
    assert list(overview.warnings(placed, {}, mesh)) == []
    missed = sharding.placed_state(config, mesh_of(1, 5, 3))
    lines = list(overview.warnings(missed, {}, mesh_of(1, 5, 3)))
    assert any("linear1_mlp/kernel (1, 1024, 4096), 16.000 MiB, is whole" in line for line in lines)
    assert list(overview.warnings(missed, {}, mesh_of(5, 1, 1))) == []
