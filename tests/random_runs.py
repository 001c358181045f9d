"""Runs that several tests read: one that was trained, and others without training.

Every weight of the others is random, and saved as training saves them.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.interop.autoencoder_names import autoencoder_map, config_to_diffusers
from bokeh_jax.interop.flux_names import diffusers_config, flux_map
from bokeh_jax.interop.writing import write_tensors
from bokeh_jax.models import LoraConfig, autoencoder, init_params
from bokeh_jax.training import sharding
from bokeh_jax.training.checkpoint import DataPosition
from bokeh_jax.training.frozen import digest, frozen_parameters
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import TrainState, abstract_state
from bokeh_jax.training.train import train

AUTOENCODER = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "scaling_factor": 0.7,
    "shift_factor": 0.2,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "compute_dtype": "float32",
}
LATENT_MODEL = TINY["model"] | {
    "patch_size": 2,
    "image_channels": 4,
    "reference_as": "tokens",
    "text_dim": 6,
    "pooled_dim": 5,
    "distilled_guidance": 3.5,
    "num_double_blocks": 2,
    "num_single_blocks": 2,
}


class Finished(NamedTuple):
    """A run of the tiny experiment and its last state; tests that change the folder copy it."""

    workdir: Path
    state: TrainState


@pytest.fixture(scope="session")
def finished(dataset, tmp_path_factory) -> Finished:
    """A run of 12 steps of `tiny` with checkpoints at 7 and 12."""
    workdir = tmp_path_factory.mktemp("finished") / "whole"
    config = config_lib.resolve(TINY | {"data": {"path": str(dataset)}})
    return Finished(workdir, train(config, workdir, visible=False).state)


def perturbed(tree, seed, scale=0.1):
    """Nothing is 0 or 1 any more, and no two values are the same."""
    rng = np.random.default_rng(seed)

    def moved(leaf):
        return (np.asarray(leaf) + rng.normal(0.0, scale, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(moved, tree)


def started(shapes, seed):
    """Such values as a network starts with, made by numpy: to compile its own start takes longer
    than all that is done with it."""
    rng = np.random.default_rng([seed, 1])

    def value(path, leaf):
        kind = path[-1].key
        if kind == "scale":
            return np.ones(leaf.shape, leaf.dtype)
        if kind != "kernel":
            return np.zeros(leaf.shape, leaf.dtype)
        # The first axis of three is that of stacked blocks; four are a convolution's.
        inputs = leaf.shape[-2] * (math.prod(leaf.shape[:-2]) if len(leaf.shape) == 4 else 1)
        return rng.normal(0.0, 0.5 * inputs**-0.5, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def save_run(workdir, config, seed=0):
    """A checkpoint of step 7; raw parameters and averaged ones differ."""
    shapes = abstract_state(config)
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
    frozen, _ = frozen_parameters(config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
    start = started(shapes.params, seed)
    state = dataclasses.replace(
        zeros, params=perturbed(start, seed), ema=perturbed(start, seed + 1)
    )
    with open_saver(workdir, config, digest(frozen)) as saver:
        saver.save(jax.device_put(state), DataPosition(7, 3, "0123456789abcdef"))
    return workdir


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory):
    """(folder with `run`, `transformer` and `autoencoder`, config): adapters on all layers."""
    folder = tmp_path_factory.mktemp("latent_run")
    config = latent_config(folder)
    save_run(folder / "run", config)
    return folder, config


def latent_config(folder):
    """Adapters on a transformer, on latents of an autoencoder; both are files in `folder`."""
    lora = {
        "rank": 2,
        "alpha": 3.0,
        "targets": ("attention", "mlp", "modulation", "embedders"),
    }
    config = config_lib.resolve(
        TINY
        | {
            "codec": {"kind": "autoencoder", "autoencoder": AUTOENCODER},
            "model": LATENT_MODEL | {"lora": lora},
            "pretrained": {
                "transformer": str(folder / "transformer"),
                "autoencoder": str(folder / "autoencoder"),
            },
            "objective": {"prediction": "velocity", "flow_source": "noise", "guide": False},
            "sampler": {"num_steps": 2, "guidance_scale": 1.3, "method": "heun"},
        }
    )
    base = dataclasses.replace(config.model, lora=LoraConfig())
    key, codec = jax.random.key(1), config.codec.autoencoder
    transformer = jax.eval_shape(lambda: init_params(base, key, 2, 2)["dit"])
    coder = jax.eval_shape(lambda: autoencoder.init_params(codec, key))
    dit = base.dit_config()
    # The run holds it in bfloat16, so the file loses nothing.
    write_tensors(
        folder / "transformer",
        flux_map(dit),
        perturbed(started(transformer, 2), 2),
        diffusers_config(dit),
        "bfloat16",
    )
    write_tensors(
        folder / "autoencoder",
        autoencoder_map(codec),
        perturbed(started(coder, 3), 3),
        config_to_diffusers(codec),
    )
    return config
