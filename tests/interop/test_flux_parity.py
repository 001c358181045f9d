"""FLUX's transformer of diffusers and ours: the same numbers from the same folders."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from flax import linen as nn
from flux_peer import SMALL, Inputs, gradients_of, random_model

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.flux_names import diffusers_config, dit_config_from_diffusers, flux_map
from bokeh_jax.interop.reading import load_parameters
from bokeh_jax.interop.tensor_files import open_tensor_files, read_config
from bokeh_jax.interop.weight_map import leaf_shapes, leaves_of, tensor_shapes
from bokeh_jax.interop.writing import write_tensors
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import DiT, DiTConfig

FILL = {"in_channels": 20, "out_channels": 8}
NARROW = {"num_attention_heads": 2, "attention_head_dim": 12, "axes_dims_rope": (2, 4, 6)}
# Model, streams of image tokens, tokens of text, files.
CASES = {
    "dev": ({}, [(0, 3, 5)], 5, 1),
    "schnell": ({"guidance_embeds": False, "num_layers": 1} | NARROW, [(0, 7, 2)], 3, 3),
    "fill": (FILL, [(0, 2, 9)], 4, 2),
    "kontext": ({}, [(0, 3, 4), (1, 2, 7)], 6, 1),
    "no text": ({}, [(0, 4, 3)], 0, 1),
}


def imported(folder: Path) -> tuple[DiTConfig, dict]:
    """Config and parameters of a folder of diffusers."""
    config = dit_config_from_diffusers(read_config(folder))
    config = dataclasses.replace(config, compute_dtype="float32")
    table = flux_map(config)
    abstract = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaf_shapes(table).items()
    }
    params, match = load_parameters(open_tensor_files(folder), table, tree_by_name(abstract))
    assert not match.only_here
    assert not match.only_there
    return config, params


# `make test`: the case with most in it (guidance, text, other channels out than in, several files);
# here and in the gradients below, whose tokens are of two images.
@pytest.mark.parametrize(
    "case",
    [name if name == "fill" else pytest.param(name, marks=pytest.mark.long) for name in CASES],
)
def test_outputs_are_those_of_diffusers(case, tmp_path):
    changes, grids, num_text, num_files = CASES[case]
    model = random_model(**changes)
    size = sum(value.numel() for value in model.parameters()) * 4
    # Cut by size: no tensor may be larger than a file.
    limit = "10GB" if num_files == 1 else f"{math.ceil(1.1 * size / num_files / 1000)}KB"
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) == num_files
    inputs = Inputs.random(model, grids, num_text)
    with torch.no_grad():
        expected = inputs.call(model).numpy()
    config, params = imported(tmp_path / "theirs")
    positional, named = inputs.ours()
    apply = jax.jit(DiT(config).apply)
    found = np.asarray(apply({"params": params}, *positional, **named))
    assert 0.3 < expected.std() < 3
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)

    write_tensors(
        tmp_path / "ours",
        flux_map(config),
        params,
        diffusers_config(config),
        max_shard_bytes=size if num_files == 1 else size // num_files,
    )
    again = FluxTransformer2DModel.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        np.testing.assert_array_equal(inputs.call(again.eval()).numpy(), expected)
    _, back = imported(tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    if changes.get("out_channels"):
        theirs = json.loads((tmp_path / "theirs" / "config.json").read_text())
        assert json.loads((tmp_path / "ours" / "config.json").read_text()) == theirs


def test_gradients_are_those_of_torch(tmp_path):
    model = random_model(**FILL)
    inputs = Inputs.random(model, [(0, 3, 4), (1, 2, 3)])
    wanted = ("hidden_states", "encoder_hidden_states", "pooled_projections")
    for name in wanted:
        inputs.tensors[name].requires_grad_()
    output = inputs.call(model)
    weights = torch.randn_like(output)
    torch.sum(weights * output).backward()
    model.save_pretrained(tmp_path)
    config, params = imported(tmp_path)
    (tokens, ids, text, text_ids, time), named = inputs.ours()

    def loss(params, tokens, text, pooled):
        named["pooled"] = pooled
        found = DiT(config).apply({"params": params}, tokens, ids, text, text_ids, time, **named)
        return jnp.sum(weights.numpy() * found)

    of_params, *of_inputs = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(
        params, tokens, text, named["pooled"]
    )
    expected = leaves_of(flux_map(config), dict(gradients_of(model)))
    found = leaves_by_name(of_params)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        largest = np.abs(value).max()
        assert largest > 1e-3, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * largest, err_msg=name)
    for name, value in zip(wanted, of_inputs, strict=True):
        theirs = inputs.tensors[name].grad.numpy()
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(value, theirs, rtol=0, atol=1e-4 * largest, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "num_params"),
    [
        ({"guidance_embeds": True}, 11_901_408_320),
        ({}, 11_891_178_560),
        ({"guidance_embeds": True, "in_channels": 384, "out_channels": 64}, 11_902_391_360),
    ],
    ids=["dev", "schnell", "fill"],
)
def test_every_tensor_of_the_real_models_has_a_place(fields, num_params):
    with torch.device("meta"):
        model = FluxTransformer2DModel(**fields)
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # What the released config.json files hold: no fields but those, and no axes.
    config = dit_config_from_diffusers(
        fields | {"_class_name": "FluxTransformer2DModel", "_name_or_path": "x", "patch_size": 1}
    )
    table = flux_map(config)
    assert tensor_shapes(table) == theirs
    shapes = leaf_shapes(table)
    assert sum(map(math.prod, shapes.values())) == num_params
    if fields == {"guidance_embeds": True}:
        assert dataclasses.replace(config, remat="full") == DiTConfig.flux_dev()
    ids = jax.ShapeDtypeStruct((1, 1, 3), jnp.int32)
    given = [(1, 1, config.in_channels), ids, (1, 1, 4096), ids, (1,)]
    named = {"pooled": (1, 768)} | ({"guidance": (1,)} if config.guidance_embed else {})
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x,
        (given, named),
        is_leaf=lambda x: isinstance(x, tuple) and not isinstance(x[0], list),
    )
    init = jax.eval_shape(DiT(config).init, jax.random.key(0), *abstract[0], **abstract[1])
    ours = leaves_by_name(nn.unbox(init["params"]))
    assert {name: leaf.shape for name, leaf in ours.items()} == shapes


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "_class_name of config.json is 'SD3"),
        ({"_class_name": None}, "_class_name of config.json is None; allowed: 'FluxTr"),
        ({"patch_size": 2}, "patch_size of config.json is 2; allowed: 1"),
        ({"num_layers": -1}, "num_layers of config.json is -1; allowed: a whole number, 0"),
        ({"in_channels": "64"}, "in_channels of config.json is '64'; allowed: a whole"),
        ({"out_channels": 6.5}, "out_channels of config.json is 6.5; allowed: a whole"),
        ({"guidance_embeds": 1}, "guidance_embeds of config.json is 1; allowed: true or"),
        ({"axes_dims_rope": [8, 8]}, r"axes_dims_rope of config.json is \[8, 8\]; allowed: three"),
        ({"axes_dims_rope": [4, 4, 4]}, r"axes_dims_rope of .*attention_head_dim 16"),
        ({"axes_dims_rope": [3, 5, 8]}, r"axes_dims_rope of .* even numbers"),
        ({"quantization_config": {}}, "quantization_config of config.json is {}; allowed: no"),
    ],
)
def test_variants_that_are_not_known_are_refused(change, named):
    fields = SMALL | {"_class_name": "FluxTransformer2DModel"} | change
    with pytest.raises(InvalidInput, match=named):
        dit_config_from_diffusers(fields)


@pytest.mark.parametrize(
    "change",
    [{"context_dim": None}, {"pooled_dim": None}, {"mlp_ratio": 3.0}, {"rope_theta": 100.0}],
)
def test_what_diffusers_cannot_say_is_refused(change):
    config = dataclasses.replace(DiTConfig.flux_dev(), **change)
    (name,) = change
    with pytest.raises(InvalidInput, match=f"{name} is {change[name]}; allowed: .* as Flux"):
        flux_map(config)
    with pytest.raises(InvalidInput, match=name):
        diffusers_config(config)
