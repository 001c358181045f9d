"""Adapters: what they add, where they are, how they merge, and that no layout changes them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from random_trees import drawn

from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import lora
from bokeh_jax.models.config import LORA_TARGETS, DiTConfig, LoraConfig
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.linear import JoinedAdapters, linear

TESTS = Path(__file__).parent.parent
TWO = LoraConfig(rank=3, alpha=6.0, targets=LORA_TARGETS, adapters=("first", "second"))
BASE = DiTConfig(
    in_channels=5,
    out_channels=4,
    hidden_dim=12,
    num_heads=2,
    mlp_ratio=2.0,
    num_double_blocks=2,
    num_single_blocks=2,
    rope_axes_dim=(2, 2, 2),
    context_dim=7,
    pooled_dim=3,
    guidance_embed=True,
    compute_dtype="float32",
)
CONFIG = replace(BASE, lora=TWO)


def arguments(seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    normal = partial(jax.random.normal, dtype=jnp.float32)
    return {
        "image_tokens": normal(keys[0], (2, 4, 5)),
        "image_ids": jax.random.randint(keys[1], (2, 4, 3), 0, 9),
        "context_tokens": normal(keys[2], (2, 3, 7)),
        "context_ids": jnp.zeros((2, 3, 3), jnp.int32),
        "time": jax.random.uniform(keys[3], (2,), jnp.float32),
        "pooled": normal(keys[4], (2, 3)),
        "guidance": jax.random.uniform(keys[5], (2,), jnp.float32),
    }


@cache
def shapes(config):
    boxed = jax.eval_shape(partial(DiT(config).init, jax.random.key(0)), **arguments())["params"]
    return nn.unbox(boxed), nn.get_partition_spec(boxed)


def random_params(config, seed=1):
    return drawn(shapes(config)[0], seed, scale=0.3)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


def without_adapters(params):
    leaves = leaves_by_name(params).items()
    return tree_by_name({name: leaf for name, leaf in leaves if not lora.is_adapter(name)})


def network(config, params, given):
    return DiT(config).apply({"params": params}, **given)


compiled = jax.jit(network, static_argnums=0)
# The emitter that conftest.py turns off rounds two programs of the same sums alike.
compiled_alike = jax.jit(
    network, static_argnums=0, compiler_options={"xla_cpu_use_fusion_emitters": True}
)


def run(config, params):
    return compiled(config, params, arguments())


def adapter_names(config):
    return {name for name, _ in leaves_by_name(shapes(config)[0]).items() if lora.is_adapter(name)}


def test_a_layer_against_numpy():
    layer = linear((3, 2, 4), ("embed", "qkv", "heads", "head_dim"), dtype=jnp.float32, lora=TWO)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6), jnp.float32)
    fresh = jax.eval_shape(layer.init, jax.random.key(1), x)["params"]
    params = drawn(nn.unbox(fresh), seed=0, scale=1.0)
    found = jax.jit(layer.apply)({"params": params}, x)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = np.einsum("bnc,cqhd->bnqhd", np.asarray(x, np.float64), wide["kernel"])
    expected += wide["bias"]
    for name in TWO.adapters:
        down, up = wide["lora_a"][name], wide["lora_b"][name]
        assert down.shape == (6, 3, 3)
        assert up.shape == (3, 3, 2, 4)
        for part in range(3):
            product = np.einsum("cr,rhd->chd", down[:, part], up[part])
            expected[:, :, part] += 2.0 * np.einsum("bnc,chd->bnhd", np.asarray(x), product)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_one_adapter_over_two_inputs_against_numpy():
    module = JoinedAdapters(TWO, 5, "embed", jnp.float32)
    first = jax.random.normal(jax.random.key(0), (2, 4, 2, 3), jnp.float32)
    second = jax.random.normal(jax.random.key(1), (2, 4, 7), jnp.float32)
    inputs = {"attn": (first, ("heads", "head_dim")), "mlp": (second, ("mlp",))}
    fresh = nn.unbox(module.init(jax.random.key(1), inputs)["params"])
    params = drawn(fresh, seed=0, scale=1.0)
    found = module.apply({"params": params}, inputs)
    joined = np.concatenate((np.asarray(first).reshape(2, 4, 6), second), axis=-1)
    expected = np.zeros((2, 4, 5))
    for name in TWO.adapters:
        parts = params["lora_a_attn"][name].reshape(6, 3), params["lora_a_mlp"][name]
        expected += 2.0 * joined @ np.concatenate(parts) @ np.asarray(params["lora_b"][name])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    # The draw is that of one matrix over all 13 inputs.
    for part in ("lora_a_attn", "lora_a_mlp"):
        assert np.abs(fresh[part]["first"]).max() < 13**-0.5


def test_fresh_adapters_change_nothing_and_learn(params):
    fresh = jax.jit(DiT(CONFIG).init)(jax.random.key(3), **arguments())["params"]
    leaves = leaves_by_name(nn.unbox(fresh)).items()
    adapters = {name: leaf for name, leaf in leaves if lora.is_adapter(name)}
    base = without_adapters(params)
    with_fresh = lora.joined(base, tree_by_name(adapters))
    np.testing.assert_array_equal(
        compiled_alike(CONFIG, with_fresh, arguments()), compiled_alike(BASE, base, arguments())
    )
    for name, leaf in adapters.items():
        assert (not np.any(leaf)) == ("lora_b" in name), name
    # Uniform, as far out as PEFT starts them, other draws for every block and adapter.
    down = adapters["double_blocks/img_attn/qkv/lora_a/first"]
    assert 0.9 * 12**-0.5 < np.abs(down).max() <= 12**-0.5
    assert not np.any(down[0] == down[1])
    assert not np.any(down == adapters["double_blocks/img_attn/qkv/lora_a/second"])


def test_merging_changes_nothing_but_the_tree(params):
    weights = {"first": 0.7, "second": -0.4}
    found = jax.jit(lambda params: lora.merge(params, TWO, weights))(params)
    assert jax.tree.structure(found) == jax.tree.structure(shapes(BASE)[0])
    unmerged = run(CONFIG, lora.weighted(params, TWO, weights))
    scale = np.abs(unmerged).max()
    np.testing.assert_allclose(run(BASE, found), unmerged, atol=1e-5 * scale)
    # Each of the adapters, the weights and the scale count.
    base = run(BASE, without_adapters(params))
    for other in (base, run(CONFIG, params)):
        assert np.abs(other - unmerged).max() > 1e-2 * scale


def test_a_merged_kernel_keeps_its_type():
    """Each adapter's 2⁻⁸ is lost where it is added in bfloat16; both together are not."""
    names = ("first", "second")
    layer = {
        "kernel": jnp.ones((4, 2), jnp.bfloat16),
        "lora_a": {name: jnp.ones((4, 1)) for name in names},
        "lora_b": {name: jnp.full((1, 2), 2.0**-8) for name in names},
    }
    found = lora.merge({"img_in": layer}, LoraConfig(rank=1, adapters=names))["img_in"]
    assert list(found) == ["kernel"]
    assert found["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["kernel"].astype(jnp.float32), 1 + 2.0**-7)


def factors(*layers):
    return {f"{layer}/lora_{factor}/default" for layer in layers for factor in "ab"}


STREAMS = ("double_blocks/img", "double_blocks/txt")
ATTENTION = factors(*(f"{s}_attn/{m}" for s in STREAMS for m in ("qkv", "proj")))
ATTENTION |= factors("single_blocks/linear1_qkv")
MLP = factors(*(f"{s}_mlp/{m}_layer" for s in STREAMS for m in ("in", "out")))
MLP |= factors("single_blocks/linear1_mlp")
OUT = {f"single_blocks/linear2/lora_{factor}/default" for factor in ("a_attn", "a_mlp", "b")}
MODULATION = factors(*(f"{s}_mod/lin" for s in STREAMS))
MODULATION |= factors("single_blocks/modulation/lin", "final_layer/adaLN_modulation")
EMBEDDERS = factors("img_in", "txt_in", "final_layer/linear")
EMBEDDERS |= factors(
    *(f"{e}_in/{n}_layer" for e in ("time", "guidance", "vector") for n in ("in", "out"))
)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("attention",), ATTENTION | OUT),
        (("mlp",), MLP | OUT),
        (("attention", "mlp"), ATTENTION | MLP | OUT),
        (("modulation",), MODULATION),
        (("embedders",), EMBEDDERS),
    ],
)
def test_targets_say_which_layers_have_adapters(targets, expected):
    config = replace(BASE, lora=LoraConfig(rank=2, targets=targets))
    assert adapter_names(config) == expected
    assert adapter_names(replace(BASE, lora=LoraConfig(targets=targets))) == set()


def test_every_axis_of_an_adapter_has_a_name():
    tree, specs = shapes(CONFIG)
    names = leaves_by_name(specs)
    for name, leaf in leaves_by_name(tree).items():
        if lora.is_adapter(name):
            assert len(names[name]) == leaf.ndim, name
            assert None not in names[name], name
            assert leaf.shape[names[name].index("rank")] == 3
    qkv = "single_blocks/linear1_qkv/lora_"
    assert names[f"{qkv}a/first"] == PartitionSpec("layers", "embed", "qkv", "rank")
    assert names[f"{qkv}b/first"] == PartitionSpec("layers", "qkv", "rank", "heads", "head_dim")


def test_trained_and_frozen_are_two_trees_and_their_union(params):
    frozen, trained = lora.split_trainable(params, ("img_in", "final_layer/linear/bias"))
    names = set(leaves_by_name(trained))
    extra = {"img_in/kernel", "img_in/bias", "final_layer/linear/bias"}
    assert names == adapter_names(CONFIG) | extra
    union = lora.joined(frozen, trained)
    assert jax.tree.structure(union) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (union, params)), strict=True))
    assert lora.num_adapter_parameters(params) == sum(
        leaf.size for name, leaf in leaves_by_name(params).items() if lora.is_adapter(name)
    )
    with pytest.raises(InvalidInput, match="trained parameters 'img' are none; allowed: under"):
        lora.split_trainable(params, ("img",))
    with pytest.raises(ValueError, match="parameter img_in/bias is in both trees"):
        lora.joined(frozen | {"img_in": {"bias": 0}}, trained)
    with pytest.raises(ValueError, match="parameter img_in is in both trees"):
        lora.joined({"img_in": 0}, trained)


def test_a_weight_of_an_unknown_adapter_is_refused(params):
    for function in (lora.merge, lora.weighted):
        with pytest.raises(InvalidInput, match="adapter 'third' is given; allowed: first, second"):
            function(params, TWO, {"third": 1.0})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rank": -1}, r"lora.rank is -1; allowed: 0 or more"),
        ({"alpha": 0.0}, r"lora.alpha is 0.0; allowed: more than 0, or None"),
        ({"alpha": float("inf")}, r"lora.alpha is inf"),
        ({"targets": ()}, r"lora.targets is \(\); allowed: one or more"),
        ({"adapters": ("a", "a")}, r"lora.adapters is .*; allowed: one or more, all different"),
        ({"adapters": ("a/b",)}, r"lora.adapters has 'a/b'; allowed: letters"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, named):
    with pytest.raises(InvalidInput, match=named):
        LoraConfig(**{"rank": 4} | fields)


def adapter_gradients(config, frozen, trained):
    def loss(trained):
        return jnp.mean(jnp.square(run(config, lora.joined(frozen, trained))))

    return leaves_by_name(jax.jit(jax.grad(loss))(trained))


@pytest.mark.long
def test_rematerialised_gradients_are_the_same(params):
    """`make test`: test_dit.py without adapters, and below what is computed again with them."""
    frozen, trained = lora.split_trainable(params)
    expected = adapter_gradients(CONFIG, frozen, trained)
    found = adapter_gradients(replace(CONFIG, remat="dots"), frozen, trained)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(found[name], gradient, atol=2e-5 * np.abs(gradient).max())


def test_kept_products_are_not_computed_again(params):
    """What rematerialisation adds is the attention's own products, adapters or not."""

    def products(remat, lora_config):
        config = replace(BASE, lora=lora_config, remat=remat)
        network = params if lora_config.rank else without_adapters(params)
        apply = partial(DiT(config).apply, **arguments())
        program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(apply({"params": x}))))(network)
        return sum(e.primitive.name == "dot_general" for e in equations(program.jaxpr))

    again = [products("dots", which) - products("none", which) for which in (TWO, LoraConfig())]
    assert again[0] == again[1] < products("full", TWO) - products("none", TWO)


def equations(jaxpr):
    """Of a program and the programs within."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def conversions(jaxpr):
    """(from, to, shape) of every change of type."""
    for equation in equations(jaxpr):
        if equation.primitive.name == "convert_element_type":
            (before,), (after,) = equation.invars, equation.outvars
            yield before.aval.dtype.name, after.aval.dtype.name, after.aval.shape


def test_a_frozen_base_in_bfloat16_stays_that(params):
    """All but the last layer, whose product is float32 in any case."""
    config = replace(CONFIG, compute_dtype="bfloat16")
    frozen, trained = lora.split_trainable(params)
    frozen = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), frozen)
    apply = partial(DiT(config).apply, **arguments())
    program = jax.make_jaxpr(apply)({"params": lora.joined(frozen, trained)})
    blocks = leaves_by_name(frozen["double_blocks"]).items()
    kernels = {leaf.shape[1:] for name, leaf in blocks if "kernel" in name}
    changes = conversions(program.jaxpr)
    wide = {shape for *types, shape in changes if types == ["bfloat16", "float32"]}
    assert not kernels & wide
    assert (12, 4) in wide
    out = run(config, lora.joined(frozen, trained))
    expected = run(CONFIG, params)
    assert np.abs(out - expected).max() < 0.05 * np.abs(expected).max()


def test_flux_at_rank_128():
    config = replace(DiTConfig.flux_dev(), lora=LoraConfig(rank=128))
    arrays = {
        "image_tokens": (1, 2, 64),
        "context_tokens": (1, 1, 4096),
        "time": (1,),
        "pooled": (1, 768),
        "guidance": (1,),
    }
    given = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
    ids = {"image_ids": (1, 2, 3), "context_ids": (1, 1, 3)}
    given |= {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in ids.items()}
    tree = nn.unbox(jax.eval_shape(partial(DiT(config).init, jax.random.key(0)), **given))["params"]
    assert lora.num_adapter_parameters(tree) == 522_977_280
    whole = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert whole - lora.num_adapter_parameters(tree) == 11_901_408_320


def computed(out, *names):
    """Losses, gradients and places of layouts, from one process with eight devices."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(TESTS.parent),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "lora_layouts.py"), str(out), *names],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    places = json.loads(done.stdout)
    return {name: (dict(np.load(out / f"{name}.npz")), places[name]) for name in places}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """One device, and a mesh cut along all three axes at once."""
    return computed(tmp_path_factory.mktemp("layouts"), "one", "mixed")


def assert_same(layouts, name):
    one, found = layouts["one"][0], layouts[name][0]
    assert one.keys() == found.keys()
    for key, expected in one.items():
        close = 2e-5 * np.abs(expected).max()
        assert close > 0, key
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=close, err_msg=key)


def test_a_mesh_cut_along_all_axes_computes_what_one_device_does(layouts):
    assert_same(layouts, "mixed")


@pytest.mark.long
def test_parameters_cut_eight_times_give_what_one_device_does(tmp_path):
    """`make test` has them cut along all axes at once."""
    assert_same(computed(tmp_path, "one", "fsdp"), "fsdp")


def test_adapters_lie_as_their_kernels_do(layouts):
    where = layouts["mixed"][1]

    def of(layer):
        return where[f"single_blocks/{layer}/default"]

    assert of("linear1_qkv/lora_a") == str(PartitionSpec(None, "fsdp", None, None))
    assert of("linear1_qkv/lora_b") == str(PartitionSpec(None, None, "fsdp", "tensor", None))
    assert of("linear2/lora_a_mlp") == str(PartitionSpec(None, "tensor", "fsdp"))
    assert of("linear2/lora_b") == str(PartitionSpec(None, None, "fsdp"))
