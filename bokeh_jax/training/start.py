"""Where a run starts from.

Priority: the run's own newest checkpoint, else `training.init_from`, else what the config's
`pretrained` files hold, else a fresh start; the log says which. A newest checkpoint that is damaged
ends the job, with the name of the newest that is whole; `--restore=latest_good` goes on from that
one and moves the damaged ones aside.

All processes of a job take the same decision: the first one says which checkpoints there are, and
what one cannot read is damaged for all.
"""

from typing import Literal

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint, hosts, sharding, warm_start
from bokeh_jax.training.checkpoint_record import DamagedCheckpoint
from bokeh_jax.training.frozen import check_same
from bokeh_jax.training.log import log
from bokeh_jax.training.network import filled
from bokeh_jax.training.pretrained import pretrained_leaves
from bokeh_jax.training.state import TrainState, create_state, state_of_params

Restore = Literal["latest", "latest_good"]


def initial_state(
    config: ExperimentConfig,
    workdir: epath.PathLike,
    mesh: Mesh,
    fingerprint: str,
    restore: Restore = "latest",
    frozen: str = "",
) -> tuple[TrainState, checkpoint.DataPosition]:
    """The state that the run goes on from, placed on the mesh, and the position of its next batch.

    Args:
        config: of the run.
        workdir: of the run.
        mesh: of its devices.
        fingerprint: of its dataset.
        restore: what to do where the newest checkpoint is damaged.
        frozen: digest of the parameters that are not trained.

    Raises:
        InvalidInput: the newest checkpoint is damaged, or of another model or dataset; or
            `training.init_from` or a pretrained file holds nothing that fits.
    """
    steps = _agreed_steps(workdir)
    if steps:
        return _resumed(config, workdir, mesh, fingerprint, frozen, restore, steps)
    if config.training.init_from:
        state, said = warm_start.warm_state(config, mesh)
        log("\n".join(said))
    else:
        state, said = _first_state(config, mesh)
        log("\n".join(said))
    return state, checkpoint.DataPosition(0, config.seed, fingerprint)


def _first_state(config: ExperimentConfig, mesh: Mesh) -> tuple[TrainState, list[str]]:
    """The state of a run that starts at pretrained or random values, and what to say of it."""
    placed = sharding.placed_state(config, mesh)
    places = sharding.shardings_of(placed)
    found, said = pretrained_leaves(config, placed.params)
    if not found:
        state = jax.jit(lambda: create_state(config), out_shardings=places)()
        return state, [*said, f"state: fresh start, seed {config.seed}"]
    params = filled(placed.params, found, lambda: create_state(config).params)
    begin = jax.jit(lambda params: state_of_params(config, params), out_shardings=places)
    count = len(jax.tree.leaves(params))
    return begin(params), [*said, f"state: {len(found)} of {count} parameters are pretrained"]


def _agreed_steps(workdir: epath.PathLike) -> list[int]:
    """Steps of the checkpoints that process 0 sees."""
    steps = checkpoint.steps(workdir)
    if jax.process_count() == 1:
        return steps
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    padded = np.resize(np.asarray([*steps, 0], np.int32), count)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tolist()


def _resumed(
    config: ExperimentConfig,
    workdir: epath.PathLike,
    mesh: Mesh,
    fingerprint: str,
    frozen: str,
    restore: Restore,
    steps: list[int],
) -> tuple[TrainState, checkpoint.DataPosition]:
    damaged: list[DamagedCheckpoint] = []
    for step in reversed(steps):
        try:
            stored = checkpoint.read_step(workdir, step)
            # Asked before arrays are read: a run of other data ends here, whole or not.
            _check_same_data(config, workdir, stored, fingerprint)
            check_same(workdir, step, stored.record.frozen, frozen, config)
            state = checkpoint.restore_stored(stored, config, mesh)
        except DamagedCheckpoint as error:
            damaged.append(error)
            log(f"checkpoint {error.path} is damaged: {error.reason}")
            continue
        if damaged and restore == "latest":
            raise InvalidInput(
                f"newest checkpoint {damaged[0].path} is damaged ({damaged[0].reason}); the newest "
                f"whole one is step {step}; allowed: --restore=latest_good, which goes on from it"
            )
        _move_aside(damaged)
        if stored.record.code_version != hosts.code_version():
            log(f"code: another version than the checkpoint's, {stored.record.code_version[:12]}")
        log(f"state: resumed from {workdir} at step {step}")
        return state, stored.record.position
    raise InvalidInput(
        f"all {len(damaged)} checkpoints of {workdir} are damaged, the newest: "
        f"{damaged[0].reason}; allowed: at least one that is whole, or another --workdir"
    )


def _check_same_data(
    config: ExperimentConfig, workdir: epath.PathLike, stored: checkpoint.Stored, fingerprint: str
) -> None:
    saved = stored.record.position.dataset_fingerprint
    if saved != fingerprint:
        raise InvalidInput(
            f"dataset {config.data.path} has fingerprint {fingerprint}; allowed: {saved}, with "
            f"which {workdir} was trained to step {stored.step}"
        )


def _move_aside(damaged: list[DamagedCheckpoint]) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again; nothing is removed."""
    if not damaged:
        return
    if jax.process_index() == 0:
        for error in damaged:
            aside = _free_name(epath.Path(error.path))
            epath.Path(error.path).rename(aside)
            log(f"checkpoint {error.path} is now {aside.name}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are moved aside")


def _free_name(path: epath.Path) -> epath.Path:
    """`12.damaged`, or `12.damaged.2` where that is taken, and so on."""
    name, number = f"{path.name}.damaged", 1
    while (path.parent / name).exists():
        number += 1
        name = f"{path.name}.damaged.{number}"
    return path.parent / name
