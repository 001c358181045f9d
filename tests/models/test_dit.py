from dataclasses import replace
from functools import partial

import dit_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_trees import drawn

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.blocks import BlockInputs, DoubleBlock, SingleBlock
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.dit import DiT, FinalLayer, sinusoidal_embedding
from bokeh_jax.models.rope import rope_rotation

CONFIG = DiTConfig(
    in_channels=10,
    out_channels=6,
    hidden_dim=24,
    num_heads=2,
    mlp_ratio=2.5,
    num_double_blocks=2,
    num_single_blocks=3,
    rope_axes_dim=(2, 4, 6),
    context_dim=7,
    pooled_dim=5,
    guidance_embed=True,
    compute_dtype="float32",
)
BATCH, NUM_IMAGE, NUM_CONTEXT, NUM_EXTRA = 2, 6, 3, 2


def inputs(seed=0):
    keys = jax.random.split(jax.random.key(seed), 8)
    normal = partial(jax.random.normal, dtype=jnp.float32)
    positional = (
        normal(keys[0], (BATCH, NUM_IMAGE, 10)),
        jax.random.randint(keys[1], (BATCH, NUM_IMAGE, 3), 0, 20),
        normal(keys[2], (BATCH, NUM_CONTEXT, 7)),
        jax.random.randint(keys[3], (BATCH, NUM_CONTEXT + NUM_EXTRA, 3), 0, 20),
        jax.random.uniform(keys[4], (BATCH,), jnp.float32),
    )
    named = {
        "pooled": normal(keys[5], (BATCH, 5)),
        "guidance": jax.random.uniform(keys[6], (BATCH,), jnp.float32),
        "hidden_context": normal(keys[7], (BATCH, NUM_EXTRA, 24)),
    }
    return positional, named


def random_params(module, seed, *args, **kwargs):
    """Every parameter drawn, none left at zero or one: what starts at zero would hide errors."""
    shapes = jax.eval_shape(partial(module.init, jax.random.key(0)), *args, **kwargs)["params"]
    return drawn(nn.unbox(shapes), seed, scale=0.3)


@partial(jax.jit, static_argnums=0)
def network(config, params, positional, named):
    return DiT(config).apply({"params": params}, *positional, **named)


def run(config, params, seed=0):
    return network(config, params, *inputs(seed))


@pytest.fixture(scope="module")
def params():
    positional, named = inputs()
    return random_params(DiT(CONFIG), 1, *positional, **named)


def test_whole_network_against_numpy(params):
    positional, named = inputs()
    out = np.asarray(run(CONFIG, params))
    for i in range(BATCH):
        image, image_ids, context, context_ids, time = (np.asarray(x)[i] for x in positional)
        expected = dit_reference.dit(
            CONFIG,
            params,
            *(image.astype(np.float64), image_ids, context.astype(np.float64), context_ids),
            float(time),
            np.asarray(named["pooled"][i], np.float64),
            float(named["guidance"][i]),
            np.asarray(named["hidden_context"][i], np.float64),
        )
        # 1000 t is rounded to float32 before the sines, which bounds what can agree.
        np.testing.assert_allclose(out[i], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("block", [DoubleBlock, SingleBlock])
def test_one_block_against_numpy(block):
    keys = jax.random.split(jax.random.key(2), 4)
    context = jax.random.normal(keys[0], (1, 3, 24), jnp.float32)
    image = jax.random.normal(keys[1], (1, 4, 24), jnp.float32)
    ids = jax.random.randint(keys[2], (1, 7, 3), 0, 20)
    embedding = jax.random.normal(keys[3], (1, 24), jnp.float32)
    shared = BlockInputs(embedding, rope_rotation(ids, CONFIG.rope_axes_dim, CONFIG.rope_theta))
    stream = (image, context) if block is DoubleBlock else jnp.concatenate((context, image), 1)
    params = random_params(block(CONFIG), 3, stream, shared)
    out, _ = jax.jit(block(CONFIG).apply)({"params": params}, stream, shared)
    single = [np.asarray(x[0], np.float64) for x in jax.tree.leaves(stream)]
    reference = partial(
        dit_reference.double_block if block is DoubleBlock else dit_reference.single_block,
        CONFIG,
        params,
    )
    expected = reference(*single, np.asarray(embedding[0], np.float64), np.asarray(ids[0]))
    for ours, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=2e-5, atol=2e-5)


def test_sinusoidal_embedding_closed_form():
    values = np.asarray([0.0, 0.125, 0.5, 1.0, 3.5], np.float32)
    expected = np.stack([dit_reference.sinusoids(float(v)) for v in values])
    out = sinusoidal_embedding(jnp.asarray(values))
    assert out.shape == (5, 256)
    # Angles up to 3500 are products of float32 numbers, right to 2⁻²³ of their size.
    np.testing.assert_allclose(out, expected, atol=3500 * 2.0**-23)
    np.testing.assert_array_equal(out[0], [1.0] * 128 + [0.0] * 128)


@partial(jax.jit, static_argnums=0)
def loss_and_gradient(config, params):
    def loss(params):
        return jnp.mean(jnp.square(network(config, params, *inputs())))

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    "change",
    [
        {"scan_blocks": False},
        {"remat": "full"},
        # `make test`: the two above, and the test of the schedule for all six.
        pytest.param({"remat": "dots"}, marks=pytest.mark.long),
        pytest.param({"remat": "full", "scan_blocks": False}, marks=pytest.mark.long),
    ],
)
def test_scan_and_remat_change_nothing_but_the_schedule(params, change):
    loss, gradient = loss_and_gradient(CONFIG, params)
    other_loss, other_gradient = loss_and_gradient(replace(CONFIG, **change), params)
    np.testing.assert_allclose(other_loss, loss, rtol=2e-6)
    assert jax.tree.structure(gradient) == jax.tree.structure(other_gradient)
    for ours, theirs in zip(
        jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True
    ):
        scale = np.abs(theirs).max()
        assert scale > 0
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale)


def count_primitives(jaxpr, counts):
    for equation in jaxpr.eqns:
        counts[equation.primitive.name] = counts.get(equation.primitive.name, 0) + 1
        if "prevent_cse" in equation.params:
            counts.setdefault("barriers", []).append(equation.params["prevent_cse"])
        if equation.primitive.name == "scan":
            counts.setdefault("unrolls", []).append(
                (equation.params["length"], equation.params["unroll"])
            )
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                count_primitives(inner, counts)
    return counts


@pytest.mark.parametrize("scan_blocks", [True, False])
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_the_schedule_is_the_one_asked_for(params, scan_blocks, remat):
    config = replace(CONFIG, scan_blocks=scan_blocks, remat=remat)
    positional, named = inputs()
    traced = jax.make_jaxpr(DiT(config).apply)({"params": params}, *positional, **named)
    counts = count_primitives(traced.jaxpr, {})
    assert counts["unrolls"] == ([(2, 1), (3, 1)] if scan_blocks else [(2, 2), (3, 3)])
    # One checkpoint a kind of block, behind a barrier only where no loop keeps passes apart.
    assert counts.get("barriers", []) == ([] if remat == "none" else [not scan_blocks] * 2)


def saved_bytes(config, params):
    positional, named = inputs()

    def out(params):
        return DiT(config).apply({"params": params}, *positional, **named)

    pullback = jax.eval_shape(lambda params: jax.vjp(out, params)[1], params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))


def test_remat_saves_memory(params):
    none, dots, full = (
        saved_bytes(replace(CONFIG, remat=remat), params) for remat in ("none", "dots", "full")
    )
    assert full < dots < none


def test_bfloat16_keeps_the_types_of_parameters_and_output(params):
    config = replace(CONFIG, compute_dtype="bfloat16")
    positional, named = inputs()
    init = jax.eval_shape(partial(DiT(config).init, jax.random.key(0)), *positional, **named)
    assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {np.dtype(np.float32)}
    out = run(config, params)
    assert out.dtype == jnp.float32
    exact = np.asarray(run(CONFIG, params))
    error = np.abs(np.asarray(out) - exact).max() / np.abs(exact).max()
    # Rounded somewhere, but by bfloat16's 2⁻⁸ and not more than a few times over.
    assert 1e-4 < error < 0.05
    gradient = jax.eval_shape(partial(loss_and_gradient, config), params)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}


def test_products_run_in_the_compute_type(params):
    """All products with block parameters are bfloat16; only the last projection is float32."""
    config = replace(CONFIG, compute_dtype="bfloat16")
    positional, named = inputs()
    text = jax.jit(DiT(config).apply).lower({"params": params}, *positional, **named).as_text()
    dots = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    wide = [line for line in dots if "bf16" not in line]
    assert len(dots) > 15
    assert len(wide) == 1
    assert "tensor<24x6xf32>" in wide[0]


def test_the_last_norm_and_projection_are_float32():
    config = replace(CONFIG, compute_dtype="bfloat16")
    keys = jax.random.split(jax.random.key(5), 2)
    image = 3.0 + jax.random.normal(keys[0], (1, 4, 24), jnp.bfloat16)
    embedding = jnp.ones((1, 24), jnp.bfloat16)
    params = nn.unbox(FinalLayer(config).init(jax.random.key(0), image, embedding)["params"])
    params["linear"]["kernel"] = jax.random.normal(keys[1], (24, 6), jnp.float32)
    out = FinalLayer(config).apply({"params": params}, image, embedding)
    normed = dit_reference.layer_norm(np.asarray(image[0], np.float64))
    expected = dit_reference.dense(params["linear"], normed)
    np.testing.assert_allclose(out[0], expected, rtol=1e-5, atol=1e-5)


def fans(name, shape, config):
    """Features coming in and going out; of FLUX's whole matrix where a part of it is stored."""
    c = config.hidden_dim
    if "qkv" in name or "linear1" in name:
        return c, 3 * c + config.mlp_dim * ("linear1" in name)
    if "proj" in name or "linear2" in name:
        return c + config.mlp_dim * ("linear2" in name), c
    return shape[-2:]


def test_start_values():
    config = replace(CONFIG, hidden_dim=240, num_heads=20)
    positional, named = inputs()
    named["hidden_context"] = jnp.zeros((BATCH, NUM_EXTRA, 240), jnp.float32)
    init = jax.jit(partial(DiT(config).init, jax.random.key(4)))
    params = nn.unbox(init(*positional, **named)["params"])
    out = network(config, params, positional, named)
    np.testing.assert_array_equal(out, np.zeros(out.shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, values = jax.tree_util.keystr(path), np.asarray(leaf)
        if "scale" in name:
            np.testing.assert_array_equal(values, np.ones_like(values))
        elif "bias" in name or "mod" in name.lower() or "final_layer" in name:
            np.testing.assert_array_equal(values, np.zeros_like(values))
        elif any(part in name for part in ("time_in", "guidance_in", "vector_in")):
            assert values.std() == pytest.approx(0.02, rel=6 / np.sqrt(values.size))
            assert np.abs(values).max() > 0.02 * np.sqrt(3)
        else:
            bound = np.sqrt(6 / sum(fans(name, values.shape, config)))
            assert np.abs(values).max() <= bound * (1 + 2**-23)
            assert values.std() == pytest.approx(bound / np.sqrt(3), rel=6 / np.sqrt(values.size))


def test_blocks_start_apart():
    positional, named = inputs()
    init = jax.jit(partial(DiT(CONFIG).init, jax.random.key(4)))
    params = nn.unbox(init(*positional, **named)["params"])
    for kernel in (
        params["double_blocks"]["img_mlp"]["in_layer"]["kernel"],
        params["double_blocks"]["txt_mlp"]["in_layer"]["kernel"],
        params["single_blocks"]["linear1_mlp"]["kernel"],
    ):
        assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


def test_flux_dev_has_its_published_number_of_parameters():
    config = DiTConfig.flux_dev()
    array = jax.ShapeDtypeStruct
    shapes = jax.eval_shape(
        partial(DiT(config).init, jax.random.key(0)),
        array((1, 4, 64), jnp.float32),
        array((1, 4, 3), jnp.int32),
        array((1, 2, 4096), jnp.float32),
        array((1, 2, 3), jnp.int32),
        array((1,), jnp.float32),
        pooled=array((1, 768), jnp.float32),
        guidance=array((1,), jnp.float32),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def layer(n_in, n_out):
        return n_in * n_out + n_out

    h, m, d = 3072, 4 * 3072, 128
    stream = layer(h, 6 * h) + layer(h, 3 * h) + 2 * d + layer(h, h) + layer(h, m) + layer(m, h)
    single = layer(h, 3 * h) + layer(h, 3 * h + m) + layer(h + m, h) + 2 * d
    embedders = sum(layer(n, h) + layer(h, h) for n in (256, 256, 768))
    ends = layer(64, h) + layer(4096, h) + layer(h, 2 * h) + layer(h, 64)
    assert 19 * 2 * stream + 38 * single + embedders + ends == 11_901_408_320
    assert count == 11_901_408_320


def test_only_one_kind_of_block(params):
    for change in ({"num_double_blocks": 0}, {"num_single_blocks": 0}):
        config = replace(CONFIG, **change)
        kept = {"double_blocks", "single_blocks"} - {name.removeprefix("num_") for name in change}
        some = {name: value for name, value in params.items() if name[-7:] != "_blocks"}
        some |= {name: params[name] for name in kept}
        assert float(jnp.abs(run(config, some)).max()) > 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pooled", None, "pooled is None; allowed: an array, as pooled_dim is 5"),
        ("guidance", None, "guidance is None; allowed: an array, as guidance_embed is True"),
    ],
)
def test_optional_inputs_fit_the_config(params, name, value, message):
    positional, named = inputs()
    with pytest.raises(InvalidInput, match=message):
        DiT(CONFIG).apply({"params": params}, *positional, **(named | {name: value}))
    plain = replace(CONFIG, context_dim=None)
    with pytest.raises(InvalidInput, match=r"context_tokens is an array \(2, 3, 7\); allowed: no"):
        DiT(plain).apply({"params": params}, *positional, **named)
    empty = (*positional[:2], None, positional[3][:, :0], positional[4])
    with pytest.raises(InvalidInput, match="context is empty"):
        DiT(plain).apply({"params": params}, *empty, **(named | {"hidden_context": None}))
