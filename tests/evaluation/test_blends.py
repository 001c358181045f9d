from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.evaluation.blends import BLENDS, blend_scores
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.objectives import to_model_range
from bokeh_jax.simulation import simulate_pairs
from bokeh_jax.training.network import fresh_network
from bokeh_jax.training.rng import example_keys, step_key
from data_pipeline.dataset import load_split

CODEC = {
    "kind": "autoencoder",
    "autoencoder": {
        "block_out_channels": (4, 4),
        "latent_channels": 3,
        "norm_num_groups": 2,
        "compute_dtype": "float32",
    },
}


@pytest.fixture(scope="module")
def scenes(dataset):
    return load_split(dataset, "eval_heldout", limit=4)


def test_pixels_blend_exactly(tiny, scenes):
    found = blend_scores(tiny, {}, scenes, 4)
    for name in BLENDS:
        assert found.psnr_db[name].mean == pytest.approx(60.0)  # the most that is told apart
    assert found.floor.mean < 1e-10
    assert found.transition_share < 1.0


def test_scores_are_those_of_loops(scenes):
    config = config_lib.resolve(
        TINY | {"codec": CODEC, "model": TINY["model"] | {"image_channels": 3}}
    )
    params = jax.jit(lambda: {"codec": fresh_network(config)["codec"]})()
    keys = example_keys(step_key(config.evaluation.seed, "blends", 0), 4)
    batch = {name: jnp.asarray(values[:2]) for name, values in scenes.items()}
    pairs = jax.jit(partial(simulate_pairs, config=config.simulation))(batch, keys[:2])
    to_latents = jax.jit(partial(encode, config.codec, params))
    to_pixels = jax.jit(partial(decode, config.codec, params))
    weights = np.asarray(pairs.weights)
    targets = np.asarray(to_model_range(pairs.targets))
    truth = (weights[..., None] * targets).sum(axis=1)
    cells = weights.reshape(2, -1, 8, 2, 8, 2).mean(axis=(3, 5))
    latents = np.stack(
        [to_latents(targets[:, i]) for i in range(targets.shape[1])],
        axis=1,
    )
    blend = (cells[..., None] * latents).sum(axis=1)
    shown = np.clip(np.asarray(to_pixels(blend)), -1, 1)
    error = (shown - np.clip(truth, -1, 1)) / 2
    whole = np.asarray(to_latents(truth))
    floor = ((blend - whole) ** 2).mean(axis=(1, 2, 3)) / whole.var(axis=(1, 2, 3))
    two = blend_scores(config, params, {n: v[:2] for n, v in scenes.items()}, 2)
    expected = -10 * np.log10((error**2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(two.psnr_db["latents blended"].mean, expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(two.floor.mean, floor.mean(), rtol=1e-3)
    codec = np.clip(np.asarray(to_pixels(whole)), -1, 1)
    apart = -10 * np.log10((((shown - codec) / 2) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(two.apart_db.mean, apart.mean(), rtol=1e-3)
    mask = (cells.max(axis=1) < 0.9).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(two.transition_share, mask.mean(), rtol=1e-5)
    assert two.psnr_db["codec"].count == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "codec.kind is 'pixels'; allowed: 'autoencoder'"),
        (["--batch=0"], "--batch is 0; allowed: 1 or more"),
        (["--batch=200"], "--batch is 200; allowed: --scenes=96 at most"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, message, capsys):
    assert main(["bench", "codec", "--config=configs/demo.py", *arguments]) == 2
    assert message in capsys.readouterr().err
