"""Checkpoints as they lie on disk, and reading them: Orbax v1.

    <workdir>/checkpoints/<step>/state/                 arrays: step, params, opt_state, ema
    <workdir>/checkpoints/<step>/_CHECKPOINT_METADATA   the record: data position, config, code
                                                        version, and the checksum of every array

A step's folder appears by rename when all of it is on disk (in an object store: by a file that is
written last), so a killed save leaves the one before it as the newest. Arrays are restored into the
shardings that the caller asks for, onto whatever mesh it has; what is read is compared with its
checksums where it then lies. Saving: `saver`.

Paths go through epath: a workdir may be a folder or `gs://BUCKET/FOLDER`.
"""

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.training.checkpoint_record import (
    DamagedCheckpoint,
    DataPosition,
    Record,
    record_from_json,
)
from bokeh_jax.training.checksums import checksums
from bokeh_jax.training.sharding import placed_state
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.storage import attempt

FOLDER = "checkpoints"
# How much of a checkpoint is in memory at once where it is only looked at.
GROUP_BYTES = 1 << 30
_SHOWN_DIFFERENCES = 3

PyTree = Any
PathLike = epath.PathLike


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint of which the record and the list of arrays are read, the arrays are not.

    Attributes:
        path: its folder.
        step: updates done.
        record: what it holds besides its arrays.
        tree: nested dicts and lists of ShapeDtypeStruct.
        time: when it was complete, UTC.
    """

    path: epath.Path
    step: int
    record: Record
    tree: PyTree
    time: datetime.datetime | None


def directory(workdir: PathLike) -> epath.Path:
    """Folder of a run's checkpoints; absolute, as Orbax wants it."""
    folder = epath.Path(workdir) / FOLDER
    # epath would resolve gs://BUCKET to a local folder of the name `gs:`.
    return folder if "://" in str(workdir) else folder.expanduser().resolve()


def steps(workdir: PathLike) -> list[int]:
    """Steps of the finished checkpoints, ascending; empty when there are none."""
    folder = directory(workdir)
    if not folder.is_dir():
        return []
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(folder))


def existing_step(workdir: PathLike, step: int | None = None) -> int:
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


def parse_source(text: str) -> tuple[str, int | None]:
    """`WORKDIR@STEP` -> (WORKDIR, STEP); STEP is None where only a workdir is given."""
    workdir, at, number = text.rpartition("@")
    return (workdir, int(number)) if at and number.isdigit() else (text, None)


def _raise_on_all(path: epath.Path, problem: str | None) -> None:
    """Raises DamagedCheckpoint on every process where any has a problem.

    Otherwise one would leave and the others would wait for it.
    """
    if jax.process_count() > 1:
        found = np.asarray(multihost_utils.process_allgather(np.asarray(problem is not None)))
        if found.any() and problem is None:
            problem = f"process {np.flatnonzero(found)[0]} could not read it"
    if problem is not None:
        raise DamagedCheckpoint(path, problem)


def read_step(workdir: PathLike, step: int) -> Stored:
    """Record and list of arrays of a checkpoint; in a job, called by every process.

    Raises:
        DamagedCheckpoint: they cannot be read, or have changed since they were written.
    """
    path = directory(workdir) / str(step)

    def read() -> Stored:
        metadata = ocp.checkpointables_metadata(path)
        record = record_from_json(metadata.custom_metadata)
        tree = (metadata.metadata or {}).get("state")
        if tree is None:
            raise ValueError("its list of arrays cannot be read")
        tree = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        if leaves_by_name(tree).keys() != record.checksums.keys():
            raise ValueError("its list of arrays is not the one that was saved")
        return Stored(path, step, record, tree, metadata.commit_timestamp)

    stored, problem = attempt(read)
    _raise_on_all(path, problem)
    assert stored is not None
    return stored


def load(stored: Stored, wanted: PyTree) -> PyTree:
    """Arrays of a checkpoint, compared with their checksums; in a job, called by every process.

    Args:
        stored: the checkpoint.
        wanted: the state's tree of ShapeDtypeStruct with shardings, of the stored shapes and
            dtypes; `ocp.PLACEHOLDER` for what is not to be read (and comes back as it is).

    Raises:
        DamagedCheckpoint: they cannot be read, or are not what was saved.
    """

    def read() -> PyTree:
        loaded = ocp.load_checkpointables(stored.path, {"state": wanted})["state"]
        return jax.block_until_ready(loaded)

    loaded, problem = attempt(read)
    _raise_on_all(stored.path, problem)
    assert loaded is not None
    arrays = {name: leaf for name, leaf in leaves_by_name(loaded).items() if leaf is not ...}
    expected = stored.record.checksums
    changed = [name for name, value in checksums(arrays).items() if value != expected[name]]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DamagedCheckpoint(stored.path, f"bytes of {changed[0]}{more} have changed")
    return loaded


def on_one_device(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Whole, on this process's first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def read_in_groups(
    stored: Stored, prefix: str = "", group_bytes: int = GROUP_BYTES
) -> Iterator[dict[str, jax.Array]]:
    """Arrays whose name starts with `prefix`, a group of at most `group_bytes` (or one) at a time.

    Raises:
        DamagedCheckpoint: they cannot be read, or are not what was saved.
    """
    groups: list[set[str]] = []
    size = 0
    for name, leaf in leaves_by_name(stored.tree).items():
        if not name.startswith(prefix):
            continue
        leaf_bytes = leaf.size * leaf.dtype.itemsize
        if not groups or size + leaf_bytes > group_bytes:
            groups.append(set())
            size = 0
        groups[-1].add(name)
        size += leaf_bytes
    for group in groups:
        loaded = leaves_by_name(load(stored, only(stored.tree, group)))
        yield {name: leaf for name, leaf in loaded.items() if leaf is not ...}


def load_named(stored: Stored, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Arrays of these names, in the places of `wanted` and the types of the checkpoint.

    Raises:
        DamagedCheckpoint: they cannot be read, or are not what was saved.
    """
    flat, structure = jax.tree.flatten(stored.tree)
    leaves = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=wanted[name].sharding)
        if name in wanted
        else ocp.PLACEHOLDER
        for name, leaf in zip(leaves_by_name(stored.tree), flat, strict=True)
    ]
    loaded = leaves_by_name(load(stored, jax.tree.unflatten(structure, leaves)))
    return {name: loaded[name] for name in wanted}


def only(tree: PyTree, names: set[str]) -> PyTree:
    """What `load` wants for the arrays of these names, whole on one device, and for no others."""
    flat, structure = jax.tree.flatten(tree)
    wanted = [
        on_one_device(leaf) if name in names else ocp.PLACEHOLDER
        for name, leaf in zip(leaves_by_name(tree), flat, strict=True)
    ]
    return jax.tree.unflatten(structure, wanted)


def verify(workdir: PathLike, step: int, group_bytes: int = GROUP_BYTES) -> Stored:
    """Reads every byte of a checkpoint.

    Raises:
        DamagedCheckpoint: it is not what was saved.
    """
    stored = read_step(workdir, step)
    for _ in read_in_groups(stored, group_bytes=group_bytes):
        pass
    return stored


def load_config(workdir: PathLike, step: int) -> ExperimentConfig:
    """The config that the checkpoint was trained with."""
    return config_of(read_step(workdir, step))


def config_of(stored: Stored) -> ExperimentConfig:
    """The config of a checkpoint whose record is read already."""
    return config_lib.from_json(json.dumps(stored.record.config))


def restore(
    workdir: PathLike, step: int, config: ExperimentConfig, mesh: Mesh
) -> tuple[TrainState, DataPosition]:
    """State of a checkpoint, placed on `mesh`, and the data position saved with it.

    In a job of several processes all of them call it, and all return or all raise.

    Raises:
        DamagedCheckpoint: it is not what was saved.
        InvalidInput: it holds a model or optimizer of another shape than the config's.
    """
    stored = read_step(workdir, step)
    return restore_stored(stored, config, mesh), stored.record.position


def restore_stored(stored: Stored, config: ExperimentConfig, mesh: Mesh) -> TrainState:
    """The state alone, of a checkpoint whose record is read already; raises as `restore` does."""
    placed = placed_state(config, mesh)
    _check_same_state(stored, config, placed)
    return load(stored, placed)


def _check_same_state(stored: Stored, config: ExperimentConfig, abstract: TrainState) -> None:
    saved = config_of(stored)
    there, here = leaves_by_name(stored.tree), leaves_by_name(abstract)
    differences = []
    if saved.model != config.model:
        differences = _differences(saved.model, config.model)
    elif there.keys() != here.keys():
        differences = [
            f"{name} is only {'here' if name in here else 'there'}"
            for name in sorted(there.keys() ^ here.keys())
        ]
    else:
        differences = [
            f"{name} is {there[name].dtype}{there[name].shape} there and "
            f"{leaf.dtype}{leaf.shape} here"
            for name, leaf in here.items()
            if (leaf.shape, leaf.dtype) != (there[name].shape, there[name].dtype)
        ]
    if differences:
        more = len(differences) - _SHOWN_DIFFERENCES
        shown = ", ".join(differences[:_SHOWN_DIFFERENCES])
        raise InvalidInput(
            f"checkpoint {stored.path} is of another model or optimizer: {shown}"
            f"{f' and {more} more' if more > 0 else ''}; allowed: the config it was trained with, "
            "or another --workdir"
        )


def _differences(saved: Any, asked: Any, prefix: str = "model") -> list[str]:
    parts = []
    for field in dataclasses.fields(saved):
        old, new = getattr(saved, field.name), getattr(asked, field.name)
        if dataclasses.is_dataclass(old):
            parts += _differences(old, new, f"{prefix}.{field.name}")
        elif old != new:
            parts.append(f"{prefix}.{field.name} is {old} there and {new} here")
    return parts


def load_params(
    workdir: PathLike, step: int, *, use_ema: bool = True, placed: TrainState | None = None
) -> dict[str, Any]:
    """Parameters of a checkpoint: the EMA, or the raw ones.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        use_ema: which of the two.
        placed: shapes and places of the whole state, for a job of which all processes call; None
            for what was saved, on this process's first device.

    Raises:
        DamagedCheckpoint: they are not what was saved.
        InvalidInput: it holds other parameters than `placed`.
    """
    stored = read_step(workdir, step)
    # Only the wanted part is read: the other trees may not even fit on one device.
    part = "ema/" if use_ema else "params/"

    def named(tree: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
        leaves = leaves_by_name(tree)
        return {name: leaf for name, leaf in leaves.items() if name.startswith(part)}

    there = named(stored.tree)
    wanted = jax.tree.map(on_one_device, there) if placed is None else named(placed)
    if wrong := sorted(
        name
        for name in there.keys() | wanted.keys()
        if name not in there or name not in wanted or there[name].shape != wanted[name].shape
    ):
        raise InvalidInput(
            f"checkpoint {stored.path} and the config differ in {len(wrong)} parameter(s), first "
            f"{wrong[0]}; allowed: changes of the config that leave the network as it is"
        )
    loaded = load_named(stored, wanted)
    return tree_by_name({name.removeprefix(part): leaf for name, leaf in loaded.items()})
