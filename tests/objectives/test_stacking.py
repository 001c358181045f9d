from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.models import AutoencoderConfig, CodecConfig, autoencoder
from bokeh_jax.models.codec import CODEC, decode, encode, to_grid
from bokeh_jax.objectives import stacking_loss
from bokeh_jax.objectives.stacking import blends
from bokeh_jax.optics import stack

LATENTS = CodecConfig(
    kind="autoencoder",
    autoencoder=AutoencoderConfig(
        block_out_channels=(4, 4),
        latent_channels=2,
        norm_num_groups=2,
        scaling_factor=0.7,
        shift_factor=0.3,
        compute_dtype="float32",
    ),
)


def test_stacking_loss_against_loops():
    rng = np.random.default_rng(0)
    predicted, targets = rng.normal(size=(2, 2, 3, 2, 4, 3)).astype(np.float32)
    weights = rng.uniform(size=(2, 3, 2, 4)).astype(np.float32)
    time_weight = np.array([0.3, 1.0], np.float32)
    total = 0.0
    for scene in range(2):
        squares = []
        for row in range(2):
            for column in range(4):
                for channel in range(3):
                    blend = sum(
                        weights[scene, i, row, column]
                        * (predicted - targets)[scene, i, row, column, channel]
                        for i in range(3)
                    )
                    squares.append(blend**2)
        total += time_weight[scene] * np.mean(squares) / 2
    found = stacking_loss(
        jnp.asarray(predicted),
        stack(jnp.asarray(targets), jnp.asarray(weights)),
        jnp.asarray(weights),
        jnp.asarray(time_weight),
    )
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_stacking_sees_only_the_blend():
    """Errors that cancel in the blend are free; the same errors with one sign are not."""
    truth = jnp.zeros((1, 4, 4, 3))
    weights = jnp.full((1, 2, 4, 4), 0.5)
    error = jnp.stack([jnp.ones((4, 4, 3)), -jnp.ones((4, 4, 3))])[None]
    one = jnp.ones(1)
    assert float(stacking_loss(error, truth, weights, one)) == 0.0
    assert float(stacking_loss(jnp.abs(error), truth, weights, one)) == 1.0


@pytest.fixture(scope="module")
def drawn():
    """Random latents, photographs and weights, with the parameters of a random autoencoder."""
    keys = jax.random.split(jax.random.key(3), 5)
    params = jax.jit(lambda key: autoencoder.init_params(LATENTS.autoencoder, key))(keys[0])
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(keys[1], x.shape), params)
    targets = jax.random.uniform(keys[2], (2, 3, 8, 12, 3), minval=-1.0)
    samples = jax.random.normal(keys[3], (2, 3, 4, 6, 2))
    weights = jax.nn.softmax(jax.random.normal(keys[4], (2, 3, 8, 12)), axis=1)
    network = {CODEC: params}
    flat = jax.jit(partial(encode, LATENTS))(network, targets.reshape(6, 8, 12, 3))
    return network, samples, flat.reshape(samples.shape), targets, weights


def test_maps_come_to_cells_as_means():
    maps = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    cells = np.asarray(to_grid(LATENTS, jnp.asarray(maps)))
    for row in range(2):
        for column in range(3):
            cell = maps[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(cells[:, row, column], cell.mean(axis=(1, 2)), atol=1e-6)


def test_the_papers_form_compares_with_the_latent_of_the_blend(drawn):
    network, samples, truths, targets, weights = drawn
    blended, truth, cells = blends(network, samples, truths, targets, weights, LATENTS, "latents")
    np.testing.assert_array_equal(blended, samples)
    np.testing.assert_allclose(cells.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(truth, encode(LATENTS, network, stack(targets, weights)))
    # A blend of latents is another thing, also of the truth's.
    assert float(jnp.abs(stack(truths, cells) - truth).max()) > 1e-2


def test_the_other_two_forms_are_fulfilled_by_the_truth(drawn):
    network, _, truths, targets, weights = drawn
    one = jnp.ones(2)
    exact = blends(network, truths, truths, targets, weights, LATENTS, "blended_latents")
    assert float(stacking_loss(*exact, one)) == 0.0
    decoded = decode(LATENTS, network, truths.reshape(6, 4, 6, 2)).reshape(targets.shape)
    pixels = blends(network, truths, truths, decoded, weights, LATENTS, "pixels")
    np.testing.assert_allclose(stacking_loss(*pixels, one), 0.0, atol=1e-12)
    assert pixels[1].shape == (2, 8, 12, 3)


@pytest.mark.parametrize("space", ["latents", "blended_latents", "pixels"])
def test_in_pixels_all_forms_are_one(space, drawn):
    _, _, _, targets, weights = drawn
    samples = targets + 0.1
    found = blends({}, samples, targets, targets, weights, CodecConfig(), space)
    np.testing.assert_allclose(stacking_loss(*found, jnp.ones(2)), 0.01, rtol=1e-4)
