"""Whether torch's network and ours compute the same: its weights in ours, outputs and gradients.

The map from diffusers' names only moves numbers (transposes, joins, parts), so gradients go the
same way as weights, and what comes out of ours is compared array by array.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.commands.bench_train_step_ours import dit_config, forward_loss
from bokeh_jax.commands.bench_train_step_peer import Peer
from bokeh_jax.commands.bench_train_step_report import Same, Setting
from bokeh_jax.interop.flux_names import flux_map
from bokeh_jax.interop.weight_map import leaves_of
from bokeh_jax.leaf_names import tree_by_name

Weights = Mapping[str, np.ndarray]
Tree = dict[str, Any]


def compare(peer: Peer, small: Setting) -> Same:
    """Torch's small network, written by the peer, against ours with its weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "same.npz"
        peer.ask(f"same {path}")
        with np.load(path) as file:
            arrays = dict(file)
    return compare_arrays(arrays, small)


def compare_arrays(arrays: Weights, small: Setting) -> Same:
    """Output and gradients of ours against those in `arrays` (`input.*`, `param.*`, `grad.*`)."""
    config = dit_config(small)
    params = jax.tree.map(jnp.asarray, from_diffusers(_part(arrays, "param."), small))
    gradients = from_diffusers(_part(arrays, "grad."), small)
    given = _part(arrays, "input.")

    def ids(name: str) -> np.ndarray:
        return np.broadcast_to(given[name].astype(np.int32), (small.batch, *given[name].shape))

    inputs = {
        "image_tokens": given["hidden_states"],
        "image_ids": ids("img_ids"),
        "context_tokens": given["encoder_hidden_states"],
        "context_ids": ids("txt_ids"),
        "time": given["timestep"],
        "pooled": given["pooled_projections"],
        "target": given["target"],
    }
    step = jax.jit(jax.value_and_grad(forward_loss, argnums=1, has_aux=True), static_argnums=0)
    (_, output), ours = step(config, params, jax.tree.map(jnp.asarray, inputs))
    apart = jax.tree.map(_apart, ours, gradients)
    return Same(_apart(output, arrays["output"]), max(jax.tree.leaves(apart)))


def _apart(ours: Any, theirs: Float[np.ndarray, "..."]) -> float:
    """Largest difference over the largest value."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


def _part(arrays: Weights, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def from_diffusers(weights: Weights, setting: Setting) -> Tree:
    """Weights of diffusers' FluxTransformer2DModel as our transformer's parameters."""
    return tree_by_name(leaves_of(flux_map(dit_config(setting)), weights))
