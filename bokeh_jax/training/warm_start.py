"""Starting from another run's parameters: `training.init_from`.

A parameter is taken where path and shape match; the others start fresh. Optimizer and step start
from nothing, and the average starts at the parameters. Only what matches is read, by every process
its own part, into the shardings of this run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint
from bokeh_jax.training.checksums import leaf_name, leaves_by_name
from bokeh_jax.training.sharding import placed_state, shardings_of
from bokeh_jax.training.state import TrainState, create_state, state_of_params

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Match:
    """How the parameters of a checkpoint and of this run fit.

    Attributes:
        matched: names and shapes that are in both.
        other_shape: names that are in both, with the shape there and here.
        only_here: names and shapes that start fresh.
        only_there: names and shapes that are left out.
    """

    matched: Shapes
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    only_here: Shapes
    only_there: Shapes

    def lines(self) -> list[str]:
        """One line a parameter, what matches first."""
        return (
            [f"  taken       {name} {_text(shape)}" for name, shape in self.matched.items()]
            + [
                f"  fresh       {name} {_text(here)}: {_text(there)} in the checkpoint"
                for name, (there, here) in self.other_shape.items()
            ]
            + [
                f"  fresh       {name} {_text(shape)}: not in the checkpoint"
                for name, shape in self.only_here.items()
            ]
            + [
                f"  left out    {name} {_text(shape)}: only in the checkpoint"
                for name, shape in self.only_there.items()
            ]
        )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def match(there: Shapes, here: Shapes) -> Match:
    """Compares by name and shape."""
    both = [name for name in here if name in there]
    return Match(
        matched={name: here[name] for name in both if there[name] == here[name]},
        other_shape={name: (there[name], here[name]) for name in both if there[name] != here[name]},
        only_here={name: shape for name, shape in here.items() if name not in there},
        only_there={name: shape for name, shape in there.items() if name not in here},
    )


def parse_source(text: str) -> tuple[str, int | None]:
    """`WORKDIR@STEP` -> (WORKDIR, STEP); STEP is None where only a workdir is given."""
    workdir, at, number = text.rpartition("@")
    return (workdir, int(number)) if at and number.isdigit() else (text, None)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves_by_name(params).items()}


def warm_state(config: ExperimentConfig, mesh: Mesh) -> tuple[TrainState, list[str]]:
    """The state that starts from `training.init_from`, placed on `mesh`, and what to say of it.

    In a job of several processes all of them call it.

    Raises:
        InvalidInput: no such checkpoint, it is damaged, or none of its parameters match.
    """
    settings = config.training
    workdir, step = parse_source(settings.init_from)
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
    loaded = _load_matched(stored, part, found, leaves_by_name(shardings.params))
    params = _with_fresh_rest(config, loaded, abstract.params, shardings.params)
    begin = jax.jit(lambda params: state_of_params(config, params), out_shardings=shardings)
    source = "averaged" if settings.init_from_ema else "raw"
    first = (
        f"state: {len(found.matched)} of {len(_shapes(abstract.params))} parameters from "
        f"{stored.path} ({source}); optimizer, average and step are fresh"
    )
    return begin(params), [first, *found.lines()]


def _load_matched(
    stored: checkpoint.Stored, part: str, found: Match, shardings: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """The matching parameters by name, in the dtypes of the checkpoint."""

    def wanted(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        name = leaf_name(path).removeprefix(f"{part}/")
        if path[0].key != part or name not in found.matched:
            return ocp.PLACEHOLDER
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])

    tree = jax.tree_util.tree_map_with_path(wanted, stored.tree)
    loaded = leaves_by_name(checkpoint.load(stored, tree)[part])
    return {name: loaded[name] for name in found.matched}


def _with_fresh_rest(
    config: ExperimentConfig, loaded: dict[str, jax.Array], abstract: Any, shardings: Any
) -> Any:
    """Parameters of this run: `loaded` where there is one, else as in a fresh start."""
    here, structure = leaves_by_name(abstract), jax.tree.structure(abstract)
    missing = [name for name in here if name not in loaded]
    places = leaves_by_name(shardings)

    def fresh() -> dict[str, jax.Array]:
        params = leaves_by_name(create_state(config).params)
        return {name: params[name] for name in missing}

    # What is loaded is not computed: the compiler drops it.
    leaves = jax.jit(fresh, out_shardings={name: places[name] for name in missing})()
    leaves |= {name: leaf.astype(here[name].dtype) for name, leaf in loaded.items()}
    return jax.tree.unflatten(structure, [leaves[name] for name in here])
