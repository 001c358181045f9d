"""Evaluation on all devices of a job: parameters shared out, rows of a batch over the devices.

A job that evaluates need not be the job that trains: it has its own number of processes and
devices. Every process reads the questions, puts its own rows on its devices, and gets all answers
back; so every process has the same scores, and one of them writes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig, MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import sharding

Rows = Mapping[str, np.ndarray]


def evaluation_mesh(config: ExperimentConfig) -> Mesh:
    """The run's own mesh where it fits this job's devices, else all of them along `fsdp`."""
    try:
        return sharding.make_mesh(config.mesh)
    except InvalidInput:
        return sharding.make_mesh(MeshConfig(data=1, fsdp=-1))


def replicating(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, compiled; its results are whole on every device, so every process may read."""
    return jax.jit(function, out_shardings=sharding.replicated(mesh))


def key_rows(keys: jax.Array) -> np.ndarray:
    """Typed keys as rows of plain numbers, which may be cut to batches; [n, words]."""
    return np.asarray(jax.random.key_data(keys))


def batches(rows: Rows, batch_size: int, mesh: Mesh) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """(rows on the devices, how many of them count), batch by batch.

    All batches have one shape, for one compilation: `batch_size`, rounded up to what the devices
    share evenly. The last is filled up with its first row.

    Args:
        rows: by name, each with one leading axis of examples.
        batch_size: examples of a batch.
        mesh: the devices.
    """
    placed = sharding.batch_sharding(mesh)
    parts = sharding.num_batch_shards(mesh)
    size = math.ceil(batch_size / parts) * parts
    own = np.asarray(sharding.own_rows(placed, size))
    total = len(next(iter(rows.values())))
    for start in range(0, total, size):
        count = min(size, total - start)
        which = start + np.where(own < count, own, 0)
        yield sharding.put_batch({name: v[which] for name, v in rows.items()}, placed), count


def collected(parts: list[tuple[dict[str, jax.Array], int]]) -> dict[str, np.ndarray]:
    """Answers of all batches on the host, without the rows that filled them up."""
    names = parts[0][0]
    return {
        name: np.concatenate([np.asarray(answers[name])[:count] for answers, count in parts])
        for name in names
    }
