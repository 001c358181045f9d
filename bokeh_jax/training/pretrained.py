"""Parameters from files of other libraries, and from runs that trained a part of the network here.

`pretrained.transformer`, `pretrained.autoencoder` and `pretrained.lora` of the config name them.
What they hold is read into the places that the run has for it: a transformer into what is trained,
or, with adapters, into what is frozen. The parts of the task 'defocus': `pretrained_runs`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop import autoencoder_names, flux_names
from bokeh_jax.interop.lora_files import read_lora
from bokeh_jax.interop.reading import load_parameters
from bokeh_jax.interop.tensor_files import open_tensor_files, read_config
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models.autoencoder_config import AUTOENCODER_SHAPE
from bokeh_jax.models.codec import CODEC
from bokeh_jax.models.lora import is_adapter
from bokeh_jax.training import checkpoint
from bokeh_jax.training.network import TRANSFORMER, fresh_network
from bokeh_jax.training.pretrained_runs import leaves_of_runs

Tree = dict[str, Any]
Leaves = dict[str, jax.Array]


def pretrained_leaves(config: ExperimentConfig, placed: Tree) -> tuple[Leaves, list[str]]:
    """Parameters of `placed` that the config's files hold, and what to say of them.

    Args:
        config: the experiment.
        placed: a part of the network's tree: shapes, types and places.

    Raises:
        InvalidInput: a file or folder is missing, damaged, or holds another network.
    """
    files = config.pretrained
    sources: list[tuple[str, Callable[[ExperimentConfig, Tree], tuple[Leaves, list[str]]]]] = [
        (files.transformer, _transformer),
        (files.autoencoder, _autoencoder),
        (files.lora, _lora),
    ]
    found: Leaves = {}
    said: list[str] = []
    for path, load in sources:
        if path:
            leaves, lines = load(config, placed)
            found |= leaves
            said += lines
    leaves, lines = leaves_of_runs(config, placed)
    return found | leaves, said + lines


def _under(tree: Tree, part: str, *, adapters: bool) -> dict[str, Any]:
    """Leaves under `part`, named from there on; adapters or the others."""
    return {
        name: leaf
        for name, leaf in leaves_by_name(tree.get(part, {})).items()
        if is_adapter(name) == adapters
    }


def _prefixed(part: str, tree: Tree) -> dict[str, Any]:
    return {f"{part}/{name}": leaf for name, leaf in leaves_by_name(tree).items()}


def _transformer(config: ExperimentConfig, placed: Tree) -> tuple[Leaves, list[str]]:
    places = _under(placed, TRANSFORMER, adapters=False)
    if not places:
        return {}, []
    path = Path(config.pretrained.transformer)
    wanted = config.model.dit_config()
    _check_fields(
        path, "model", flux_names.dit_config_from_diffusers(read_config(path)), wanted, _DIT
    )
    files = open_tensor_files(path)
    loaded, report = load_parameters(files, flux_names.flux_map(wanted), tree_by_name(places))
    return _prefixed(TRANSFORMER, loaded), report.lines()


_DIT = {
    "in_channels": "image_channels (times patch_size squared)",
    "out_channels": "image_channels (times patch_size squared)",
    "hidden_dim": "hidden_dim",
    "num_heads": "num_heads",
    "num_double_blocks": "num_double_blocks",
    "num_single_blocks": "num_single_blocks",
    "rope_axes_dim": "rope_axes_dim",
    "context_dim": "text_dim",
    "pooled_dim": "pooled_dim",
    "guidance_embed": "distilled_guidance (a number, or none)",
}


def _check_fields(
    path: Path, prefix: str, there: Any, here: Any, fields: Mapping[str, str]
) -> None:
    """Whether a folder's network has the shape of the config's.

    Raises:
        InvalidInput: it has not.
    """
    for field, key in fields.items():
        found, asked = getattr(there, field), getattr(here, field)
        if found != asked:
            raise InvalidInput(
                f"{path} has {field} {found}, the config {asked}; allowed: the same, see config "
                f"key {prefix}.{key}"
            )


def _autoencoder(config: ExperimentConfig, placed: Tree) -> tuple[Leaves, list[str]]:
    if CODEC not in placed:
        return {}, []
    source = config.pretrained.autoencoder
    workdir, step = checkpoint.parse_source(source)
    if checkpoint.steps(workdir):
        return _trained_autoencoder(config, placed[CODEC], workdir, step)
    path, wanted = Path(source), config.codec.autoencoder
    there = autoencoder_names.config_from_diffusers(read_config(path))
    keys = {field: field for field in AUTOENCODER_SHAPE}
    _check_fields(path, "codec.autoencoder", there, wanted, keys)
    files = open_tensor_files(path)
    names = autoencoder_names.autoencoder_map(wanted, files.tensors)
    loaded, report = load_parameters(files, names, placed[CODEC])
    return _prefixed(CODEC, loaded), report.lines()


def _trained_autoencoder(
    config: ExperimentConfig, placed: Tree, workdir: str, step: int | None
) -> tuple[Leaves, list[str]]:
    """Of a run with the task 'autoencoder': its average."""
    stored = checkpoint.read_step(workdir, checkpoint.existing_step(workdir, step))
    there = checkpoint.config_of(stored)
    if there.task != "autoencoder":
        raise InvalidInput(
            f"config key pretrained.autoencoder is {workdir!r}, a run with task={there.task!r}; "
            "allowed: a run with task='autoencoder', or a folder in diffusers' layout"
        )
    keys = {field: field for field in AUTOENCODER_SHAPE}
    wanted = config.codec.autoencoder
    _check_fields(Path(workdir), "codec.autoencoder", there.codec.autoencoder, wanted, keys)
    read = checkpoint.load_named(stored, _prefixed(f"ema/{CODEC}", placed))
    leaves = {name.removeprefix("ema/"): leaf for name, leaf in read.items()}
    return leaves, [f"state: {len(leaves)} parameters of the autoencoder from {stored.path}"]


def _lora(config: ExperimentConfig, placed: Tree) -> tuple[Leaves, list[str]]:
    """The first adapter's; what the file lacks of it is fresh."""
    places = _under(placed, TRANSFORMER, adapters=True)
    if not places:
        return {}, []
    path, model = Path(config.pretrained.lora), config.model.dit_config()
    start = jax.jit(lambda: _under(fresh_network(config), TRANSFORMER, adapters=True))()
    tree = tree_by_name(jax.device_get(start))
    loaded, report = read_lora(path, tree, model, model.lora.adapters[0])
    leaves = {
        f"{TRANSFORMER}/{name}": _put(values, places[name].sharding)
        for name, values in leaves_by_name(loaded).items()
    }
    return leaves, report.lines()


def _put(values: Shaped[np.ndarray, "..."], sharding: jax.sharding.Sharding) -> jax.Array:
    """Every process puts what its devices hold."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
