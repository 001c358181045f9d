"""Which ν the deconvolution is best with, on scenes of training: a program.

    python tests/evaluation/deconvolution_noise.py DATA [SIZE_PX]

The reference of every scene is defocused and rounded to 8 bits; what is asked for is all in focus.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax import config as config_lib
from bokeh_jax.evaluation.deconvolution import deconvolve
from bokeh_jax.evaluation.metrics import mean_with_interval, psnr_db
from bokeh_jax.evaluation.suite import task_simulation
from bokeh_jax.optics import linear_to_srgb, srgb_to_linear
from bokeh_jax.simulation import simulate_pairs
from bokeh_jax.training.rng import example_keys, step_key
from configs.demo import get_config
from data_pipeline.dataset import load_split

NOISES = (0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
COUNT = 64


def main(data: str, size_px: str = "32") -> None:
    """Prints a line for every ν."""
    config = config_lib.resolve(get_config())
    simulation = dataclasses.replace(
        task_simulation(config.simulation, "deblur"), size_px=int(size_px)
    )
    scenes = load_split(Path(data), "train", limit=COUNT)
    keys = example_keys(step_key(3, "noise", 0), COUNT)
    pairs = jax.jit(lambda batch, keys: simulate_pairs(batch, keys, simulation))(scenes, keys)
    encoded = jnp.round(255.0 * linear_to_srgb(pairs.reference)) / 255.0
    truth = np.asarray(linear_to_srgb(pairs.targets[:, 0]))
    radius_px = pairs.cameras.reference.signed_radius_px(pairs.disparity)
    bound_px = simulation.max_radius_px(pairs.disparity.shape[2])
    print(f"unchanged {mean_with_interval(psnr_db(np.asarray(encoded), truth))} dB")
    for noise in NOISES:
        sharp = jax.jit(
            lambda image, radius, noise=noise: deconvolve(
                image, radius, max_radius_px=bound_px, noise_to_signal=noise
            )
        )(srgb_to_linear(encoded), radius_px)
        found = np.asarray(linear_to_srgb(jnp.clip(sharp, 0.0, 1.0)))
        print(f"{noise:g} {mean_with_interval(psnr_db(found, truth))} dB", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
