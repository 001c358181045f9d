"""Checkpoints: Orbax v1, asynchronous, holding state, data position and config.

    <workdir>/checkpoints/<step>/{state, data, config}

A step's folder appears by rename when all of it is on disk, so a killed save leaves the one before
it as the newest. State is restored into the shardings of an abstract tree, onto whatever mesh the
restoring job has.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.sharding import state_shardings
from bokeh_jax.training.state import TrainState, abstract_state

FOLDER = "checkpoints"
Checkpointer = ocp.training.Checkpointer


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """Where the next batch is: the data order is a function of (seed, step) alone."""

    next_step: int
    seed: int
    dataset_fingerprint: str


def _directory(workdir: str | Path) -> epath.Path:
    return epath.Path(workdir) / FOLDER


def open_checkpointer(workdir: str | Path, keep: int) -> Checkpointer:
    """Checkpointer that keeps the newest `keep`. The caller decides when to save, and closes it."""
    # Orbax's own policies do not match its protocols in the type checker's eyes.
    preservation: Any = ocp.training.preservation_policies.LatestN(keep)
    decision: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    return Checkpointer(
        _directory(workdir).resolve(),
        preservation_policy=preservation,
        save_decision_policy=decision,
        cleanup_tmp_directories=True,
    )


def save(
    checkpointer: Checkpointer,
    state: TrainState,
    position: DataPosition,
    config: ExperimentConfig,
) -> None:
    """Starts an asynchronous save of one moment: state and data position after the same update."""
    checkpointer.save_checkpointables_async(
        position.next_step,
        {
            "state": state,
            "data": dataclasses.asdict(position),
            "config": json.loads(config_lib.to_json(config)),
        },
    )


def steps(workdir: str | Path) -> list[int]:
    """Steps of the finished checkpoints, ascending; empty when there are none."""
    directory = _directory(workdir)
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit())


def _load(workdir: str | Path, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    return ocp.load_checkpointables(_directory(workdir).resolve() / str(step), abstract)


def existing_step(workdir: str | Path, step: int | None = None) -> int:
    """`step`, or the newest one where it is None.

    Raises:
        InvalidInput: the folder is missing, holds no checkpoint, or none of that step.
    """
    found = steps(workdir)
    if not found:
        raise InvalidInput(
            f"checkpoint folder {workdir} holds no checkpoint; allowed: the --workdir of a "
            "training run that has saved at least once"
        )
    if step is not None and step not in found:
        raise InvalidInput(
            f"checkpoint of step {step} is not in {workdir}; allowed: {', '.join(map(str, found))}"
        )
    return found[-1] if step is None else step


def load_config(workdir: str | Path, step: int) -> ExperimentConfig:
    """The config that the checkpoint was trained with."""
    loaded = _load(workdir, step, {"config": None})
    return config_lib.from_json(json.dumps(loaded["config"]))


def restore(
    workdir: str | Path, step: int, config: ExperimentConfig, mesh: Mesh
) -> tuple[TrainState, DataPosition]:
    """State of a checkpoint, placed on `mesh`, and the data position saved with it.

    Raises:
        InvalidInput: the checkpoint holds a model or optimizer of another shape than the config's.
    """
    saved = load_config(workdir, step)
    if saved.model != config.model:
        raise InvalidInput(
            f"checkpoint {_directory(workdir) / str(step)} is of another model: "
            f"{_difference(saved.model, config.model)}; allowed: the config it was trained with, "
            "or another --workdir"
        )
    abstract = abstract_state(config)
    shardings = state_shardings(mesh, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    loaded = _load(workdir, step, {"state": placed, "data": None})
    return loaded["state"], DataPosition(**loaded["data"])


def _difference(saved: Any, asked: Any, prefix: str = "model") -> str:
    parts = []
    for field in dataclasses.fields(saved):
        old, new = getattr(saved, field.name), getattr(asked, field.name)
        if dataclasses.is_dataclass(old):
            if old != new:
                parts.append(_difference(old, new, f"{prefix}.{field.name}"))
        elif old != new:
            parts.append(f"{prefix}.{field.name} is {old} there and {new} here")
    return ", ".join(parts)


def load_params(workdir: str | Path, step: int, *, use_ema: bool = True) -> Any:
    """Parameters of a checkpoint on this process's first device: the EMA, or the raw ones."""
    config = load_config(workdir, step)
    abstract = abstract_state(config)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )
    # Only the wanted part is read: the other trees may not even fit on one device.
    part = "ema" if use_ema else "params"
    wanted = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[0].name == part else ocp.PLACEHOLDER, placed
    )
    return getattr(_load(workdir, step, {"state": wanted})["state"], part)
