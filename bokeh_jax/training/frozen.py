"""The parameters that a run does not train: made or read once, told apart by a digest.

They are in no checkpoint: those of a large transformer would be most of it, the same every time.
They come again from the config's seed and files. A checkpoint holds a digest of their values, so a
run that goes on with others is found out.
"""

import hashlib
import json
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig, MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint, network, sharding
from bokeh_jax.training.checksums import checksums
from bokeh_jax.training.pretrained import pretrained_leaves

Tree = dict[str, Any]


def frozen_parameters(config: ExperimentConfig, mesh: Mesh) -> tuple[Tree, list[str]]:
    """What the run does not train, placed on `mesh`, and what to say of it; {} where it trains all.

    In a job of several processes all of them call it.

    Raises:
        InvalidInput: the config's files do not hold what the network needs.
    """
    placed = sharding.placed_frozen(config, mesh)
    if not jax.tree.leaves(placed):
        return {}, []
    found, said = pretrained_leaves(config, placed)
    tree = network.filled(placed, found, lambda: network.fresh_network(config))
    missing = len(jax.tree.leaves(placed)) - len(found)
    if missing:
        said.append(
            f"warning: {missing} parameters are frozen at random values, seed {config.seed}"
        )
    return tree, said


def digest(frozen: Tree) -> str:
    """Of names and values, the same on every mesh; "" of nothing."""
    if not frozen:
        return ""
    return hashlib.sha256(json.dumps(checksums(frozen), sort_keys=True).encode()).hexdigest()[:16]


def check_same(
    workdir: epath.PathLike, step: int, saved: str, here: str, config: ExperimentConfig
) -> None:
    """Whether a run goes on with the frozen parameters that it was trained with.

    Raises:
        InvalidInput: it does not.
    """
    if saved != here:
        files = config.pretrained
        raise InvalidInput(
            f"frozen parameters have digest {here or 'of none'}; allowed: {saved or 'of none'}, "
            f"with which {workdir} was trained to step {step} (config keys "
            f"pretrained.transformer={files.transformer!r}, "
            f"pretrained.autoencoder={files.autoencoder!r}, "
            f"pretrained.teacher={files.teacher!r}, pretrained.depth={files.depth!r}, "
            f"seed={config.seed})"
        )


def load_task(
    workdir: epath.PathLike,
    task: str | tuple[str, ...],
    step: int | None = None,
    *,
    use_ema: bool = True,
) -> tuple[ExperimentConfig, Tree, int]:
    """Config, network and step of a run's checkpoint, on this process's first device.

    Args:
        workdir: of the run.
        task: that it must have, or several of which it must have one.
        step: of the checkpoint; None for the newest.
        use_ema: the averaged parameters, or the raw ones.

    Raises:
        DamagedCheckpoint: it is not what was saved.
        InvalidInput: no checkpoint there, or of another task, or as `load_network`.
    """
    found = checkpoint.existing_step(workdir, step)
    config = checkpoint.load_config(workdir, found)
    tasks = (task,) if isinstance(task, str) else task
    if config.task not in tasks:
        allowed = " or ".join(map(repr, tasks))
        raise InvalidInput(f"{workdir} is a run with task={config.task!r}; allowed: {allowed}")
    return config, load_network(config, workdir, found, use_ema=use_ema), found


def load_network(
    config: ExperimentConfig,
    workdir: epath.PathLike,
    step: int,
    *,
    use_ema: bool = True,
    mesh: Mesh | None = None,
) -> Tree:
    """The whole network of a checkpoint.

    Args:
        config: the checkpoint's, or one that names other places of the same frozen parameters.
        workdir: of the run.
        step: of the checkpoint.
        use_ema: the averaged parameters, or the raw ones.
        mesh: where it is to lie, as in training; in a job of several processes all of them call.
            None is this process's first device.

    Raises:
        DamagedCheckpoint: it is not what was saved.
        InvalidInput: the frozen parameters are not those it was trained with.
    """
    if mesh is None:
        mesh = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
    trained = checkpoint.load_params(
        workdir, step, use_ema=use_ema, placed=sharding.placed_state(config, mesh)
    )
    frozen, _ = frozen_parameters(config, mesh)
    saved = checkpoint.read_step(workdir, step).record.frozen
    check_same(workdir, step, saved, digest(frozen), config)
    return network.whole(frozen, trained)
