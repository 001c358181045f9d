from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import autoencoder
from bokeh_jax.models.autoencoder_blocks import attention_in_chunks
from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.models.autoencoder_tiles import decode_tiled, encode_tiled

SMALL = AutoencoderConfig(
    block_out_channels=(8, 16),
    latent_channels=4,
    norm_num_groups=4,
    scaling_factor=0.7,
    shift_factor=0.3,
    compute_dtype="float32",
)
KEYS = jax.random.split(jax.random.key(7), 3)
IMAGES = jax.random.uniform(jax.random.key(1), (3, 8, 12, 3), jnp.float32, -1.0, 1.0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(partial(autoencoder.init_params, SMALL))(jax.random.key(0))


def shapes_of(config):
    return jax.eval_shape(partial(autoencoder.init_params, config), jax.random.key(0))


def test_flux_has_as_many_parameters_as_published():
    leaves = jax.tree.leaves(shapes_of(AutoencoderConfig.flux()))
    assert sum(leaf.size for leaf in leaves) == 83_819_683
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    assert AutoencoderConfig.flux().downsampling == 8


def test_every_example_has_its_own_key_and_nothing_of_the_others(params):
    encode = jax.jit(partial(autoencoder.encode, SMALL))
    together = encode(params, IMAGES, KEYS)
    swapped = encode(params, IMAGES[::-1], KEYS[::-1])
    np.testing.assert_allclose(together, swapped[::-1], rtol=0, atol=1e-5)
    # Samples differ from the mode by σ ε, with ε of the example's key.
    mean, log_variance = jax.jit(partial(autoencoder.encode_moments, SMALL))(params, IMAGES)
    noise = jnp.stack([jax.random.normal(key, mean.shape[1:]) for key in KEYS])
    expected = 0.7 * (mean + jnp.exp(log_variance / 2) * noise - 0.3)
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5)


def test_low_precision_is_inside_only(params):
    """bfloat16 between float32 ends; off by rounding."""
    low = replace(SMALL, compute_dtype="bfloat16")

    def both(config):
        latents = autoencoder.encode(config, params, IMAGES, None)
        return latents, autoencoder.decode(config, params, latents)

    for exact, rounded in zip(
        jax.jit(partial(both, SMALL))(), jax.jit(partial(both, low))(), strict=True
    ):
        assert rounded.dtype == jnp.float32
        assert rounded.shape == exact.shape
        error = float(jnp.sqrt(jnp.mean((rounded - exact) ** 2)) / jnp.std(exact))
        assert 1e-4 < error < 0.03


def test_all_parameters_are_whole_on_every_device():
    axes = autoencoder.parameter_axes(SMALL)
    assert jax.tree.structure(axes) == jax.tree.structure(shapes_of(SMALL))
    assert set(jax.tree.leaves(axes)) == {PartitionSpec()}


def test_examples_stay_where_they_are(params):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh), nn.logical_axis_rules([("batch", "data")]):
        encoded = str(jax.make_jaxpr(partial(autoencoder.encode, SMALL))(params, IMAGES, None))
        latents = jnp.zeros((3, 4, 6, 4), jnp.float32)
        decoded = str(jax.make_jaxpr(partial(autoencoder.decode, SMALL))(params, latents))
    for program in (encoded, decoded):
        assert program.count("sharding_constraint[") == 2
        assert program.count("spec=P('data', None, None, None)") == 2


@pytest.mark.parametrize("gradient", [False, True])
def test_attention_holds_one_chunk_of_logits(gradient):
    """Forward and backward; `test_autoencoder_parity` sees to the numbers."""
    tokens = jax.ShapeDtypeStruct((1, 2048, 1, 4), jnp.float32)

    def temporary_bytes(chunk_tokens):
        def function(query, key, value):
            return jnp.sum(attention_in_chunks(query, key, value, chunk_tokens) ** 2)

        function = jax.grad(function, argnums=(0, 1, 2)) if gradient else function
        compiled = jax.jit(function).lower(tokens, tokens, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * 2048**2
    assert temporary_bytes(2048) >= logits
    assert temporary_bytes(128) < logits / 3


def test_rematerialisation_is_by_residual_block(params):
    """Middle 2, encoder 2 x 1, decoder 2 x 2."""
    config = replace(SMALL, remat="full")
    for way, blocks in ((autoencoder.raw_moments, 4), (autoencoder.decode_unscaled, 6)):
        inputs = IMAGES if blocks == 4 else jnp.zeros((1, 4, 6, 4), jnp.float32)
        program = str(jax.make_jaxpr(partial(way, config))(params, inputs))
        assert program.count("prevent_cse") == blocks
        assert "prevent_cse" not in str(jax.make_jaxpr(partial(way, SMALL))(params, inputs))


def test_tiles_of_one_shape_are_compiled_once(params):
    """So many tiles, but only four shapes; an image of one tile is decoded whole."""

    def convolutions(rows, columns):
        latents = jnp.zeros((1, rows, columns, 4), jnp.float32)
        decode = partial(decode_tiled, SMALL, tile_px=16)
        return str(jax.make_jaxpr(decode)(params, latents)).count("conv_general_dilated")

    whole = convolutions(8, 8)
    plain = str(jax.make_jaxpr(partial(autoencoder.decode, SMALL))(params, jnp.zeros((1, 8, 8, 4))))
    assert whole == plain.count("conv_general_dilated") > 0
    assert convolutions(18, 18) == convolutions(48, 60) == 4 * whole


def test_tiled_encoding_samples_the_blended_moments(params):
    """With tiles as large as the image it is the plain encoder, keys and all."""
    ours = jax.jit(partial(encode_tiled, SMALL, tile_px=16))(params, IMAGES, KEYS)
    np.testing.assert_array_equal(
        ours, jax.jit(partial(autoencoder.encode, SMALL))(params, IMAGES, KEYS)
    )
    mode = jax.jit(lambda p, x: encode_tiled(SMALL, p, x, None, tile_px=8))(params, IMAGES)
    sample = jax.jit(partial(encode_tiled, SMALL, tile_px=8))(params, IMAGES, KEYS)
    assert mode.shape == sample.shape == (3, 4, 6, 4)
    assert float(jnp.std(mode - sample)) > 0.1


@pytest.mark.parametrize(
    ("tile_px", "overlap", "message"),
    [
        (0, 0.25, "tile_px is 0; allowed: positive multiples of .* 2 px"),
        (9, 0.25, "tile_px is 9; allowed: positive multiples of .* 2 px"),
        (8, 1.0, "overlap is 1.0, 4.0 of a tile's 4 latent pixels; allowed: 0 or more, less"),
        (8, -0.25, "overlap is -0.25, -1.0 of a tile's 4 latent pixels; allowed: 0 or more"),
        (12, 0.25, "overlap is 0.25, 1.5 of a tile's 6 latent pixels; .* a whole number"),
    ],
)
def test_bad_tiles_are_named(params, tile_px, overlap, message):
    latents = jnp.zeros((1, 8, 8, 4), jnp.float32)
    with pytest.raises(InvalidInput, match=message):
        decode_tiled(SMALL, params, latents, tile_px=tile_px, overlap=overlap)
    with pytest.raises(InvalidInput, match=message):
        encode_tiled(SMALL, params, IMAGES, None, tile_px=tile_px, overlap=overlap)


@pytest.mark.parametrize("encode", [autoencoder.encode, partial(encode_tiled, tile_px=8)])
@pytest.mark.parametrize("size", [(9, 12), (8, 13), (0, 8)])
def test_sizes_that_do_not_divide_are_refused(params, encode, size):
    images = jnp.zeros((1, *size, 3), jnp.float32)
    with pytest.raises(InvalidInput, match=rf"{size[0]} x {size[1]} px; allowed: .* 2 px"):
        encode(SMALL, params, images, None)


def test_wrong_channels_are_refused(params):
    with pytest.raises(InvalidInput, match="images have 1 channels; allowed: in_channels, 3"):
        autoencoder.encode_moments(SMALL, params, IMAGES[..., :1])
    with pytest.raises(InvalidInput, match="latents have 3 channels; allowed: latent_channels, 4"):
        autoencoder.decode(SMALL, params, IMAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels is 0; allowed: 1 or more"),
        ({"out_channels": 0}, "out_channels is 0; allowed: 1 or more"),
        ({"layers_per_block": 0}, "layers_per_block is 0; allowed: 1 or more"),
        ({"latent_channels": 0}, "latent_channels is 0; allowed: 1 or more"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0; allowed: 1 or more"),
        ({"attention_chunk_tokens": 0}, "attention_chunk_tokens is 0; allowed: 1 or more"),
        ({"block_out_channels": ()}, r"block_out_channels is \(\); allowed: one or more"),
        ({"block_out_channels": (16, 0)}, r"\(16, 0\); allowed: one or more positive"),
        ({"block_out_channels": (16, 40)}, r"\(16, 40\); .* multiples of norm_num_groups 16"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0.0; allowed: more than 0"),
        ({"scaling_factor": float("inf")}, "scaling_factor is inf; allowed: more than 0"),
        ({"shift_factor": float("nan")}, "shift_factor is nan; allowed: finite numbers"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(InvalidInput, match=message):
        AutoencoderConfig(**change)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("compute_dtype", "compute_dtype is 'odd'; allowed: bfloat16, float32"),
        ("remat", "remat is 'odd'; allowed: none, full"),
    ],
)
def test_unknown_names_are_named(field, message):
    # Past the type hook, which refuses the name first.
    config = object.__new__(AutoencoderConfig)
    for name, value in (vars(AutoencoderConfig()) | {field: "odd"}).items():
        object.__setattr__(config, name, value)
    with pytest.raises(InvalidInput, match=message):
        config.__post_init__()
