"""Starting from another run's parameters: `training.init_from`.

A parameter is taken where path and shape match; the others start fresh. Optimizer and step start
from nothing, and the average starts at the parameters. Only what matches is read, by every process
its own part, into the shardings of this run.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name, match
from bokeh_jax.training import checkpoint
from bokeh_jax.training.network import filled
from bokeh_jax.training.sharding import placed_state, shardings_of
from bokeh_jax.training.state import TrainState, create_state, state_of_params


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves_by_name(params).items()}


def warm_state(config: ExperimentConfig, mesh: Mesh) -> tuple[TrainState, list[str]]:
    """The state that starts from `training.init_from`, placed on `mesh`, and what to say of it.

    In a job of several processes all of them call it.

    Raises:
        InvalidInput: no such checkpoint, it is damaged, or none of its parameters match.
    """
    settings = config.training
    workdir, step = checkpoint.parse_source(settings.init_from)
    stored = checkpoint.read_step(workdir, checkpoint.existing_step(workdir, step))
    part = "ema" if settings.init_from_ema else "params"
    abstract = placed_state(config, mesh)
    shardings = shardings_of(abstract)
    found = match(_shapes(stored.tree[part]), _shapes(abstract.params))
    if not found.matched:
        raise InvalidInput(
            f"config key training.init_from is {settings.init_from!r}, of whose "
            f"{len(found.only_there) + len(found.other_shape)} parameters none has a name and "
            "shape of this model; allowed: a run of a model that shares some"
        )
    places = leaves_by_name(abstract.params)
    read = checkpoint.load_named(stored, {f"{part}/{name}": places[name] for name in found.matched})
    loaded = {name: read[f"{part}/{name}"].astype(places[name].dtype) for name in found.matched}
    params = filled(abstract.params, loaded, lambda: create_state(config).params)
    begin = jax.jit(lambda params: state_of_params(config, params), out_shardings=shardings)
    source = "averaged" if settings.init_from_ema else "raw"
    first = (
        f"state: {len(found.matched)} of {len(_shapes(abstract.params))} parameters from "
        f"{stored.path} ({source}); optimizer, average and step are fresh"
    )
    return begin(params), [first, *found.lines()]
