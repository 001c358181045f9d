"""Where a run starts from.

Priority of the starting state: the run's own newest checkpoint, else a fresh start; the log says
which.
"""

from pathlib import Path

import jax
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint, sharding
from bokeh_jax.training.log import log
from bokeh_jax.training.state import TrainState, abstract_state, create_state


def initial_state(
    config: ExperimentConfig, workdir: Path, mesh: Mesh, fingerprint: str
) -> tuple[TrainState, checkpoint.DataPosition]:
    """The state that the run goes on from, placed on the mesh, and the position of its next batch.

    Raises:
        InvalidInput: the newest checkpoint is of another model or dataset.
    """
    if checkpoint.steps(workdir):
        step = checkpoint.existing_step(workdir)
        state, position = checkpoint.restore(workdir, step, config, mesh)
        if position.dataset_fingerprint != fingerprint:
            raise InvalidInput(
                f"dataset {config.data.path} has fingerprint {fingerprint}; allowed: "
                f"{position.dataset_fingerprint}, with which {workdir} was trained to step {step}"
            )
        log(f"state: resumed from {workdir} at step {step}")
        return state, position
    shardings = sharding.state_shardings(mesh, abstract_state(config))
    state = jax.jit(lambda: create_state(config), out_shardings=shardings)()
    log(f"state: fresh start, seed {config.seed}")
    return state, checkpoint.DataPosition(0, config.seed, fingerprint)
