"""Pictures of a run of the task 'defocus': what is made of a caption and a camera."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.objectives.generate import to_model_range_of_bytes
from bokeh_jax.objectives.lens_chain import photographs_made
from bokeh_jax.training.task import matching_networks


def defocus_columns(
    params: Any, batch: dict[str, Array], keys: Key[Array, " b"], config: ExperimentConfig
) -> list[Float[Array, "b h w 3"]]:
    """Scene, its disparity, the photograph of it, and a real one with the same caption and EXIF."""
    real = to_model_range_of_bytes(batch["photograph"])
    taken = photographs_made(
        params,
        batch,
        keys,
        networks=matching_networks(config),
        matching=config.matching,
        in_use=True,
    )
    grey = jnp.repeat(2.0 * taken.disparity[..., None] - 1.0, 3, axis=-1)
    return [taken.scene, grey, taken.photograph, real]
