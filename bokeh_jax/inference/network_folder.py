"""A network as a folder of plain files: how the released one is kept, and any run's can be.

    config.json         the experiment's config, the step, whether parameters are averaged
    model.safetensors   every parameter of the network by its own name, such as dit/img_in/kernel

`bokeh-jax export --format=jax` writes one; `Refocuser.from_checkpoint` takes one in place of a
run's folder. `RELEASED` comes with the package.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.tensor_files import CONFIG_FILE, open_tensor_files, read_config
from bokeh_jax.interop.writing import FILE_DTYPES, FileDtype, write_file, write_json
from bokeh_jax.leaf_names import leaves_by_name, match, tree_by_name
from bokeh_jax.training.network import fresh_network

PyTree = Any
WEIGHTS_FILE = "model.safetensors"
RELEASED = Path(__file__).parent / "released"


def is_network_folder(path: Path) -> bool:
    """Whether a folder holds a network, and is not that of a run."""
    return (path / WEIGHTS_FILE).is_file()


def write_network(
    folder: Path,
    config: ExperimentConfig,
    params: PyTree,
    *,
    step: int,
    use_ema: bool,
    dtype: FileDtype = "bfloat16",
) -> None:
    """Writes both files into a folder that exists.

    Args:
        folder: where.
        config: the run's.
        params: the whole network's parameters.
        step: of the run.
        use_ema: whether `params` are averaged; said in the file.
        dtype: of the file; values are rounded to it.
    """
    leaves, numpy_dtype = leaves_by_name(params), FILE_DTYPES[dtype]
    write_file(
        folder / WEIGHTS_FILE,
        {name: leaf.shape for name, leaf in leaves.items()},
        numpy_dtype,
        lambda name: np.asarray(leaves[name]).astype(numpy_dtype),
    )
    tree = json.loads(config_lib.to_json(config))
    write_json(folder / CONFIG_FILE, {"config": tree, "step": step, "ema": use_ema})


def read_network(folder: Path) -> tuple[ExperimentConfig, PyTree, int]:
    """(config, parameters in float32, step) of a folder that `write_network` wrote.

    Raises:
        InvalidInput: a file is missing, damaged or of another network than the config says.
    """
    fields = read_config(folder)
    if not isinstance(fields.get("config"), dict) or not isinstance(fields.get("step"), int):
        raise InvalidInput(
            f"{folder / CONFIG_FILE} lacks 'config' or 'step'; allowed: what `bokeh-jax export "
            "--format=jax` writes"
        )
    config = config_lib.resolve(fields["config"])
    files = open_tensor_files(folder / WEIGHTS_FILE)
    wanted = leaves_by_name(jax.eval_shape(lambda: fresh_network(config)))
    found = match(
        {name: info.shape for name, info in files.tensors.items()},
        {name: leaf.shape for name, leaf in wanted.items()},
    )
    if len(found.matched) < max(len(wanted), len(files.tensors)):
        raise InvalidInput(
            f"{folder / WEIGHTS_FILE} holds {len(found.matched)} of the network's {len(wanted)} "
            f"parameters and {len(files.tensors) - len(found.matched)} others; allowed: those of "
            "its config.json"
        )
    leaves = {
        name: jnp.asarray(files.read(name).astype(np.float32), leaf.dtype)
        for name, leaf in wanted.items()
    }
    return config, tree_by_name(leaves), fields["step"]
