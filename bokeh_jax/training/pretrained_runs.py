"""Parts of the task 'defocus' that other runs here have trained.

    pretrained.generator    task 'generate', all-in-focus images     → dit, text
    pretrained.teacher      task 'generate', photographs and EXIF    → teacher, and as a start fake
    pretrained.depth        task 'depth'                             → depth
    pretrained.focus        task 'focus' or 'defocus'                → focus

Averaged parameters are taken, of the newest checkpoint or of WORKDIR@STEP. What is not trained is
read anew at every start and found out by its digest (`frozen`); the rest is read once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models.focus_transformer import FOCUS
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.distribution_matching import FAKE, TEACHER, teacher_settings
from bokeh_jax.training import checkpoint

Tree = dict[str, Any]
Leaves = dict[str, jax.Array]

# Speed and memory, and what happens in training only: not what a network is.
_OWN = ("compute_dtype", "remat", "attention", "scan_blocks")
_OF_TRAINING = ("weighting", "least_time", "time", "text_dropout_rate", "exif_dropout_rate")


@dataclasses.dataclass(frozen=True)
class _Source:
    """A config key that names a run, and which part of it goes where.

    Attributes:
        key: of `pretrained`.
        tasks: of which the run must have one.
        prefixes: of this run's names, each with what stands in its place in the other's.
        same: config groups of which the values must be the same.
    """

    key: str
    tasks: tuple[str, ...]
    prefixes: Mapping[str, str]
    same: tuple[str, ...]


_GENERATOR = ("model", "text", "generation")
_SOURCES = (
    _Source("generator", ("generate",), {"dit/": "dit/", "text/": "text/"}, _GENERATOR),
    _Source("teacher", ("generate",), {f"{TEACHER}/": "", f"{FAKE}/": ""}, _GENERATOR),
    _Source("depth", ("depth",), {f"{DEPTH}/": f"{DEPTH}/"}, ("depth",)),
    _Source("focus", ("focus", "defocus"), {f"{FOCUS}/": f"{FOCUS}/"}, ("focus",)),
)


def leaves_of_runs(config: ExperimentConfig, placed: Tree) -> tuple[Leaves, list[str]]:
    """Parameters of `placed` that the config's runs hold, and what to say of them.

    Args:
        config: the experiment.
        placed: a part of the network's tree: shapes, types and places.

    Raises:
        DamagedCheckpoint: a checkpoint is not what was saved.
        InvalidInput: no checkpoint there, or of another task or network.
    """
    found: Leaves = {}
    said: list[str] = []
    for source in _SOURCES:
        named = getattr(config.pretrained, source.key)
        if not named:
            continue
        if config.task != "defocus":
            raise InvalidInput(
                f"config key pretrained.{source.key} is {named!r} with task={config.task!r}; "
                "allowed: '', as only task='defocus' has that part"
            )
        leaves, lines = _read(config, source, named, leaves_by_name(placed))
        found |= leaves
        said += lines
    return found, said


def _read(
    config: ExperimentConfig, source: _Source, named: str, places: Mapping[str, Any]
) -> tuple[Leaves, list[str]]:
    there_of = {
        name: f"ema/{there}{name.removeprefix(here)}"
        for here, there in source.prefixes.items()
        for name in places
        if name.startswith(here)
    }
    if not there_of:
        return {}, []
    workdir, step = checkpoint.parse_source(named)
    stored = checkpoint.read_step(workdir, checkpoint.existing_step(workdir, step))
    _check_same(config, source, named, checkpoint.config_of(stored))
    leaves: Leaves = {}
    # One part after the other: teacher and fake score are the same arrays there.
    for here in source.prefixes:
        part = {there: name for name, there in there_of.items() if name.startswith(here)}
        read = checkpoint.load_named(stored, {there: places[name] for there, name in part.items()})
        leaves |= {name: read[there].astype(places[name].dtype) for there, name in part.items()}
    return leaves, [f"state: {len(leaves)} parameters of the {source.key} from {stored.path}"]


def _check_same(
    config: ExperimentConfig, source: _Source, named: str, there: ExperimentConfig
) -> None:
    """Whether a run has the task and the network that the config says.

    Raises:
        InvalidInput: it has not.
    """
    key = f"config key pretrained.{source.key}"
    if there.task not in source.tasks:
        allowed = " or ".join(f"task={task!r}" for task in source.tasks)
        raise InvalidInput(
            f"{key} is {named!r}, a run with task={there.task!r}; allowed: {allowed}"
        )
    for group in source.same:
        here = getattr(config, group)
        if source.key == "teacher" and group == "generation":
            here = teacher_settings(here)
        has = dataclasses.asdict(getattr(there, group))
        for field, wanted in dataclasses.asdict(here).items():
            if field not in (*_OWN, *_OF_TRAINING) and has[field] != wanted:
                raise InvalidInput(
                    f"{key} is {named!r}, which has {group}.{field}={has[field]!r}; allowed: "
                    f"{wanted!r}"
                )
    if there.codec != config.codec:
        raise InvalidInput(f"{key} is {named!r}, which has another codec; allowed: the config's")
