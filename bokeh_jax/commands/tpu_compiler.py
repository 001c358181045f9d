"""The TPU's compiler on a machine without a TPU: libtpu compiles for a description of chips."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from bokeh_jax.errors import InvalidInput

# Without these, libtpu asks the network which machine of a cloud this is, and refuses to be loaded
# by two processes at once, as the chips that it then looks for can serve only one.
_NO_CLOUD = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def topology_devices(topology: str, option: str, num_slices: int = 1) -> list[Any]:
    """Devices to compile for, none of which can run anything.

    Args:
        topology: kind and shape of one slice, such as v5e:2x2.
        option: of the command line that asked, for what is said where it is refused.
        num_slices: slices of that shape, joined by the network between hosts.

    Raises:
        InvalidInput: libtpu is missing, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InvalidInput(
            f"{option} needs libtpu, the TPU's compiler, which is not installed: "
            "pip install 'bokeh-jax[tpu-plan]'"
        )
    for name, value in _NO_CLOUD.items():
        os.environ.setdefault(name, value)
    # With libtpu installed, constants would otherwise be looked for a TPU first.
    jax.config.update("jax_platforms", "cpu")
    slices = {} if num_slices == 1 else {"num_slices": num_slices}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **slices)
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        raise InvalidInput(
            f"{option} is {topology!r}, which libtpu refuses ({said}); allowed: a shape in "
            "which that chip is sold, as in v5e:2x2"
        ) from None
    return list(found.devices)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compiles anew: JAX can cache what is compiled without a chip, but not read it back."""
    option = "jax_compilation_cache_dir"
    folder = getattr(jax.config, option)
    jax.config.update(option, None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(option, folder)
        compilation_cache.reset_cache()
