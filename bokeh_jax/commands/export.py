"""`bokeh-jax export`: a run's network as files for PyTorch, diffusers or PEFT, or for our own use.

The folder appears whole or not at all, and nothing in it is a pickle. What can be refused without
the weights is refused before they are read.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.network_folder import write_network
from bokeh_jax.interop import autoencoder_names, flux_names
from bokeh_jax.interop.lora_files import FORMS, write_lora
from bokeh_jax.interop.merged import merged_parts
from bokeh_jax.interop.tensor_files import CONFIG_FILE
from bokeh_jax.interop.torch_export import Export, write_export
from bokeh_jax.interop.torch_names import added_map
from bokeh_jax.interop.writing import (
    FileDtype,
    check_new,
    new_folder,
    write_json,
    write_shards,
)
from bokeh_jax.models import RefocusConfig
from bokeh_jax.models.codec import CODEC
from bokeh_jax.training import checkpoint
from bokeh_jax.training.frozen import load_network
from bokeh_jax.training.network import TRANSFORMER

Tree = dict[str, Any]

_DTYPES: dict[str, FileDtype] = {"float32": "float32", "bf16": "bfloat16"}
_ADDED_STEM = "bokeh_extra"
_MEGABYTE = 1e6


def export_run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the folder and says what is in it."""
    step = checkpoint.existing_step(arguments.checkpoint, arguments.step)
    config = checkpoint.load_config(arguments.checkpoint, step)
    config = config_lib.resolve(json.loads(config_lib.to_json(config)), overrides)
    _check(config, arguments)
    check_new(arguments.out)
    use_ema = not arguments.raw
    export = described(config, step, use_ema=use_ema)
    dtype, write = _DTYPES[arguments.dtype], _WRITERS[arguments.format]
    tree = load_network(config, arguments.checkpoint, step, use_ema=use_ema)
    with new_folder(arguments.out) as folder:
        write(folder, tree, config, export, dtype)
    _say(arguments.out, step, use_ema)
    return 0


def _check(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """What can be refused before anything is read.

    Raises:
        InvalidInput: a run or a network that the format does not have.
    """
    if config.task != "refocus":
        raise InvalidInput(
            f"{arguments.checkpoint} is a run with task={config.task!r}; allowed: 'refocus'"
        )
    if arguments.format == "jax":
        return
    if config.model.reference_sees != "all":
        raise InvalidInput(
            f"model.reference_sees is {config.model.reference_sees!r}; allowed: 'all', the only "
            "attention that the exported networks have"
        )
    if arguments.format == "torch":
        return
    problems = _not_of_flux(config.model)
    if problems:
        raise InvalidInput(
            f"--format is {arguments.format!r} and the network is not of FLUX's shape "
            f"({', '.join(problems)}); allowed: --format=torch for this one"
        )
    if arguments.format == "peft" and not config.model.lora.rank:
        raise InvalidInput(
            "--format is 'peft' and the network has no adapters (model.lora.rank is 0); allowed: "
            "torch, diffusers"
        )


def _not_of_flux(model: RefocusConfig) -> list[str]:
    """Fields that no transformer of diffusers' FLUX has, and what they would have to be."""
    wanted = {
        "reference_as": (model.reference_as == "tokens", "'tokens'"),
        "text_dim": (model.text_dim is not None, "a number"),
        "pooled_dim": (model.pooled_dim is not None, "a number"),
        "mlp_ratio": (model.mlp_ratio == 4.0, "4.0"),
        "rope_theta": (model.rope_theta == 10_000.0, "10000.0"),
    }
    return [
        f"model.{name} is {getattr(model, name)!r}, not {value}"
        for name, (fits, value) in wanted.items()
        if not fits
    ]


def described(config: ExperimentConfig, step: int, *, use_ema: bool) -> Export:
    """What files say of a run's network beside its tensors."""
    objective, sampler = config.objective, config.sampler
    return Export(
        model=config.model,
        codec=config.codec,
        prediction=objective.prediction,
        guide=objective.guide,
        flow_source=objective.flow_source,
        source_noise=objective.source_noise,
        method=sampler.method,
        num_steps=sampler.num_steps,
        guidance_scale=sampler.guidance_scale,
        size_px=config.simulation.size_px,
        name=config.name,
        step=step,
        ema=use_ema,
    )


def _write_torch(
    folder: Path, tree: Tree, config: ExperimentConfig, export: Export, dtype: FileDtype
) -> None:
    write_export(folder, export, merged_parts(tree, config.model.lora), dtype=dtype)


def _write_jax(
    folder: Path, tree: Tree, config: ExperimentConfig, export: Export, dtype: FileDtype
) -> None:
    write_network(folder, config, tree, step=export.step, use_ema=export.ema, dtype=dtype)


def _write_diffusers(
    folder: Path, tree: Tree, config: ExperimentConfig, export: Export, dtype: FileDtype
) -> None:
    dit = config.model.dit_config()
    transformer = folder / "transformer"
    transformer.mkdir()
    write_json(transformer / CONFIG_FILE, flux_names.diffusers_config(dit))
    fetch = merged_parts(tree[TRANSFORMER], config.model.lora)
    write_shards(transformer, flux_names.flux_map(dit), fetch, dtype)
    if CODEC in tree:
        autoencoder = config.codec.autoencoder
        vae = folder / "vae"
        vae.mkdir()
        write_json(vae / CONFIG_FILE, autoencoder_names.config_to_diffusers(autoencoder))
        write_shards(vae, autoencoder_names.autoencoder_map(autoencoder), tree[CODEC], dtype)
    _write_added(folder, tree, export, dtype)


def write_adapters(
    folder: Path, tree: Tree, config: ExperimentConfig, export: Export, dtype: FileDtype
) -> None:
    """Both forms side by side; several adapters have folders of their own."""
    dit, names = config.model.dit_config(), config.model.lora.adapters
    for name in names:
        place = folder if len(names) == 1 else folder / name
        place.mkdir(exist_ok=True)
        for form in FORMS:
            written = folder / f".{form}"
            write_lora(written, tree[TRANSFORMER], dit, name, form=form, dtype=dtype)
            for file in written.iterdir():
                file.rename(place / file.name)
            written.rmdir()
    _write_added(folder, tree, export, dtype)


def _write_added(folder: Path, tree: Tree, export: Export, dtype: FileDtype) -> None:
    """What FLUX does not have, by the names of the torch export, and that export's config."""
    write_shards(folder, added_map(export.model), tree, dtype, stem=_ADDED_STEM)
    write_json(folder / f"{_ADDED_STEM}.json", export.to_json())


_Writer = Callable[[Path, Tree, ExperimentConfig, Export, FileDtype], None]
_WRITERS: dict[str, _Writer] = {
    "jax": _write_jax,
    "torch": _write_torch,
    "diffusers": _write_diffusers,
    "peft": write_adapters,
}


def _say(folder: Path, step: int, use_ema: bool) -> None:
    which = "averaged" if use_ema else "raw"
    print(f"{folder}: {which} parameters of step {step}")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}, {path.stat().st_size / _MEGABYTE:,.2f} MB")
