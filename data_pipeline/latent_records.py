"""Scenes as an autoencoder's latents: arrays by name, as one safetensors text in a record.

What the arrays mean is objectives/latents.py's affair; here are their names, types and shapes, for
a grid of r rows and s columns, c channels and m targets.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow_datasets as tfds
from safetensors import SafetensorError

from data_pipeline.source import LatentScene


@dataclasses.dataclass(frozen=True)
class LatentSizes:
    """Sizes of latents beside their grid's.

    Attributes:
        channels: c.
        num_targets: m.
    """

    channels: int
    num_targets: int


def latent_arrays(
    frame: tuple[int, int], sizes: LatentSizes
) -> dict[str, tuple[tuple[int, ...], type[np.floating[Any]]]]:
    """Return shape and type of every array of a scene, by name."""
    m, c = sizes.num_targets, sizes.channels
    return {
        "reference": ((*frame, c), np.float16),
        "multi": ((*frame, c), np.float16),
        "targets": ((m, *frame, c), np.float16),
        "guess": ((2, m, *frame, c), np.float16),
        "weights": ((m, *frame), np.float16),
        "target_defocus": ((m, *frame), np.float16),
        "reference_defocus": (frame, np.float16),
        "cameras": ((m, 4), np.float32),
    }


@functools.cache
def latent_features() -> tfds.features.FeaturesDict:
    """What a record of latents holds, described."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "latents": text(doc="safetensors: float16 and float32 arrays by name"),
            "caption": text(doc="what is seen; empty where unknown"),
            "provenance": text(doc="JSON: what the scene was made from"),
            "source": text(doc="the source's name"),
        }
    )


def encode_latents(scene: LatentScene) -> bytes:
    """Return the arrays' bytes."""
    return safetensors.numpy.save(dict(scene.values))


def decode_latents(values: Mapping[str, Any], frame: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return a record's arrays.

    Raises:
        ValueError: they cannot be read, or are not those of a grid of this height and width.
    """
    try:
        arrays = safetensors.numpy.load(values["latents"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"its latents: {error}") from error
    check_latents(arrays, frame)
    return arrays


def check_latents(arrays: Mapping[str, np.ndarray], frame: tuple[int, int]) -> None:
    """Check names, shapes, types and values.

    Raises:
        ValueError: one is wrong.
    """
    targets = arrays.get("targets")
    if targets is None or targets.ndim != 4:
        raise ValueError("its latents have no targets [m, r, s, c]")
    wanted = latent_arrays(frame, LatentSizes(targets.shape[-1], len(targets)))
    if set(arrays) != set(wanted):
        raise ValueError(f"its latents have {', '.join(sorted(arrays))}, not {', '.join(wanted)}")
    for name, (shape, dtype) in wanted.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"its {name} has {found.dtype} {list(found.shape)}, "
                f"not {np.dtype(dtype).name} {list(shape)}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"its {name} has values that are not finite")
