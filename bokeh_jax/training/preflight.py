"""What is checked before anything is compiled or written: workdir and dataset."""

import tempfile
from pathlib import Path

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import DatasetInfo, dataset_info


def check_writable(workdir: Path) -> None:
    """Creates the folder and proves that it can be written.

    Raises:
        InvalidInput: it cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise InvalidInput(
            f"workdir {workdir} is not writable ({error.strerror}); allowed: a folder that this "
            "user may create and write"
        ) from None


def write_config(workdir: Path, config: ExperimentConfig) -> None:
    """Leaves the whole config in the run's folder: written beside, then renamed."""
    temporary = workdir / "config.json.tmp"
    temporary.write_text(config_lib.to_json(config) + "\n", encoding="utf-8")
    temporary.replace(workdir / "config.json")


def check_dataset(config: ExperimentConfig) -> DatasetInfo:
    """The dataset fits the config: it has the split, and frames wide enough for working frames.

    Raises:
        InvalidInput: it does not.
    """
    info = dataset_info(Path(config.data.path))
    simulation = config.simulation
    if config.data.split not in info.splits:
        raise InvalidInput(
            f"config key data.split is {config.data.split!r}; allowed: {', '.join(info.splits)}"
        )
    for group in info.splits[config.data.split]:
        stored = (group.height_px, group.width_px)
        needed = simulation.needed_px(stored, layered=group.kind == "layered")
        if stored[0] < needed[0] or stored[1] < needed[1]:
            frame = simulation.frame_of(stored)
            raise InvalidInput(
                f"dataset {config.data.path} has {group.kind} scenes of {stored[0]}x{stored[1]} "
                f"px; allowed: {needed[0]}x{needed[1]} px or more, for working frames of "
                f"{frame[0]}x{frame[1]} px (simulation.size_px={simulation.size_px}) with blur "
                f"radii up to {simulation.max_radius_px(frame[1]):g} px"
            )
    check_patches(config)
    return info


def check_patches(config: ExperimentConfig) -> None:
    """Working frames are cut into patches without a rest.

    Raises:
        InvalidInput: they are not.
    """
    multiple_px = config.simulation.frame_multiple_px
    if multiple_px % config.model.patch_size:
        raise InvalidInput(
            f"config key simulation.frame_multiple_px is {multiple_px}; allowed: multiples of "
            f"model.patch_size={config.model.patch_size}"
        )


def source_weights(config: ExperimentConfig) -> dict[str, float]:
    """`data.source_weights` by name.

    Raises:
        InvalidInput: an entry is not NAME=NUMBER.
    """
    weights = {}
    for entry in config.data.source_weights:
        name, equals, number = entry.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            equals = ""
        if not (name and equals and weights[name] >= 0):
            raise InvalidInput(
                f"config key data.source_weights has {entry!r}; allowed: NAME=NUMBER, 0 or more"
            )
    return weights
