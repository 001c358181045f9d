"""Stored latents: the loss that the same photographs would give, with other things withheld."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from random_trees import drawn

from bokeh_jax import models
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import AutoencoderConfig, CodecConfig, RefocusConfig
from bokeh_jax.models.autoencoder import init_params as init_autoencoder
from bokeh_jax.models.codec import CODEC
from bokeh_jax.objectives import ObjectiveConfig, make_latents, refocus_loss
from bokeh_jax.simulation import CameraConfig, DepthNoiseConfig, SimulationConfig
from data_pipeline.layered import LayeredSource

CELLS = CodecConfig(
    "autoencoder",
    autoencoder=AutoencoderConfig(
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        compute_dtype="float32",
    ),
)
MODEL = RefocusConfig(
    image_channels=4,
    patch_size=2,
    hidden_dim=16,
    num_heads=1,
    num_double_blocks=1,
    num_single_blocks=1,
    rope_axes_dim=(4, 6, 6),
    compute_dtype="float32",
    scan_blocks=False,
)
SIMULATION = SimulationConfig(
    size_px=16, cameras=CameraConfig(blur_fraction_min=0.08, blur_fraction_max=0.12)
)
OBJECTIVE = ObjectiveConfig(
    depth_dropout_rate=0.4,
    camera_dropout_rate=0.4,
    reference_camera_dropout_rate=0.5,
    depth_noise=DepthNoiseConfig(rate=1.0, scale=0.5, shift=0.3),
)


@pytest.fixture(scope="module")
def setting():
    """(params, scene batch, keys, stored latents); every weight random."""
    source = LayeredSource(size_px=24, seed=1, max_layers=2)
    scenes = [source.scene("train", index) for index in range(3)]
    batch = {
        name: np.stack([getattr(scene, name) for scene in scenes])
        for name in ("layers", "layer_disparity", "layer_gain")
    }
    shapes = jax.eval_shape(
        lambda key: (
            models.init_params(MODEL, key, 8, 8) | {CODEC: init_autoencoder(CELLS.autoencoder, key)}
        ),
        jax.random.key(0),
    )
    params = drawn(shapes, seed=0, scale=0.2)
    keys = jax.random.split(jax.random.key(2), 3)
    settings = {"simulation": SIMULATION, "objective": OBJECTIVE, "codec": CELLS}
    make = jax.jit(lambda p, b, k: make_latents(p, b, k, **settings))
    return params, batch, keys, make(params, batch, keys)


@functools.partial(jax.jit, static_argnums=0)
def loss_parts(objective, params, batch, keys):
    settings = {"model": MODEL, "simulation": SIMULATION, "objective": objective, "codec": CELLS}
    return refocus_loss(params, batch, keys, **settings)[1]


def loss_of(setting, objective, *, stored):
    params, batch, keys, latents = setting
    return jax.device_get(loss_parts(objective, params, latents if stored else batch, keys))


def test_what_is_stored(setting):
    latents = setting[3]
    assert {name: (str(v.dtype), v.shape) for name, v in latents.items()} == {
        "reference": ("float16", (3, 8, 8, 4)),
        "targets": ("float16", (3, 2, 8, 8, 4)),
        "multi": ("float16", (3, 8, 8, 4)),
        "guess": ("float16", (3, 2, 2, 8, 8, 4)),
        "weights": ("float16", (3, 2, 8, 8)),
        "target_defocus": ("float16", (3, 2, 8, 8)),
        "reference_defocus": ("float16", (3, 8, 8)),
        "cameras": ("float32", (3, 2, 4)),
    }
    guess = np.asarray(latents["guess"], np.float32)
    # Of a reference whose camera is unknown, and known: two pictures, unless it is all in focus.
    assert np.any(guess[:, 0] != guess[:, 1])
    np.testing.assert_allclose(
        np.asarray(latents["weights"], np.float32).sum(axis=1), 1.0, atol=2e-3
    )


@pytest.mark.parametrize(
    "space", ["latents", pytest.param("blended_latents", marks=pytest.mark.long)]
)
def test_the_loss_is_that_of_the_same_photographs(setting, space):
    """Same keys: what is withheld, times and noise are the same, and so are the photographs."""
    objective = dataclasses.replace(OBJECTIVE, stack_space=space)
    stored = loss_of(setting, objective, stored=True)
    for name, value in loss_of(setting, objective, stored=False).items():
        # Stored values have 11 bits.
        np.testing.assert_allclose(stored[name], value, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"depth_dropout_rate": 1.0}, marks=pytest.mark.long),
        {"camera_dropout_rate": 1.0},
        {"reference_camera_dropout_rate": 0.0},
        pytest.param({"guide": False}, marks=pytest.mark.long),
    ],
)
def test_what_is_withheld_is_drawn_in_training(setting, change):
    at_build = loss_of(setting, OBJECTIVE, stored=True)
    changed = loss_of(setting, dataclasses.replace(OBJECTIVE, **change), stored=True)
    assert changed["guess_psnr_db"] != at_build["guess_psnr_db"]


def test_pixels_are_refused(setting):
    with pytest.raises(InvalidInput, match="stack_space is 'pixels'; allowed with stored latents"):
        loss_of(setting, dataclasses.replace(OBJECTIVE, stack_space="pixels"), stored=True)
