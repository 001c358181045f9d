"""`bokeh-jax plan`: does the train step fit on chips that are not there, and how fast would it be?

Its arguments are here too, so nothing heavy is imported before a plan is made.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh_jax.chips import chip_of_topology
from bokeh_jax.commands.json_file import check_writable, write_figures
from bokeh_jax.errors import InvalidInput

if TYPE_CHECKING:
    from bokeh_jax.config import ExperimentConfig
    from data_pipeline.order import Shape

_SCENES = re.compile(r"(layered|photographs|latents):(\d+)x(\d+)(?:x(\d+))?")
_LARGEST_SLICES = 64


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax plan`."""
    parser.add_argument(
        "--config", required=True, help="experiment file, such as configs/dit_xl.py"
    )
    parser.add_argument(
        "--topology", required=True, metavar="TPU", help="of one slice, such as v5p:4x4x4"
    )
    parser.add_argument("--slices", type=int, default=1, help="how many slices of that shape")
    parser.add_argument(
        "--scenes",
        metavar="KIND:HxW[xLAYERS]",
        help="stored scenes, such as photographs:512x512, layered:600x600x4 or latents:64x64 "
        "(cells); default: the dataset's largest, or where there is none photographs of the size "
        "of the working frame",
    )
    parser.add_argument(
        "--without-simulation",
        action="store_true",
        help="give the step its photographs in place of scenes: the network and its update alone, "
        "which compile many times faster",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument("--program", type=Path, metavar="FILE", help="write the compiled text")
    sweep = parser.add_argument_group("sweep: several plans, ranked; each takes minutes")
    sweep.add_argument("--sweep", action="store_true", help="try the products of the lists below")
    sweep.add_argument(
        "--meshes",
        metavar="A=N[,B=M];...",
        help="mesh axes, such as 'fsdp=64;fsdp=16;fsdp=32,tensor=2' (data takes what is left); "
        "default: fsdp over all chips, a quarter, a sixteenth, and tensor=2 beside all of fsdp",
    )
    sweep.add_argument(
        "--batches",
        metavar="N,...",
        help="global batch sizes; default: the config's and its double",
    )
    sweep.add_argument("--remats", metavar="NAME,...", help="default: none,dots,full")


def plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Plans as the command line says; returns the exit code.

    Raises:
        InvalidInput: a value of the command line or the config, a file that cannot be written, no
            libtpu, or a step that does not fit.
    """
    _check(arguments)
    from bokeh_jax import config as config_lib

    config = config_lib.load(arguments.config, overrides)
    if arguments.json is not None:
        check_writable(arguments.json)
    if arguments.program is not None:
        check_writable(arguments.program, "--program")
    if arguments.sweep:
        from bokeh_jax.commands.plan_sweep import sweep

        return sweep(arguments, overrides, config)

    from bokeh_jax.commands.plan_report import as_json, print_plan
    from bokeh_jax.commands.plan_step import plan_step

    shape = scenes_shape(arguments.scenes, config)
    found = plan_step(
        config,
        arguments.topology,
        arguments.slices,
        shape,
        simulation=not arguments.without_simulation,
        program=arguments.program,
    )
    print_plan(found)
    if arguments.json is not None:
        write_figures(arguments.json, as_json(found))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    chip_of_topology(arguments.topology, "--topology")
    if not 1 <= arguments.slices <= _LARGEST_SLICES:
        raise InvalidInput(f"--slices is {arguments.slices}; allowed: 1 to {_LARGEST_SLICES}")
    for option in ("meshes", "batches", "remats"):
        value = getattr(arguments, option)
        if value is not None and not arguments.sweep:
            raise InvalidInput(f"--{option} is {value!r}; allowed only with --sweep")
    if arguments.scenes is not None and _SCENES.fullmatch(arguments.scenes) is None:
        raise InvalidInput(
            f"--scenes is {arguments.scenes!r}; allowed: such as photographs:512x512, "
            "layered:600x600x4 or latents:64x64"
        )


def scenes_shape(scenes: str | None, config: "ExperimentConfig") -> "Shape":
    """The stored scenes that the step is compiled for.

    Raises:
        InvalidInput: they are too small for the working frame.
    """
    from bokeh_jax.simulation import margin_for
    from data_pipeline.order import Shape

    if scenes is not None:
        shape = _shape_told(scenes, config)
    elif Path(config.data.path).exists():
        from bokeh_jax.training.executables import loader_config
        from data_pipeline.loader import shapes

        shape = max(
            shapes(loader_config(config)),
            key=lambda one: one.height_px * one.width_px * (1 + one.max_layers),
        )
    else:
        side_px = config.simulation.stored_size_px or config.simulation.size_px
        shape = Shape("photographs", side_px, side_px, 0, 1.0)
    if shape.latents is not None:
        return shape
    simulation, stored = config.simulation, (shape.height_px, shape.width_px)
    needed = simulation.needed_px(stored, layered=shape.kind == "layered")
    if stored[0] < needed[0] or stored[1] < needed[1]:
        margin_px = margin_for(simulation.max_radius_px(simulation.frame_of(stored)[1]))
        raise InvalidInput(
            f"scenes are {shape}; allowed: {needed[0]}x{needed[1]} px or more, which leaves "
            f"{margin_px} px for the blur around the working frame"
        )
    return shape


def _shape_told(scenes: str, config: "ExperimentConfig") -> "Shape":
    """Of `--scenes`, which `_check` has read.

    Raises:
        InvalidInput: latents without an autoencoder, or of a grid that patches do not divide.
    """
    from data_pipeline.latent_records import LatentSizes
    from data_pipeline.order import Shape

    found = _SCENES.fullmatch(scenes)
    assert found is not None
    height, width = int(found[2]), int(found[3])
    if found[1] != "latents":
        layers = int(found[4] or 4) if found[1] == "layered" else 0
        return Shape("layered" if layers else "photographs", height, width, layers, 1.0)
    patch = config.model.patch_size
    if config.codec.kind != "autoencoder":
        raise InvalidInput(
            f"--scenes is {scenes!r}; allowed with codec.kind={config.codec.kind!r}: photographs "
            "or layered scenes"
        )
    if height % patch or width % patch:
        raise InvalidInput(
            f"--scenes is {scenes!r}; allowed: multiples of model.patch_size={patch}"
        )
    sizes = LatentSizes(config.model.image_channels, config.simulation.cameras.num_targets)
    return Shape("latents", height, width, 0, 1.0, latents=sizes)
