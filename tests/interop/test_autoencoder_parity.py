"""The autoencoder beside diffusers', every weight random, float32."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.autoencoder_names import (
    autoencoder_map,
    config_from_diffusers,
    config_to_diffusers,
)
from bokeh_jax.models import autoencoder
from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.models.autoencoder_tiles import decode_tiled, raw_moments_tiled

# As FLUX's in miniature, and as Stable Diffusion's: three levels, quant convolutions.
FLUX_LIKE = AutoencoderConfig(
    block_out_channels=(8, 12, 16, 16),
    layers_per_block=2,
    latent_channels=6,
    norm_num_groups=4,
    scaling_factor=0.3611,
    shift_factor=0.1159,
    # 7 x 3 latents are whole chunks of queries and a rest.
    attention_chunk_tokens=8,
    compute_dtype="float32",
)
SD_LIKE = AutoencoderConfig(
    block_out_channels=(8, 8, 24),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=2,
    scaling_factor=0.18215,
    use_quant_conv=True,
    use_post_quant_conv=True,
    compute_dtype="float32",
)
NO_ATTENTION = AutoencoderConfig(
    in_channels=1,
    out_channels=2,
    block_out_channels=(6, 9),
    latent_channels=3,
    norm_num_groups=3,
    use_quant_conv=True,
    mid_block_add_attention=False,
    compute_dtype="float32",
)
# Tiles are many shapes, each of which is compiled: few layers.
TWO_LEVELS = AutoencoderConfig(
    block_out_channels=(4, 8),
    latent_channels=3,
    norm_num_groups=2,
    scaling_factor=0.5,
    use_quant_conv=True,
    use_post_quant_conv=True,
    mid_block_add_attention=False,
    compute_dtype="float32",
)
CASES = {
    "flux": (FLUX_LIKE, (2, 24, 56)),
    "sd": (SD_LIKE, (1, 20, 12)),
    "no attention": (NO_ATTENTION, (3, 6, 10)),
}
TOLERANCE = 1e-4


@dataclass
class Case:
    config: AutoencoderConfig
    theirs: Any
    params: dict[str, Any]
    images: np.ndarray


def random_model(config: AutoencoderConfig) -> Any:
    """Theirs, with every weight drawn: unit order in, unit order out."""
    model = diffusers.AutoencoderKL(**without_private(config_to_diffusers(config))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(drawn / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.2 * drawn + float("norm" in name and name.endswith("weight")))
    return model


def without_private(fields):
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def imported(config: AutoencoderConfig, tensors) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, (part,) in autoencoder_map(config, tensors).items():
        *levels, leaf = name.split("/")
        place = params
        for level in levels:
            place = place.setdefault(level, {})
        place[leaf] = jnp.asarray(part.to_leaf(tensors[part.tensor].numpy()))
    return params


# `make test`: FLUX's. What the others lack or have more of is in the tests of names and configs.
@pytest.fixture(
    scope="module",
    params=[
        name if name == "flux" else pytest.param(name, marks=pytest.mark.long) for name in CASES
    ],
)
def case(request) -> Case:
    config, (batch, height, width) = CASES[request.param]
    theirs = random_model(config)
    images = np.random.default_rng(1).uniform(-1, 1, (batch, height, width, config.in_channels))
    return Case(config, theirs, imported(config, theirs.state_dict()), images.astype(np.float32))


def nchw(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array).transpose(0, 3, 1, 2))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_same(ours, theirs: torch.Tensor, tolerance=TOLERANCE):
    expected = nhwc(theirs)
    assert ours.dtype == jnp.float32
    assert 0.2 < np.std(expected) < 5, "not of unit order: the tolerance would mean something else"
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=tolerance)


def test_encode_and_decode(case: Case):
    """Moments, mode, sample and decoded image of one model."""
    config = case.config
    with torch.no_grad():
        posterior = case.theirs.encode(nchw(case.images)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
        sample = posterior.sample(generator=torch.Generator().manual_seed(3))
        decoded = case.theirs.decode(sample).sample
    fields = case.theirs.config
    scaled_sample, scaled_mode = (
        (z - (fields.shift_factor or 0.0)) * fields.scaling_factor
        for z in (sample, posterior.mode())
    )

    @jax.jit
    def ours(params, images, latents):
        mean, log_variance = autoencoder.encode_moments(config, params, images)
        mode = autoencoder.encode(config, params, images, None)
        return mean, log_variance, mode, autoencoder.decode(config, params, latents)

    latents = jnp.asarray(nhwc(scaled_sample))
    mean, log_variance, mode, image = ours(case.params, case.images, latents)
    assert_same(mean, posterior.mean)
    assert_same(log_variance, posterior.logvar)
    # Our draws come from keys; with theirs in their place the sample is theirs.
    assert_same(mean + jnp.exp(0.5 * log_variance) * nhwc(noise), sample)
    np.testing.assert_allclose(np.asarray(mode), nhwc(scaled_mode), rtol=0, atol=TOLERANCE)
    assert_same(image, decoded)


def test_extreme_log_variances_are_clipped_as_theirs():
    moments = np.array([-100.0, -30.5, -29.5, 19.5, 20.5, 100.0], np.float32)
    moments = np.stack((np.zeros_like(moments), moments), axis=-1)[None, None]
    theirs = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(nchw(moments))
    _, ours = autoencoder.split_moments(jnp.asarray(moments))
    np.testing.assert_array_equal(np.asarray(ours), nhwc(theirs.logvar))
    assert (np.asarray(ours).min(), np.asarray(ours).max()) == (-30, 20)


def test_gradient_with_respect_to_image_and_parameters():
    """Of a scalar of decode ∘ encode, through the attention's chunks and rematerialised blocks."""
    config, (batch, height, width) = FLUX_LIKE, (1, 16, 24)
    config = AutoencoderConfig(**(vars(config) | {"remat": "full", "attention_chunk_tokens": 4}))
    theirs = random_model(config)
    tensors = theirs.state_dict()
    draw = np.random.default_rng(2)
    images = draw.uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)
    weights = draw.normal(size=images.shape).astype(np.float32)

    def loss(params, images):
        decoded = autoencoder.decode(
            config, params, autoencoder.encode(config, params, images, None)
        )
        return jnp.sum(weights * decoded) / 40

    ours, image_gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        imported(config, tensors), images
    )
    inputs = nchw(images).requires_grad_()
    mode = theirs.encode(inputs).latent_dist.mode()
    (torch.sum(nchw(weights) * theirs.decode(mode).sample) / 40).backward()
    assert inputs.grad is not None
    np.testing.assert_allclose(
        np.asarray(image_gradient), nhwc(inputs.grad), rtol=0, atol=TOLERANCE
    )
    assert np.std(np.asarray(image_gradient)) > 0.01
    gradients = {name: tensor.grad for name, tensor in theirs.named_parameters()}
    flat = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(ours)
    }
    for name, (part,) in autoencoder_map(config).items():
        gradient = gradients[part.tensor]
        if gradient is None:  # The log variances' half of conv_out is there, but not for the mode.
            continue
        expected = part.to_leaf(gradient.numpy())
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(
            np.asarray(flat[name]), expected, rtol=0, atol=TOLERANCE * scale, err_msg=name
        )


def tiled(config: AutoencoderConfig, tile_px: int) -> tuple[Any, dict[str, Any]]:
    theirs = random_model(config)
    theirs.enable_tiling()
    theirs.tile_sample_min_size = tile_px
    theirs.tile_latent_min_size = tile_px // config.downsampling
    return theirs, imported(config, theirs.state_dict())


def test_tiled_decoding():
    """Whole tiles, tiles cut off, and tiles of the overlap alone, with corners of four."""
    theirs, params = tiled(TWO_LEVELS, 16)
    # In latent pixels: distance 6; rows 0, 6, 12 with 4 in the last, columns with 2.
    latents = np.random.default_rng(4).normal(size=(2, 16, 14, 3)).astype(np.float32)
    with torch.no_grad():
        decoded = theirs.decode(nchw(latents)).sample
    ours = jax.jit(partial(decode_tiled, TWO_LEVELS, tile_px=16))
    assert_same(ours(params, jnp.asarray(latents) * TWO_LEVELS.scaling_factor), decoded)


def test_tiled_encoding():
    """The last of three tiles is narrower than the overlap, the one before it is cut off too."""
    theirs, params = tiled(TWO_LEVELS, 16)
    images = np.random.default_rng(5).uniform(-1, 1, (2, 12, 26, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(nchw(images)).latent_dist
    ours = jax.jit(partial(raw_moments_tiled, TWO_LEVELS, tile_px=16))(params, images)
    assert_same(ours, posterior.parameters)


@pytest.mark.parametrize("config", [AutoencoderConfig.flux(), SD_LIKE])
def test_every_tensor_has_its_parameter(config):
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(**without_private(config_to_diffusers(config)))
    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    table = autoencoder_map(config)
    parts = {name: part for name, (part,) in table.items()}
    assert {part.tensor: part.split for part in parts.values()} == tensors
    shapes = jax.eval_shape(lambda key: autoencoder.init_params(config, key), jax.random.key(0))
    assert {name: part.shape for name, part in parts.items()} == {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }


def test_flux_is_what_diffusers_counts():
    config = AutoencoderConfig.flux()
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(**without_private(config_to_diffusers(config)))
    assert sum(tensor.numel() for tensor in model.parameters()) == 83_819_683


def test_older_files_have_other_names_for_attention(tmp_path):
    """The real library reads them; so does the map, to the same parameters."""
    older = {}
    theirs = random_model(SD_LIKE)
    tensors = theirs.state_dict()
    for name, tensor in tensors.items():
        for now, then in (("q", "query"), ("k", "key"), ("v", "value"), ("out.0", "proj_attn")):
            name = name.replace(f"attentions.0.to_{now}.", f"attentions.0.{then}.")
        older[name] = tensor
    assert len(set(older) - set(tensors)) == 16
    theirs.save_config(tmp_path)
    safetensors.torch.save_file(older, tmp_path / "diffusion_pytorch_model.safetensors")
    read = diffusers.AutoencoderKL.from_pretrained(tmp_path).state_dict()
    expected = imported(SD_LIKE, read)
    jax.tree.map(np.testing.assert_array_equal, imported(SD_LIKE, older), expected)


def test_config_files_go_both_ways(tmp_path):
    for config in (AutoencoderConfig.flux(), SD_LIKE, NO_ATTENTION):
        model = diffusers.AutoencoderKL(**without_private(config_to_diffusers(config)))
        model.save_config(tmp_path)
        fields = diffusers.AutoencoderKL.load_config(tmp_path)
        read = config_from_diffusers(fields)
        assert config_to_diffusers(read) == config_to_diffusers(config)
    # What a file leaves out is diffusers' default.
    assert vars(config_from_diffusers({}))["block_out_channels"] == (64,)
    defaults = diffusers.AutoencoderKL().config
    assert config_from_diffusers({}) == config_from_diffusers(defaults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn is 'relu'; allowed: 'silu'"),
        ({"latents_mean": [0.0]}, r"latents_mean is \[0.0\]; allowed: None"),
        ({"latents_std": [1.0]}, r"latents_std is \[1.0\]; allowed: None"),
        ({"_class_name": "AutoencoderDC"}, "_class_name is 'AutoencoderDC'; allowed: 'Auto"),
        (
            {"down_block_types": ["AttnDownEncoderBlock2D"] * 4},
            r"down_block_types is \['AttnDown.*; allowed: DownEncoderBlock2D for each of the 4",
        ),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types is .* each of the 4"),
        ({"batch_norm_eps": 1e-4}, "batch_norm_eps is 0.0001; allowed: the fields of Autoenc"),
        ({"norm_num_groups": 48}, "block_out_channels is .* multiples of norm_num_groups 48"),
    ],
)
def test_unsupported_configs_are_refused_by_field(change, message):
    fields = config_to_diffusers(AutoencoderConfig.flux())
    with pytest.raises(InvalidInput, match=message):
        config_from_diffusers(fields | change)
