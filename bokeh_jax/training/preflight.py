"""What is checked before anything is compiled or written: workdir and dataset."""

import tempfile
from pathlib import Path

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.simulation import margin_for
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
    """The dataset fits the config: it has the split, and scenes wide enough for frame and margin.

    Raises:
        InvalidInput: it does not.
    """
    info = dataset_info(Path(config.data.path))
    simulation = config.simulation
    margin_px = margin_for(simulation.max_radius_px) if info.kind == "layered" else 0
    needed_px = simulation.size_px + 2 * margin_px
    if info.size_px < needed_px:
        raise InvalidInput(
            f"dataset {config.data.path} has scenes of {info.size_px} px; allowed: {needed_px} px "
            f"or more for simulation.size_px={simulation.size_px} with blur radii up to "
            f"{simulation.max_radius_px:g} px"
        )
    if config.data.split not in info.counts:
        raise InvalidInput(
            f"config key data.split is {config.data.split!r}; allowed: {', '.join(info.counts)}"
        )
    return info
