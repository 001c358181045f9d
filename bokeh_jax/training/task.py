"""What an experiment trains: its task's objective as one function of (parameters, batch, keys)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.models.codec import CODEC
from bokeh_jax.objectives import autoencoder_loss, refocus_loss, to_model_range
from bokeh_jax.objectives.depth import depth_loss
from bokeh_jax.objectives.distribution_matching import distribution_matching_loss
from bokeh_jax.objectives.exif_defocus import exif_defocus_loss
from bokeh_jax.objectives.generate import generate_loss
from bokeh_jax.objectives.matching_config import Networks
from bokeh_jax.simulation import simulate_pairs

PyTree = Any
Parts = dict[str, Float[Array, ""]]
# (the whole network's parameters, scene batch, one key a scene) -> (loss, its parts)
Loss = Callable[[PyTree, dict[str, Any], Key[Array, " b"]], tuple[Float[Array, ""], Parts]]


def loss_of(config: ExperimentConfig) -> Loss:
    """The objective of the experiment's task; pure."""
    if config.task == "autoencoder":
        return functools.partial(_reconstruction, config=config)
    if config.task == "generate":
        return functools.partial(
            generate_loss,
            model=config.model,
            text=config.text,
            simulation=config.simulation,
            generation=config.generation,
            codec=config.codec,
        )
    if config.task == "depth":
        return functools.partial(
            depth_loss,
            model=config.depth,
            simulation=config.simulation,
            objective=config.depth_objective,
        )
    if config.task == "defocus":
        return functools.partial(
            distribution_matching_loss,
            networks=matching_networks(config),
            matching=config.matching,
            simulation=config.simulation,
        )
    if config.task == "focus":
        return functools.partial(exif_defocus_loss, model=config.focus, objective=config.exif)
    return functools.partial(
        refocus_loss,
        model=config.model,
        simulation=config.simulation,
        objective=config.objective,
        codec=config.codec,
    )


def matching_networks(config: ExperimentConfig) -> Networks:
    """The parts of the task 'defocus'."""
    return Networks(
        model=config.model,
        text=config.text,
        generation=config.generation,
        depth=config.depth,
        focus=config.focus,
        head=config.head,
        codec=config.codec,
    )


def _reconstruction(
    params: PyTree, batch: dict[str, Any], keys: Key[Array, " b"], *, config: ExperimentConfig
) -> tuple[Float[Array, ""], Parts]:
    """The autoencoder's objective of all photographs that are simulated of the scenes."""
    images = photographs(batch, keys, config)
    indices = jnp.arange(images.shape[0] // keys.shape[0])
    own = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(indices))(keys)
    return autoencoder_loss(
        params[CODEC],
        images,
        own.reshape(-1),
        model=config.codec.autoencoder,
        objective=config.reconstruction,
    )


def photographs(
    batch: dict[str, Any], keys: Key[Array, " b"], config: ExperimentConfig
) -> Float[Array, "n h w 3"]:
    """References and targets of a scene batch in the model's range, scene by scene."""
    pairs = simulate_pairs(batch, keys, config.simulation)
    every = jnp.concatenate((pairs.reference[:, None], pairs.targets), axis=1)
    return to_model_range(every.reshape(-1, *every.shape[2:]))
