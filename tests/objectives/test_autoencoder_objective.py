from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import autoencoder
from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.objectives.autoencoder import (
    AutoencoderObjectiveConfig,
    autoencoder_loss,
    edge_loss,
    kl_divergence,
    latent_scale,
)

SMALL = AutoencoderConfig(
    block_out_channels=(8, 16),
    latent_channels=4,
    norm_num_groups=4,
    mid_block_add_attention=False,
    compute_dtype="float32",
    scaling_factor=0.7,
    shift_factor=0.3,
)
KEYS = jax.random.split(jax.random.key(3), 2)


def edges(batch=2, side=16) -> jax.Array:
    """Images of random rectangles."""
    draw = np.random.default_rng(0)
    images = np.zeros((batch, side, side, 3), np.float32)
    for image in images:
        for _ in range(4):
            (top, left), (height, width) = draw.integers(0, side - 4, 2), draw.integers(3, side, 2)
            image[top : top + height, left : left + width] = draw.uniform(-1, 1, 3)
    return jnp.asarray(images)


def test_kl_is_the_integral_of_its_definition():
    x = np.linspace(-40.0, 40.0, 400_001)
    for mean, log_variance in ((0.0, 0.0), (1.5, -1.0), (-0.3, 2.0)):
        std = np.exp(0.5 * log_variance)
        log_p = -0.5 * ((x - mean) / std) ** 2 - np.log(std)
        log_q = -0.5 * x**2
        p = np.exp(log_p) / np.sqrt(2 * np.pi)
        expected = np.sum(p * (log_p - log_q)) * (x[1] - x[0])
        ours = kl_divergence(jnp.float32(mean), jnp.float32(log_variance))
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_edge_term_of_a_step_by_hand():
    # One column of ones in 4 x 4: differences along rows are 0, along columns 1, -1 at its sides.
    error = np.zeros((1, 4, 4, 1), np.float32)
    error[:, :, 1] = 1.0
    finest = 2 * 4 / 12
    np.testing.assert_allclose(edge_loss(jnp.asarray(error), 1), finest / 2, rtol=1e-6)
    # Averaged: [0.5, 0] in both rows.
    np.testing.assert_allclose(edge_loss(jnp.asarray(error), 2), (finest + 0.5) / 4, rtol=1e-6)
    with pytest.raises(InvalidInput, match=r"4 x 4 px; allowed: 8 px or more, as edge_scales is 3"):
        edge_loss(jnp.asarray(error), 3)


def test_edge_term_tells_a_soft_edge_from_an_even_error():
    sharp = np.where(np.arange(32) < 16, -1.0, 1.0).astype(np.float32)
    soft = np.convolve(np.pad(sharp, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    error = np.broadcast_to((soft - sharp)[None, None, :, None], (1, 32, 32, 3)).astype(np.float32)
    even = np.full_like(error, np.mean(np.abs(error)))
    np.testing.assert_allclose(np.mean(np.abs(error)), np.mean(np.abs(even)), rtol=1e-5)
    assert edge_loss(jnp.asarray(error), 3) > 0.01 + edge_loss(jnp.asarray(even), 3)


def test_loss_is_the_sum_of_what_it_reports():
    params = jax.jit(partial(autoencoder.init_params, SMALL))(jax.random.key(0))
    images = edges()
    weights = AutoencoderObjectiveConfig(kl_weight=0.3, edge_weight=0.2, edge_scales=2)
    loss, parts = jax.jit(partial(autoencoder_loss, model=SMALL, objective=weights))(
        params, images, KEYS
    )
    mean, log_variance = autoencoder.encode_moments(SMALL, params, images)
    noise = jnp.stack([jax.random.normal(key, mean.shape[1:]) for key in KEYS])
    z = mean + jnp.exp(0.5 * log_variance) * noise
    error = autoencoder.decode_unscaled(SMALL, params, z) - images
    expected = {
        "reconstruction_loss": jnp.mean(jnp.abs(error)),
        "kl_loss": jnp.sum(kl_divergence(mean, log_variance)) / (2 * 16 * 16 * 3),
        "edge_loss": edge_loss(error, 2),
        "reconstruction_psnr_db": -10 * jnp.log10(jnp.mean(error**2) / 4),
        "latent_mean": jnp.mean(z),
        "latent_std": jnp.std(z),
        "posterior_std": jnp.mean(jnp.exp(0.5 * log_variance)),
    }
    expected["loss"] = (
        expected["reconstruction_loss"] + 0.3 * expected["kl_loss"] + 0.2 * expected["edge_loss"]
    )
    assert set(parts) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=2e-5, err_msg=name)
    assert loss == parts["loss"]


def test_squared_error_without_edges():
    params = jax.jit(partial(autoencoder.init_params, SMALL))(jax.random.key(0))
    objective = AutoencoderObjectiveConfig(reconstruction="squared", kl_weight=0.0, edge_weight=0.0)
    loss, parts = jax.jit(partial(autoencoder_loss, model=SMALL, objective=objective))(
        params, edges(), KEYS
    )
    assert "edge_loss" not in parts
    np.testing.assert_allclose(10 * jnp.log10(4 / loss), parts["reconstruction_psnr_db"], rtol=1e-5)


def test_measured_scale_makes_latents_of_unit_order():
    params = jax.jit(partial(autoencoder.init_params, SMALL))(jax.random.key(1))
    images = edges()
    scale, shift = jax.jit(partial(latent_scale, model=SMALL))(params, images, KEYS)
    measured = AutoencoderConfig(
        **(vars(SMALL) | {"scaling_factor": float(scale), "shift_factor": float(shift)})
    )
    latents = jax.jit(partial(autoencoder.encode, measured))(params, images, KEYS)
    assert abs(float(jnp.mean(latents))) < 1e-5
    assert abs(float(jnp.std(latents)) - 1) < 1e-5


def test_a_tiny_one_learns_two_images():
    """The whole way: sampled latents, all three terms, gradients of every parameter."""
    images, objective = edges(), AutoencoderObjectiveConfig()
    params = jax.jit(partial(autoencoder.init_params, SMALL))(jax.random.key(0))
    optimizer = optax.adam(3e-3)
    loss_of = partial(autoencoder_loss, model=SMALL, objective=objective)

    @jax.jit
    def step(params, state, index):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(KEYS)
        gradient, parts = jax.grad(loss_of, has_aux=True)(params, images, keys)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, parts

    trained, state, history = params, optimizer.init(params), []
    for index in range(150):
        trained, state, parts = step(trained, state, index)
        history.append(float(parts["reconstruction_psnr_db"]))
    assert history[0] < 13
    assert np.mean(history[-10:]) > 22
    # The prior is weak: samples are kept near their means by the reconstruction.
    assert parts["posterior_std"] < 0.5 * parts["latent_std"]
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), params, trained)
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight is -1.0; allowed: 0 or more"),
        ({"edge_weight": float("nan")}, "edge_weight is nan; allowed: 0 or more"),
        ({"edge_scales": 0}, "edge_scales is 0; allowed: 1 or more"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(InvalidInput, match=message):
        AutoencoderObjectiveConfig(**change)
